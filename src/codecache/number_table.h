// A hash table of numbers whose keys lie elsewhere: open addressing, 4 bytes a slot.
#pragma once

#include "base/types.h"

#include <vector>

namespace ring3 {

class NumberTable {
 public:
  static constexpr u32 none = ~0u;

  // The number with this hash for which `matches(number)`, or `none`.
  template <typename Matches>
  [[nodiscard]] u32 find(u32 hash, const Matches& matches) const {
    if (slots_.empty()) return none;
    const u32 mask = static_cast<u32>(slots_.size()) - 1;
    for (u32 at = hash & mask; slots_[at] != empty; at = (at + 1) & mask) {
      if (slots_[at] != removed && matches(slots_[at])) return slots_[at];
    }
    return none;
  }

  // `hash_of(number)` is asked for the numbers inside when the table grows. The number must not be inside.
  template <typename HashOf>
  void insert(u32 number, const HashOf& hash_of) {
    if (used_ * 8 >= slots_.size() * 5) grow(hash_of);
    put(number, hash_of(number));
  }

  // The number must be inside.
  void remove(u32 number, u32 hash) {
    const u32 mask = static_cast<u32>(slots_.size()) - 1;
    u32 at = hash & mask;
    while (slots_[at] != number) at = (at + 1) & mask;
    slots_[at] = removed;
    --live_;
  }

  void clear() {
    slots_ = {};
    used_ = live_ = 0;
  }

 private:
  static constexpr u32 empty = ~0u;
  static constexpr u32 removed = ~0u - 1;
  static constexpr std::size_t smallest = 1024;

  void put(u32 number, u32 hash) {
    const u32 mask = static_cast<u32>(slots_.size()) - 1;
    u32 at = hash & mask;
    while (slots_[at] != empty) at = (at + 1) & mask;
    slots_[at] = number;
    ++used_;
    ++live_;
  }

  template <typename HashOf>
  void grow(const HashOf& hash_of) {
    std::size_t size = smallest;
    while (size < live_ * 3) size *= 2;
    std::vector<u32> old(size, empty);
    old.swap(slots_);
    used_ = live_ = 0;
    for (const u32 number : old) {
      if (number < removed) put(number, hash_of(number));
    }
  }

  std::vector<u32> slots_;
  std::size_t used_ = 0;  // removed ones included
  std::size_t live_ = 0;
};

}  // namespace ring3
