// A hash table of numbers whose keys lie elsewhere: open addressing, 8 bytes a slot. The hash is kept beside the number, so that a look-up
// which finds nothing touches no key.
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
    for (u32 at = hash & mask; slots_[at].number != empty; at = (at + 1) & mask) {
      if (slots_[at].hash == hash && slots_[at].number != removed && matches(slots_[at].number)) return slots_[at].number;
    }
    return none;
  }

  // The number must not be inside.
  void insert(u32 number, u32 hash) {
    if (used_ * 8 >= slots_.size() * 5) grow();
    put({number, hash});
  }

  // The number must be inside, with this hash.
  void remove(u32 number, u32 hash) {
    const u32 mask = static_cast<u32>(slots_.size()) - 1;
    u32 at = hash & mask;
    while (slots_[at].number != number) at = (at + 1) & mask;
    slots_[at].number = removed;
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

  struct Slot {
    u32 number = empty;
    u32 hash = 0;
  };

  void put(const Slot& slot) {
    const u32 mask = static_cast<u32>(slots_.size()) - 1;
    u32 at = slot.hash & mask;
    while (slots_[at].number != empty) at = (at + 1) & mask;
    slots_[at] = slot;
    ++used_;
    ++live_;
  }

  void grow() {
    std::size_t size = smallest;
    while (size < live_ * 3) size *= 2;
    std::vector<Slot> old(size);
    old.swap(slots_);
    used_ = live_ = 0;
    for (const Slot& slot : old) {
      if (slot.number < removed) put(slot);
    }
  }

  std::vector<Slot> slots_;
  std::size_t used_ = 0;  // removed ones included
  std::size_t live_ = 0;
};

}  // namespace ring3
