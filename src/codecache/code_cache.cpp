#include "codecache/code_cache.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace ring3 {

CodeCache::CodeCache(CodeRegion& region) : region_(region) {
  std::vector<u8> code;
  stubs_ = emit_stubs(base(), code);
  std::memcpy(region_.writable(), code.data(), code.size());
  next_ = stubs_.end;
}

Block* CodeCache::find(const BlockKey& key) const {
  const auto it = by_key_.find(key);
  return it == by_key_.end() ? nullptr : it->second;
}

void CodeCache::patch32(u32 offset, u32 value) { std::memcpy(region_.writable() + offset, &value, sizeof value); }

u64* CodeCache::new_counter() { return &execution_counters_.emplace_back(0); }

Block& CodeCache::install(const GuestBlock& guest, u64 second_page, const TranslatedBlock& translated, u64* counter) {
  Block& block = blocks_.emplace_back();
  block.key = guest.key;
  block.host_offset = next_;
  block.host_size = std::max(static_cast<u32>(translated.code.size()), entry_patch_size);
  block.guest_length = guest.length;
  block.second_page = second_page;
  block.crosses_page = guest.crosses_page;
  block.uses_fpu = translated.uses_fpu;
  block.counter = counter;
  block.points = translated.points;
  std::memcpy(region_.writable() + next_, translated.code.data(), translated.code.size());
  for (const DirectExit& exit : translated.exits) {
    const u32 number = static_cast<u32>(exits_.size());
    exits_.push_back({&block, exit, nullptr});
    block.exits.push_back(number);
    patch32(next_ + exit.patch_offset, exit.stub_offset - (exit.patch_offset + 4));
    if (exit.number_offset != 0) patch32(next_ + exit.number_offset, number);
  }
  for (const InterpretSite& site : translated.interpret_sites) {
    patch32(next_ + site.number_offset, static_cast<u32>(sites_.size()));
    sites_.push_back({&block, site.point});
  }
  next_ = (next_ + block.host_size + 15u) & ~15u;
  by_key_[block.key] = &block;
  by_page_[block.key.physical >> page_shift].push_back(&block);
  if (block.crosses_page) by_page_[second_page >> page_shift].push_back(&block);
  ++counters_.installed;
  counters_.guest_bytes += block.guest_length;
  counters_.host_bytes += block.host_size;
  counters_.guest_insns += block.insn_count();
  return block;
}

void CodeCache::link(u32 number, Block& to) {
  Exit& exit = exits_[number];
  if (exit.to != nullptr || !exit.from->valid || !to.valid) return;
  const u32 at = exit.from->host_offset + exit.site.patch_offset;
  patch32(at, to.host_offset - (at + 4));
  exit.to = &to;
  to.incoming.push_back(number);
  ++counters_.linked;
}

void CodeCache::unlink(u32 number) {
  Exit& exit = exits_[number];
  if (exit.to == nullptr) return;
  patch32(exit.from->host_offset + exit.site.patch_offset, exit.site.stub_offset - (exit.site.patch_offset + 4));
  exit.to = nullptr;
  ++counters_.unlinked;
}

CodeCache::Site CodeCache::find_host(u64 host) {
  if (!region_.contains(host)) return {};
  const u32 offset = static_cast<u32>(host - base());
  auto it = std::upper_bound(blocks_.begin(), blocks_.end(), offset, [](u32 o, const Block& b) { return o < b.host_offset; });
  if (it == blocks_.begin()) return {};
  Block& block = *--it;
  const u32 inside = offset - block.host_offset;
  if (inside >= block.host_size) return {};
  // Instructions without host code share their offset with the next one: the last of them is the one that runs.
  const auto point =
      std::upper_bound(block.points.begin(), block.points.end(), inside, [](u32 o, const InsnPoint& p) { return o < p.host_offset; });
  const auto index = point == block.points.begin() ? 0 : point - block.points.begin() - 1;
  return {&block, static_cast<u32>(index)};
}

void CodeCache::remove_from_page(u64 page, Block* block) {
  const auto it = by_page_.find(page);
  if (it == by_page_.end()) return;
  std::erase(it->second, block);
  if (it->second.empty()) by_page_.erase(it);
}

void CodeCache::kill(Block& block) {
  if (!block.valid) return;
  block.valid = false;
  for (const u32 number : block.incoming) unlink(number);
  block.incoming.clear();
  for (const u32 number : block.exits) {
    if (Block* to = exits_[number].to) {
      std::erase(to->incoming, number);
      unlink(number);
    }
  }
  // Jump tables may still lead here: mov r8d, EIP; jmp miss.
  u8* entry = region_.writable() + block.host_offset;
  entry[0] = 0x41;
  entry[1] = 0xB8;
  std::memcpy(entry + 2, &block.key.linear, 4);
  entry[6] = 0xE9;
  const u32 displacement = stubs_.miss - (block.host_offset + 11);
  std::memcpy(entry + 7, &displacement, 4);
  by_key_.erase(block.key);
  remove_from_page(block.key.physical >> page_shift, &block);
  if (block.crosses_page) remove_from_page(block.second_page >> page_shift, &block);
  if (block.counter != nullptr) {
    dead_instructions_ += *block.counter * block.insn_count();
    block.counter = nullptr;
  }
  ++counters_.invalidated;
  ++generation_;
}

void CodeCache::kill_at(u32 linear) {
  for (Block& block : blocks_)
    if (linear - block.key.linear < block.guest_length) kill(block);
}

bool CodeCache::invalidate(PhysAddr address, u32 size) {
  const u64 page = address.value >> page_shift;
  const auto it = by_page_.find(page);
  if (it == by_page_.end()) return true;
  const u64 page_start = page << page_shift;
  const u64 first = address.value;
  const u64 last = address.value + size - 1;
  std::vector<Block*> victims;
  for (Block* block : it->second) {
    u64 start = block->key.physical;
    u64 end = start + block->guest_length;  // exclusive
    if ((start >> page_shift) != page) {    // this page holds the block's tail
      end = page_start + (end & page_mask);
      start = page_start;
    } else if (block->crosses_page) {
      end = page_start + page_size;
    }
    if (start <= last && first < end) victims.push_back(block);
  }
  for (Block* block : victims) kill(*block);
  return !by_page_.contains(page);
}

bool CodeCache::has_blocks(PhysAddr page) const { return by_page_.contains(page.value >> page_shift); }

u64 CodeCache::counted_instructions() const {
  u64 sum = dead_instructions_;
  for (const Block& block : blocks_) {
    if (block.counter != nullptr) sum += *block.counter * block.insn_count();
  }
  return sum;
}

void CodeCache::flush() {
  dead_instructions_ = counted_instructions();
  blocks_.clear();
  by_key_.clear();
  by_page_.clear();
  exits_.clear();
  sites_.clear();
  execution_counters_.clear();
  next_ = stubs_.end;
  ++counters_.flushes;
  ++generation_;
}

void CodeCache::check_invariants() const {
  u64 last_end = stubs_.end;
  for (const Block& block : blocks_) {
    if (block.host_offset < last_end) throw InternalError("blocks overlap in the code cache");
    last_end = u64{block.host_offset} + block.host_size;
    if (!block.valid) continue;
    if (find(block.key) != &block) throw InternalError("a valid block is not in the key map");
    for (const u32 number : block.incoming) {
      if (exits_[number].to != &block || !exits_[number].from->valid) throw InternalError("a link leads from a dead block");
    }
    for (const u32 number : block.exits) {
      const Exit& exit = exits_[number];
      if (exit.to != nullptr && (!exit.to->valid || std::ranges::count(exit.to->incoming, number) != 1)) {
        throw InternalError("a link is not known to its target");
      }
    }
  }
}

}  // namespace ring3
