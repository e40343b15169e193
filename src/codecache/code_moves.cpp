// A page of code that appears at another linear address: programs and libraries with address-space randomization. The blocks of a place
// that no process uses any more are made right for the new one, instead of the same code being translated once more. What depends on the
// linear address are keys, targets of exits, and some immediates in the code; links stay, as both of their ends move.
#include "codecache/code_cache.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace ring3 {

namespace {

// No jump of a movable block wraps around 4 GiB, here or there: which jumps lead backwards, and poll, does not change.
constexpr u32 lowest = 1u << 28, highest = 0xF0000000;

bool may_lie_at(u32 linear) { return linear >= lowest && linear < highest; }

constexpr std::size_t most_addresses = 255;

// Programs that run at the same time keep a copy each; their places are asked for first to last.
constexpr std::size_t most_places = 4;

}  // namespace

// Behind the points: their number, and two bytes for each.
void CodeCache::keep_addresses(Block& block, const TranslatedBlock& translated) {
  // Which direct jumps lead over the limit of CS follows from where the block lies, too.
  const bool flat = block.key.cs_base == 0 && block.key.cs_limit == 0xFFFFFFFF;
  block.movable = !block.crosses_page && flat && translated.near_jumps && translated.addresses.size() <= most_addresses &&
                  translated.code.size() <= 0xFFFF && may_lie_at(block.key.linear);
  if (!block.movable) return;
  stream_.push_back(static_cast<u8>(translated.addresses.size()));
  for (const u32 offset : translated.addresses) {
    stream_.push_back(static_cast<u8>(offset));
    stream_.push_back(static_cast<u8>(offset >> 8));
  }
}

void CodeCache::move_code(const Block& block, u32 distance) {
  PointReader reader(block.points);
  for (u32 i = 0; i <= block.insn_count(); ++i) (void)reader.next();
  const u8* at = reader.rest();
  for (u32 count = *at++; count != 0; --count, at += 2) {
    u8* const place = region_.writable() + block.host_offset + (at[0] | u32{at[1]} << 8);
    u32 address = 0;
    std::memcpy(&address, place, sizeof address);
    address += distance;
    std::memcpy(place, &address, sizeof address);
  }
}

const Block* CodeCache::unused_place(const BlockKey& key, const std::function<bool(u32)>& in_use) {
  std::array<u32, most_places> asked{};
  std::size_t places = 0;
  const Block* unused = nullptr;
  BlockKey own = key;
  own.physical &= ~u64{page_mask};
  own.linear &= ~u32{page_mask};
  const bool none_here = slots_.none(own);
  pages_.for_each({key.physical}, [&](u32 number) {
    const Block& other = blocks_[number];
    if (!other.key.same_mode(key) || (other.key.physical ^ key.physical) >> page_shift != 0) return true;
    const u32 page = other.key.linear >> page_shift;
    if (page == key.linear >> page_shift) {  // it has a place already
      unused = nullptr;
      return false;
    }
    if (unused != nullptr || !other.movable || places == asked.size()) return true;
    const auto end = asked.begin() + places;
    if (std::find(asked.begin(), end, page) != end) return true;
    asked[places++] = page;
    if (!in_use(other.key.linear)) unused = &other;
    return unused == nullptr || !none_here;
  });
  return unused;
}

void CodeCache::move_page(const Block& from, const BlockKey& key) {
  const u32 distance = (key.linear & ~page_mask) - (from.key.linear & ~page_mask);
  const auto moves = [&, old = from.key](const Block& block) {
    return block.valid && block.key.same_mode(old) && (block.key.linear ^ old.linear) >> page_shift == 0 &&
           (block.key.physical ^ old.physical) >> page_shift == 0;
  };
  victims_.clear();
  pages_.find({key.physical & ~u64{page_mask}}, page_size, victims_);
  const bool possible = may_lie_at(key.linear);
  for (const u32 number : victims_) {
    if (moves(blocks_[number]) && !(possible && blocks_[number].movable)) kill(blocks_[number]);
  }
  std::erase_if(victims_, [&](u32 number) { return !moves(blocks_[number]); });
  moved_landings_.clear();
  for (const u32 number : victims_) {
    const Block& block = blocks_[number];
    by_key_.remove(number, block.key.hash());
    for (const u32 exit : block.exits()) {
      if (!is_landing(exits_[exit].kind)) continue;
      const BlockKey behind = target_key(exits_[exit]);
      if (find_landing(behind) != exit) continue;
      landings_.remove(exit, behind.hash());
      moved_landings_.push_back(exit);
    }
  }
  for (const u32 number : victims_) {
    Block& block = blocks_[number];
    slots_.remove(block.page_key());
    block.key.linear += distance;
    slots_.add(block.page_key());
    for (const u32 exit : block.exits()) exits_[exit].target += distance;
    move_code(block, distance);
  }
  for (const u32 number : victims_) by_key_.insert(number, blocks_[number].key.hash());
  for (const u32 exit : moved_landings_) landings_.insert(exit, target_key(exits_[exit]).hash());
  pages_.note_change({key.physical});
  counters_.moved += victims_.size();
  ++generation_;
}

}  // namespace ring3
