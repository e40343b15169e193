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
    u64 tag = 0;   // Context::fetch_tag, which dies with whatever makes an entry stale; 0: none
    u32 linear_page = 0;
  };

  [[nodiscard]] const Entry* find(u32 page, u64 tag) const {
    const Entry& entry = entries_[slot(page, tag)];
    return entry.linear_page == page && entry.tag == tag ? &entry : nullptr;
  }
  void fill(u32 page, u64 tag, u64 physical) { entries_[slot(page, tag)] = {physical, tag, page}; }

 private:
  static constexpr u32 size = 1024;
  static u32 slot(u32 page, u64 tag) { return (page + static_cast<u32>(tag) * 61) % size; }

  std::array<Entry, size> entries_{};
};

}  // namespace ring3
