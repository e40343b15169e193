#include "inspect/cache_listing.h"

#include "codecache/code_cache.h"
#include "inspect/block_listing.h"
#include "runtime/memory/ram.h"

#include <fmt/format.h>
#include <algorithm>
#include <iterator>
#include <string>
#include <tuple>
#include <vector>

namespace ring3 {
namespace {

using Out = std::back_insert_iterator<std::string>;

u64 executions(const CodeCache& cache, const Block& block) {
  const u64* counter = cache.counter(block);
  return counter == nullptr ? 0 : *counter;
}

double ratio(u64 host, u64 guest) { return guest == 0 ? 0.0 : static_cast<double>(host) / static_cast<double>(guest); }

// The block's guest bytes; fewer if they do not lie in RAM.
std::vector<u8> guest_bytes(const Block& block, const CodeCache& cache, const GuestRam& ram) {
  std::vector<u8> bytes;
  const u64 in_page = page_size - (block.key.physical & page_mask);
  for (u32 i = 0; i < block.guest_length; ++i) {
    const PhysAddr at{i < in_page ? block.key.physical + i : cache.second_page(block) + (i - in_page)};
    if (!ram.contains(at, 1)) break;
    bytes.push_back(*ram.at(at));
  }
  return bytes;
}

std::string name_of_block(const CodeCache& cache, u64 host) {
  const u64 offset = host - cache.base();
  const auto& blocks = cache.blocks();
  const auto it = std::lower_bound(blocks.begin(), blocks.end(), offset, [](const Block& b, u64 o) { return b.host_offset < o; });
  return it != blocks.end() && it->host_offset == offset ? fmt::format("-> block {:08x}", it->key.linear) : std::string();
}

std::vector<const Block*> in_order(const CodeCache& cache) {
  std::vector<const Block*> blocks;
  for (const Block& block : cache.blocks()) {
    if (block.valid) blocks.push_back(&block);
  }
  std::sort(blocks.begin(), blocks.end(), [&cache](const Block* a, const Block* b) {
    return std::make_tuple(executions(cache, *b), a->key.linear, a->host_offset) <
           std::make_tuple(executions(cache, *a), b->key.linear, b->host_offset);
  });
  return blocks;
}

std::string totals(const CodeCache& cache, const std::vector<const Block*>& blocks) {
  u64 guest = 0;
  u64 host = 0;
  u64 instructions = 0;
  u64 executed = 0;
  bool counted = false;
  for (const Block* block : blocks) {
    guest += block->guest_length;
    host += block->host_size;
    instructions += block->insn_count();
    executed += executions(cache, *block);
    counted |= cache.counter(*block) != nullptr;
  }
  std::string text = fmt::format("{} blocks, {} more invalidated since the cache was last emptied\n", blocks.size(),
                                 cache.blocks().size() - blocks.size());
  fmt::format_to(std::back_inserter(text), "{} guest instructions, {} bytes to {}, expansion {:.2f}\n", instructions, guest, host,
                 ratio(host, guest));
  if (counted) fmt::format_to(std::back_inserter(text), "executed {} times together\n", executed);
  fmt::format_to(std::back_inserter(text), "{} of {} bytes of the cache in use, code at {:#x}\n\n", cache.next_offset(),
                 cache.region().size(), cache.base());
  return text;
}

void put_links(Out out, const Block& block, const CodeCache& cache) {
  for (const u32 number : block.exits()) {
    const CodeCache::Exit& exit = cache.exit(number);
    fmt::format_to(out, "  to   {:08x}: {}\n", exit.target, exit.to != Block::none ? "linked" : "not linked");
  }
  for (u32 number = block.incoming; number != Block::none; number = cache.exit(number).next) {
    const CodeCache::Exit& exit = cache.exit(number);
    const Block& from = cache.blocks()[exit.from];
    fmt::format_to(out, "  from {:08x}: exit at +{:#x}\n", from.key.linear, exit.patch_offset - from.host_offset);
  }
}

void put_head(Out out, const Block& block, const CodeCache& cache) {
  fmt::format_to(out, "block {:08x}: physical {:08x} host {:#x}", block.key.linear, block.key.physical, cache.base() + block.host_offset);
  if (block.crosses_page) fmt::format_to(out, ", crosses into page {:08x}", cache.second_page(block));
  if (block.uses_fpu) fmt::format_to(out, ", uses the FPU");
  fmt::format_to(out, "\n  mode {}\n  {} guest instructions, {} bytes to {}, expansion {:.2f}", mode_names(block.key.mode),
                 block.insn_count(), block.guest_length, block.host_size, ratio(block.host_size, block.guest_length));
  if (const u64* counter = cache.counter(block)) fmt::format_to(out, ", executed {} times", *counter);
  fmt::format_to(out, "\n");
}

// One guest instruction on the left, its host code on the right, over as many lines as it takes.
void put_beside(Out out, const ListedInsn& insn) {
  for (size_t i = 0; i < std::max<size_t>(insn.host.size(), 1); ++i) {
    const std::string_view left = i == 0 ? std::string_view(insn.guest) : std::string_view();
    if (i < insn.host.size())
      fmt::format_to(out, "  {:<66} | {:4x}  {}\n", left, insn.host[i].offset, insn.host[i].text);
    else
      fmt::format_to(out, "  {:<66} |\n", left);
  }
}

}  // namespace

void write_cache_listing(const CodeCache& cache, const GuestRam& ram, const std::function<bool(std::string_view)>& out) {
  const std::vector<const Block*> blocks = in_order(cache);
  if (!out(totals(cache, blocks))) return;
  for (const Block* block : blocks) {
    if (!out(block_listing(*block, cache, ram))) return;
  }
}

std::string block_listing(const Block& block, const CodeCache& cache, const GuestRam& ram) {
  const NameOfBlock name = [&cache](u64 host) { return name_of_block(cache, host); };
  std::string text;
  const Out to = std::back_inserter(text);
  put_head(to, block, cache);
  put_links(to, block, cache);
  for (const ListedInsn& insn : list_block(block, cache, guest_bytes(block, cache, ram), name)) put_beside(to, insn);
  text += '\n';
  return text;
}

}  // namespace ring3
