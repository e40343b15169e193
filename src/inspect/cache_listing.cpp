#include "inspect/cache_listing.h"

#include "codecache/code_cache.h"
#include "inspect/disassembly.h"
#include "runtime/memory/ram.h"

#include <fmt/format.h>
#include <algorithm>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ring3 {
namespace {

using Out = std::back_insert_iterator<std::string>;

std::string mode_text(u32 bits) {
  constexpr std::pair<u32, std::string_view> names[] = {{mode::code32, "code32"},
                                                        {mode::stack32, "stack32"},
                                                        {mode::user, "user"},
                                                        {mode::cpl0, "cpl0"},
                                                        {mode::v8086, "v8086"},
                                                        {mode::trap, "trap"},
                                                        {mode::protected_mode, "protected"},
                                                        {mode::cs_flat, "cs-flat"},
                                                        {mode::ds_es_ss_flat, "data-flat"},
                                                        {mode::osfxsr, "osfxsr"}};
  std::string text;
  for (const auto& [bit, name] : names) {
    if ((bits & bit) == 0) continue;
    if (!text.empty()) text += ' ';
    text += name;
  }
  return text;
}

// The block's guest bytes; fewer if they do not lie in RAM.
std::vector<u8> guest_bytes(const Block& block, const GuestRam& ram) {
  std::vector<u8> bytes;
  for (u32 i = 0; i < block.guest_length; ++i) {
    const u64 in_page = page_size - (block.key.physical & page_mask);
    const PhysAddr at{i < in_page ? block.key.physical + i : (block.second_page & ~u64{page_mask}) + (i - in_page)};
    if (!ram.contains(at, 1)) break;
    bytes.push_back(*ram.at(at));
  }
  return bytes;
}

std::vector<std::string> host_lines(u64 from, u64 to) {
  std::vector<std::string> lines;
  while (from < to) {
    const std::span<const u8> code(reinterpret_cast<const u8*>(from), to - from);
    const DisassembledLine line = disassemble(code, from, CodeWidth::bits64);
    lines.push_back(fmt::format("{:x}  {}", from, line.text));
    from += line.length;
  }
  return lines;
}

// One guest instruction on the left, its host code on the right, over as many lines as it takes.
void put_beside(Out out, std::string_view guest, const std::vector<std::string>& host) {
  for (size_t i = 0; i < std::max<size_t>(host.size(), 1); ++i)
    fmt::format_to(out, "  {:<66} | {}\n", i == 0 ? guest : "", i < host.size() ? host[i] : "");
}

void put_code(Out out, const Block& block, const CodeCache& cache, const GuestRam& ram) {
  const std::vector<u8> guest = guest_bytes(block, ram);
  const u64 host = cache.base() + block.host_offset;
  const CodeWidth width = (block.key.mode & mode::code32) != 0 ? CodeWidth::bits32 : CodeWidth::bits16;
  if (!block.points.empty() && block.points[0].host_offset != 0)
    put_beside(out, "(entry)", host_lines(host, host + block.points[0].host_offset));
  for (size_t i = 0; i + 1 < block.points.size(); ++i) {
    const InsnPoint& point = block.points[i];
    std::string left = "(not in memory)";
    if (point.guest_offset < guest.size()) {
      const u32 linear = block.key.linear + point.guest_offset;
      const DisassembledLine line = disassemble(std::span(guest).subspan(point.guest_offset), linear - block.key.cs_base, width);
      left = fmt::format("{:08x}  {:<24}{}{}", linear, line.bytes, line.text, point.emitted ? "" : "  [interpreted]");
    }
    put_beside(out, left, host_lines(host + point.host_offset, host + block.points[i + 1].host_offset));
  }
  const u32 behind = block.points.empty() ? 0 : block.points.back().host_offset;
  if (behind < block.host_size) put_beside(out, "(exits)", host_lines(host + behind, host + block.host_size));
}

void put_block(Out out, const Block& block, const CodeCache& cache, const GuestRam& ram) {
  fmt::format_to(out, "block at {:x}: physical {:08x} linear {:08x}", cache.base() + block.host_offset, block.key.physical,
                 block.key.linear);
  if (block.crosses_page) fmt::format_to(out, " second page {:08x}", block.second_page);
  fmt::format_to(out, " mode [{}]\n  {} guest instructions, {} bytes to {}", mode_text(block.key.mode), block.insn_count(),
                 block.guest_length, block.host_size);
  if (block.counter != nullptr) fmt::format_to(out, ", executed {} times", *block.counter);
  fmt::format_to(out, ", linked from {} exits\n", block.incoming.size());
  for (const u32 number : block.exits) {
    const CodeCache::Exit& exit = cache.exit(number);
    fmt::format_to(out, "  exit to {:08x}: ", exit.site.target);
    if (exit.to != nullptr)
      fmt::format_to(out, "linked to {:x}\n", cache.base() + exit.to->host_offset);
    else
      fmt::format_to(out, "not linked\n");
  }
  put_code(out, block, cache, ram);
  fmt::format_to(out, "\n");
}

}  // namespace

void write_cache_listing(const CodeCache& cache, const GuestRam& ram, const std::function<bool(std::string_view)>& out) {
  for (const Block& block : cache.blocks()) {
    if (!block.valid) continue;
    std::string text;
    put_block(std::back_inserter(text), block, cache, ram);
    if (!out(text)) return;
  }
}

}  // namespace ring3
