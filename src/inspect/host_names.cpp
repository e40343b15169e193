#include "inspect/host_names.h"

#include "translator/contract.h"
#include "translator/stubs.h"

#include <fmt/format.h>
#include <array>
#include <string_view>
#include <utility>

namespace ring3 {
namespace {

using namespace contract;

constexpr std::pair<i32, std::string_view> fields[] = {{offset::eip, "eip"},
                                                       {offset::poll, "poll"},
                                                       {offset::pending, "pending"},
                                                       {offset::fpu_gate, "fpu_gate"},
                                                       {offset::x87_pointer, "x87_pointer"},
                                                       {offset::always_valid, "always_valid"},
                                                       {offset::if_flag, "if_flag"},
                                                       {offset::system_flags, "system_flags"},
                                                       {offset::host_flags, "host_flags"},
                                                       {offset::exit_reason, "exit_reason"},
                                                       {offset::exit_argument, "exit_argument"},
                                                       {offset::host_stack, "host_stack"},
                                                       {offset::resume_at, "resume_at"},
                                                       {offset::context, "context"},
                                                       {offset::return_stack, "return_stack"},
                                                       {offset::interpreter, "interpreter"},
                                                       {offset::engine, "engine"},
                                                       {offset::emitted_stack, "emitted_stack"},
                                                       {offset::fill, "fill"},
                                                       {offset::cr0, "cr0"},
                                                       {offset::cr2, "cr2"},
                                                       {offset::cr3, "cr3"},
                                                       {offset::cr4, "cr4"},
                                                       {offset::tsc_offset, "tsc_offset"},
                                                       {offset::tsc_aux, "tsc_aux"},
                                                       {offset::fpu_live, "fpu_live"},
                                                       {offset::fpu, "fpu"}};
constexpr std::array<std::string_view, 8> registers{"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
constexpr std::array<std::string_view, segment_count> segments{"es", "cs", "ss", "ds", "fs", "gs"};

}  // namespace

std::string field_name(i64 at) {
  for (const auto& [offset, name] : fields) {
    if (offset == at) return std::string(name);
  }
  for (unsigned i = 0; i < registers.size(); ++i) {
    if (at == offset::gpr + static_cast<i32>(i * 4)) return std::string(registers[i]);
  }
  for (unsigned i = 0; i < segments.size(); ++i) {
    if (at == offset::segment_gate + static_cast<i32>(i * 8)) return fmt::format("segment_gate.{}", segments[i]);
    const i64 check = at - offset::segment_check(i);
    if (check == offsetof(SegmentCheck, read_room)) return fmt::format("read_room.{}", segments[i]);
    if (check == offsetof(SegmentCheck, write_room)) return fmt::format("write_room.{}", segments[i]);
    if (check == offsetof(SegmentCheck, lower)) return fmt::format("lower.{}", segments[i]);
    if (check == offsetof(SegmentCheck, base)) return fmt::format("base.{}", segments[i]);
    if (at == offset::selector(i)) return fmt::format("selector.{}", segments[i]);
  }
  return at < 0 ? fmt::format("cpu-{:#x}", -at) : fmt::format("cpu+{:#x}", at);
}

std::string stub_name(const Stubs& stubs, u64 at) {
  const std::pair<u32, std::string_view> all[] = {{stubs.miss, "miss"},
                                                  {stubs.exit_link, "exit_link"},
                                                  {stubs.exit_lookup, "exit_lookup"},
                                                  {stubs.jump, "jump_by_table"},
                                                  {stubs.exit_interpret, "exit_interpret"},
                                                  {stubs.interpret, "interpret"},
                                                  {stubs.exit_fault, "exit_fault"},
                                                  {stubs.look_up[0], "look_up_read"},
                                                  {stubs.look_up[1], "look_up_write"},
                                                  {stubs.look_up_crossing[0], "look_up_crossing_read"},
                                                  {stubs.look_up_crossing[1], "look_up_crossing_write"},
                                                  {stubs.load_segment[0], "load_es"},
                                                  {stubs.load_segment[3], "load_ds"},
                                                  {stubs.load_segment[4], "load_fs"},
                                                  {stubs.load_segment[5], "load_gs"},
                                                  {stubs.short_rep[0][0], "short_stosb"},
                                                  {stubs.short_rep[0][2], "short_stosd"},
                                                  {stubs.short_rep[1][0], "short_movsb"},
                                                  {stubs.short_rep[1][2], "short_movsd"},
                                                  {stubs.load_task, "load_task"},
                                                  {stubs.cpuid, "cpuid"},
                                                  {stubs.sysenter, "sysenter"},
                                                  {stubs.sysexit, "sysexit"},
                                                  {stubs.iret, "iret"},
                                                  {stubs.software_interrupt[0], "interrupt_from_ring0"},
                                                  {stubs.software_interrupt[1], "interrupt_from_ring3"},
                                                  {stubs.enter, "enter"}};
  for (const auto& [offset, name] : all) {
    if (offset == at) return std::string(name);
  }
  return {};
}

}  // namespace ring3
