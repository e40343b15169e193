// The three address spaces as distinct types, so that the compiler keeps them apart.
#pragma once

#include "base/types.h"

#include <compare>

namespace ring3 {

// Guest physical address (up to 52 bits under PAE; RAM lies below 4 GiB).
struct PhysAddr {
  u64 value = 0;
  auto operator<=>(const PhysAddr&) const = default;
};

// Guest linear address: segment base + offset, before paging.
struct LinAddr {
  u32 value = 0;
  auto operator<=>(const LinAddr&) const = default;
};

inline constexpr u32 page_shift = 12;
inline constexpr u32 page_size = 1u << page_shift;
inline constexpr u32 page_mask = page_size - 1;
inline constexpr u32 linear_page_count = 1u << 20;

}  // namespace ring3
