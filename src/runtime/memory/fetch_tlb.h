// What code fetch remembers of its page walks. Data accesses have the soft tables; those do not know the execute right.
#pragma once

#include "base/types.h"
#include "guest/address.h"

#include <array>

namespace ring3 {

class FetchTlb {
 public:
  struct Entry {
    u64 page = 0;  // physical
    u32 key = 0;
    u32 generation = 0;  // of its class (global or not); an older one is dead
    bool global = false;
    bool ram = false;
  };

  [[nodiscard]] const Entry* find(u32 page, bool user) const {
    const Entry& entry = entries_[page % size];
    return entry.key == key(page, user) && entry.generation == generation_[entry.global] ? &entry : nullptr;
  }
  void fill(u32 page, bool user, u64 physical, bool ram, bool global) {
    entries_[page % size] = {physical, key(page, user), generation_[global], global, ram};
  }

  void flush_all() {
    flush_non_global();
    next_generation(true);
  }
  void flush_non_global() { next_generation(false); }
  void flush_pages(u32 first, u32 count) {
    if (count >= size) return flush_all();
    for (u32 page = first; page < first + count; ++page) entries_[page % size] = {};
  }

 private:
  static constexpr u32 size = 256;
  static constexpr u32 key(u32 page, bool user) { return (page << 1) | u32{user}; }
  void next_generation(bool global) {
    // After 2^32 flushes an old entry would come back to life.
    if (++generation_[global] == 0) {
      entries_ = {};
      generation_[global] = 1;
    }
  }

  std::array<Entry, size> entries_{};
  std::array<u32, 2> generation_{1, 1};  // [global]; 0 is what empty entries have
};

}  // namespace ring3
