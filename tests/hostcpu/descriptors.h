// Segment descriptors that host and guest share (SDM vol. 3, 3.4.5). Those of the LDT are limited to what modify_ldt makes: code and data
// of DPL 3, accessed.
#pragma once

#include "guest/segment.h"

#include <array>

namespace ring3::hostcpu {

inline constexpr u32 ldt_entries = 32;
using Ldt = std::array<u64, ldt_entries>;

// Type field of code and data descriptors, accessed.
namespace segment_type {
inline constexpr u8 read_only = 1;
inline constexpr u8 writable = 3;
inline constexpr u8 read_only_down = 5;
inline constexpr u8 writable_down = 7;
inline constexpr u8 execute_only = 9;
inline constexpr u8 readable_code = 11;
inline constexpr u8 conforming = 15;
}  // namespace segment_type

struct SegmentSpec {
  u32 base = 0;
  u32 limit = 0;  // 20 bits, in units of the granularity
  u8 type = segment_type::writable;
  bool present = true;
  bool big = true;
  bool pages = false;  // granularity
};

[[nodiscard]] u64 make_descriptor(const SegmentSpec& spec);

[[nodiscard]] constexpr u16 ldt_selector(u32 index, u32 rpl = 3) { return static_cast<u16>(index << 3 | 4 | rpl); }

// The global descriptor table of 64-bit Linux as far as programs can look into it: entry 15 holds the number of the CPU, and the TSS and
// LDT descriptors are here without their addresses (they have DPL 0).
inline constexpr u32 gdt_entries = 16;
inline constexpr u32 gdt_cpu_number = 15;
[[nodiscard]] const std::array<u64, gdt_entries>& linux_gdt();

// What loading `selector` puts into a segment register. NULL selectors, empty descriptors and indexes out of range give an unusable cache.
[[nodiscard]] SegmentCache cache_of(const Ldt& ldt, u16 selector);

// Whether all of [offset, offset + size) can be read or written through the segment, by SDM vol. 3, 5.3. Used to aim, not to judge.
[[nodiscard]] bool inside_limit(const SegmentCache& segment, u32 offset, u32 size);

}  // namespace ring3::hostcpu
