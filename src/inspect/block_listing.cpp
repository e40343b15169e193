#include "inspect/block_listing.h"

#include "codecache/code_cache.h"
#include "inspect/disassembly.h"
#include "inspect/host_names.h"

#include <fmt/format.h>
#include <string_view>
#include <utility>

namespace ring3 {
namespace {

// A block is at least as long as the patch that kills it, so that bytes may stand behind its code that are none. Ways out take more.
constexpr u32 most_padding = 15;

std::string name_of_place(const Block& block, const CodeCache& cache, const NameOfBlock& name_of_block, u64 host) {
  if (!cache.region().contains(host)) {
    return host == reinterpret_cast<u64>(cache.counter(block)) ? "execution counter" : std::string();
  }
  const u64 offset = host - cache.base();
  if (std::string name = stub_name(cache.stubs(), offset); !name.empty()) return name;
  if (std::string name = name_of_block(host); !name.empty()) return name;
  if (offset < block.host_offset || offset - block.host_offset >= block.host_size) return {};
  const u64 inside = offset - block.host_offset;
  for (const u32 number : block.exits()) {
    const CodeCache::Exit& exit = cache.exit(number);
    if (exit.stub_offset == offset) return fmt::format("exit {:08x}", exit.target);
  }
  return fmt::format("+{:#x}", inside);
}

class Lister {
 public:
  Lister(const Block& block, const CodeCache& cache, const NameOfBlock& name_of_block)
      : block_(block),
        host_(cache.base() + block.host_offset),
        name_of_([&block, &cache, &name_of_block](u64 host) { return name_of_place(block, cache, name_of_block, host); }) {}

  // The host code at [from, to), offsets in the block.
  [[nodiscard]] std::vector<HostLine> host_lines(u32 from, u32 to) const {
    std::vector<HostLine> lines;
    while (from < to) {
      const std::span<const u8> code(reinterpret_cast<const u8*>(host_ + from), to - from);
      DisassembledLine line = disassemble_emitted(code, host_ + from, name_of_);
      lines.push_back({from, std::move(line.text)});
      from += line.length;
    }
    return lines;
  }

  [[nodiscard]] std::string guest_line(const InsnPoint& point, u32 length, std::span<const u8> guest) const {
    const u32 linear = block_.key.linear + point.guest_offset;
    if (point.guest_offset + length > guest.size()) return fmt::format("{:08x}  (not in memory)", linear);
    const CodeWidth width = (block_.key.mode & mode::code32) != 0 ? CodeWidth::bits32 : CodeWidth::bits16;
    const auto line = disassemble(guest.subspan(point.guest_offset), linear - block_.key.cs_base, width);
    std::string text = fmt::format("{:08x}  {:<24}{}", linear, line.bytes, line.text);
    if (!point.emitted) text += "  [interpreted]";
    if (line.length != length) text += "  [changed since it was translated]";
    return text;
  }

 private:
  const Block& block_;
  u64 host_;
  NameOfPlace name_of_;
};

}  // namespace

std::vector<ListedInsn> list_block(const Block& block, const CodeCache& cache, std::span<const u8> guest,
                                   const NameOfBlock& name_of_block) {
  const Lister lister(block, cache, name_of_block);
  std::vector<ListedInsn> out;
  PointReader reader(block.points);
  InsnPoint point = reader.next();
  if (point.host_offset != 0) out.push_back({"(entry)", lister.host_lines(0, point.host_offset)});
  for (u32 i = 0; i < block.insn_count(); ++i) {
    const InsnPoint next = reader.next();
    const u32 length = static_cast<u32>(next.guest_offset) - point.guest_offset;
    out.push_back({lister.guest_line(point, length, guest), lister.host_lines(point.host_offset, next.host_offset)});
    point = next;
  }
  const u32 behind = point.host_offset;
  if (block.host_size - behind > most_padding) out.push_back({"(exits)", lister.host_lines(behind, block.host_size)});
  return out;
}

std::string mode_names(u32 bits) {
  constexpr std::pair<u32, std::string_view> names[] = {{mode::code32, "code32"},
                                                        {mode::stack32, "stack32"},
                                                        {mode::user, "user"},
                                                        {mode::cpl0, "cpl0"},
                                                        {mode::v8086, "v8086"},
                                                        {mode::trap, "trap"},
                                                        {mode::protected_mode, "protected"},
                                                        {mode::cs_flat, "cs-flat"},
                                                        {mode::ds_es_ss_flat, "data-flat"},
                                                        {mode::osfxsr, "osfxsr"},
                                                        {mode::tsc_faults, "tsc-faults"},
                                                        {mode::x87_unmasked, "x87-unmasked"},
                                                        {mode::window, "window"},
                                                        {mode::low_window, "low-window"}};
  std::string text;
  const auto add = [&text](std::string_view name) {
    if (!text.empty()) text += ' ';
    text += name;
  };
  for (const auto& [bit, name] : names) {
    if ((bits & bit) == 0) continue;
    add(name);
    bits &= ~bit;
  }
  if (bits != 0) add(fmt::format("{:#x}", bits));
  return text;
}

}  // namespace ring3
