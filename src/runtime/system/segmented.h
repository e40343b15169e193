// Limit arithmetic of segments (SDM vol. 3, 5.3) and alignment checks (6.15, interrupt 17).
#pragma once

#include "guest/cpu_state.h"

namespace ring3 {

// True if all of [offset, offset + size) lies inside the segment; `size` >= 1. In a segment with the limit FFFFFFFFh the manual leaves it
// to the CPU whether accesses may wrap round 4 GiB (SDM vol. 3, 5.3): Intel's let them if the base is 0 too.
[[nodiscard]] inline bool within_limit(const SegmentCache& c, u32 offset, unsigned size) {
  const u64 last = u64{offset} + size - 1;
  if (c.expand_down()) return offset > c.limit && last <= (c.big() ? 0xFFFFFFFFu : 0xFFFFu);
  return last <= c.limit || (c.limit == 0xFFFFFFFF && c.base == 0);
}

// Does #AC forbid a data access at the current CPL to `size` bytes at a linear address?
[[nodiscard]] bool misaligned(const CpuState& s, u32 linear, unsigned size);

}  // namespace ring3
