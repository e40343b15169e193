#include "inspect/state_report.h"

#include "guest/cpu_state.h"
#include "inspect/disassembly.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/ram.h"

#include <fmt/format.h>
#include <array>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

namespace ring3 {
namespace {

using Out = std::back_insert_iterator<std::string>;

constexpr unsigned instructions_shown = 6;
constexpr unsigned longest_instruction = 15;

std::string_view vector_name(u8 vector) {
  constexpr std::array<std::string_view, 20> names{"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "",
                                                   "#TS", "#NP", "#SS", "#GP", "#PF", "",    "#MF", "#AC", "#MC", "#XM"};
  return vector < names.size() ? names[vector] : std::string_view{};
}

void put_segment(Out out, std::string_view name, const SegmentCache& s) {
  fmt::format_to(out, "{:<4} {:04x} base {:08x} limit {:08x} type {:x} {}{} dpl {}{}\n", name, s.selector, s.base, s.limit, s.type(),
                 s.is_code_or_data() ? (s.is_code() ? "code" : "data") : "system", s.big() ? " 32" : " 16", s.dpl(),
                 s.usable() ? "" : " unusable");
}

std::string flag_names(u32 eflags) {
  constexpr std::pair<u32, std::string_view> names[] = {
      {flag::cf, "CF"}, {flag::pf, "PF"}, {flag::af, "AF"}, {flag::zf, "ZF"}, {flag::sf, "SF"}, {flag::tf, "TF"}, {flag::if_, "IF"},
      {flag::df, "DF"}, {flag::of, "OF"}, {flag::nt, "NT"}, {flag::rf, "RF"}, {flag::vm, "VM"}, {flag::ac, "AC"}, {flag::id, "ID"}};
  std::string text;
  for (const auto& [bit, name] : names) {
    if ((eflags & bit) == 0) continue;
    if (!text.empty()) text += ' ';
    text += name;
  }
  return text;
}

std::string mode_text(const CpuState& cpu) {
  if (!cpu.protected_mode()) return "real mode";
  if (cpu.v8086()) return "v8086 mode";
  const std::string_view paging = !cpu.paging() ? "no paging" : (cpu.cr4 & cr4::pae) != 0 ? "PAE paging" : "two-level paging";
  return fmt::format("protected mode, {}-bit code, CPL {}, IOPL {}, {}", cpu.segment(Seg::cs).big() ? 32 : 16, cpu.cpl, cpu.iopl(), paging);
}

// As many of the bytes at `linear` as are mapped to RAM.
std::vector<u8> bytes_at(const Memory& memory, const GuestRam& ram, u32 linear, unsigned wanted) {
  std::vector<u8> bytes;
  for (unsigned i = 0; i < wanted; ++i) {
    const auto where = memory.peek(linear + i);
    if (!where || !where->ram || !ram.contains(where->address, 1)) break;
    bytes.push_back(*ram.at(where->address));
  }
  return bytes;
}

void put_code(Out out, const CpuState& cpu, const Memory& memory, const GuestRam& ram) {
  const SegmentCache& cs = cpu.segment(Seg::cs);
  const std::vector<u8> bytes = bytes_at(memory, ram, cs.base + cpu.eip, instructions_shown * longest_instruction);
  fmt::format_to(out, "code at EIP ({:04x}:{:08x}):\n", cs.selector, cpu.eip);
  if (bytes.empty()) fmt::format_to(out, "  not mapped to memory\n");
  u32 at = 0;
  for (unsigned i = 0; i < instructions_shown && at < bytes.size(); ++i) {
    const u32 eip = cpu.eip + at;
    const DisassembledLine line = disassemble(std::span(bytes).subspan(at), eip, cs.big() ? CodeWidth::bits32 : CodeWidth::bits16);
    fmt::format_to(out, "  {:08x}  {:<30} {}\n", eip, line.bytes, line.text);
    at += line.length;
  }
}

void put_exceptions(Out out, std::span<const ExceptionRecord> last) {
  if (last.empty()) return;
  fmt::format_to(out, "last exceptions, oldest first:\n");
  for (const ExceptionRecord& e : last) {
    fmt::format_to(out, "  {:3} {:<3} at {:04x}:{:08x}", e.vector, vector_name(e.vector), e.cs, e.eip);
    if (e.has_error_code) fmt::format_to(out, " error code {:x}", e.error_code);
    if (e.vector == static_cast<u8>(Vector::page)) fmt::format_to(out, " address {:08x}", e.address);
    fmt::format_to(out, "\n");
  }
}

}  // namespace

std::string state_report(const CpuState& cpu, const Memory& memory, const GuestRam& ram, std::span<const ExceptionRecord> last) {
  std::string text;
  const Out out = std::back_inserter(text);
  const auto& r = cpu.gpr;
  fmt::format_to(out, "guest state: {}{}\n", mode_text(cpu), cpu.halted ? ", halted" : "");
  fmt::format_to(out, "EAX {:08x}  EBX {:08x}  ECX {:08x}  EDX {:08x}\n", r[eax], r[ebx], r[ecx], r[edx]);
  fmt::format_to(out, "ESI {:08x}  EDI {:08x}  EBP {:08x}  ESP {:08x}\n", r[esi], r[edi], r[ebp], r[esp]);
  fmt::format_to(out, "EIP {:08x}  EFLAGS {:08x} [{}]\n", cpu.eip, cpu.eflags, flag_names(cpu.eflags));
  constexpr std::string_view names[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
  for (unsigned i = 0; i < segment_count; ++i) put_segment(out, names[i], cpu.seg[i]);
  put_segment(out, "LDTR", cpu.ldtr);
  put_segment(out, "TR", cpu.tr);
  fmt::format_to(out, "GDTR base {:08x} limit {:04x}  IDTR base {:08x} limit {:04x}\n", cpu.gdtr.base, cpu.gdtr.limit, cpu.idtr.base,
                 cpu.idtr.limit);
  fmt::format_to(out, "CR0 {:08x}  CR2 {:08x}  CR3 {:08x}  CR4 {:08x}  EFER {:x}\n", cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.efer);
  put_code(out, cpu, memory, ram);
  put_exceptions(out, last);
  return text;
}

}  // namespace ring3
