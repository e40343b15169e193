#include "runtime/interp/decode_cache.h"

#include <algorithm>

namespace ring3::interp {

const DecodedInsn* DecodeCache::attach(Place place, PhysAddr physical) {
  const auto found = pages_.find(page_key(physical, place.code32));
  if (found == pages_.end()) return nullptr;
  entries_[slot_of(place)] = {key_of(place), place.tag, found->second.get()};
  return find(place);
}

const DecodedInsn* DecodeCache::insert(Place place, PhysAddr physical, const DecodedInsn& decoded) {
  if (pages_.size() >= max_pages || instructions_ >= max_instructions) clear();
  std::unique_ptr<DecodedPage>& page = pages_[page_key(physical, place.code32)];
  if (page == nullptr) page = std::make_unique<DecodedPage>();
  if (page->pool.size() >= max_pool) {
    // A page that is rewritten all the time: its forgotten instructions have piled up.
    instructions_ -= static_cast<u32>(page->pool.size());
    *page = DecodedPage{};
  }
  page->pool.push_back(decoded);
  ++instructions_;
  u16& slot = page->slot[physical.value & page_mask];
  if (slot == 0) ++page->live;
  slot = static_cast<u16>(page->pool.size());
  entries_[slot_of(place)] = {key_of(place), place.tag, page.get()};
  return &page->pool.back();
}

void DecodeCache::forget(DecodedPage& page, u32 from, u32 to) {
  constexpr u32 longest = 15;
  const u32 first = from >= longest - 1 ? from - (longest - 1) : 0;
  for (u32 at = first; at < to && page.live != 0; ++at) {
    const u16 n = page.slot[at];
    if (n == 0 || at + page.pool[n - 1u].insn.length <= from) continue;
    page.slot[at] = 0;
    --page.live;
  }
}

void DecodeCache::written(PhysAddr address, u32 size) {
  if (pages_.empty()) return;
  const u64 end = address.value + size;
  for (u64 at = address.value; at < end;) {
    const u64 page_end = std::min(end, (at | page_mask) + 1);
    for (const bool code32 : {false, true}) {
      const auto found = pages_.find(page_key({at}, code32));
      if (found == pages_.end()) continue;
      const u32 from = static_cast<u32>(at & page_mask);
      forget(*found->second, from, from + static_cast<u32>(page_end - at));
    }
    at = page_end;
  }
}

bool DecodeCache::has_code(PhysAddr page) const {
  for (const bool code32 : {false, true}) {
    const auto found = pages_.find(page_key(page, code32));
    if (found != pages_.end() && found->second->live != 0) return true;
  }
  return false;
}

void DecodeCache::clear() {
  pages_.clear();
  instructions_ = 0;
  entries_ = {};
}

}  // namespace ring3::interp
