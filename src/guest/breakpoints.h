// Breakpoints as DR0 to DR3, DR7 and CR4.DE describe them (Intel SDM vol. 3, 17.2). They live in the registers alone: whoever needs to
// know asks here, and pays one test of DR7 while none is enabled.
#pragma once

#include "base/types.h"
#include "guest/cpu_state.h"

#include <array>

namespace ring3 {

namespace dr6 {
inline constexpr u32 breakpoints = 0xF;          // B0-B3
inline constexpr u32 general_detect = 1u << 13;  // BD
inline constexpr u32 single_step = 1u << 14;     // BS
inline constexpr u32 task_switch = 1u << 15;     // BT
inline constexpr u32 fixed1 = 0xFFFF0FF0;        // bit 11 (bus lock) and bit 16 (RTM) are active low, and not there
}  // namespace dr6

namespace dr7 {
inline constexpr u32 enables = 0xFF;  // L0, G0, ... L3, G3
inline constexpr u32 fixed1 = 1u << 10;
inline constexpr u32 general_detect = 1u << 13;  // GD
inline constexpr u32 writable = 0xFFFF23FF;
}  // namespace dr7

// R/Wn of DR7.
enum class BreakOn : u8 { execute = 0, write = 1, io = 2, access = 3 };

struct Breakpoint {
  bool enabled = false;
  BreakOn on = BreakOn::execute;
  u32 first = 0;   // linear address, or port
  u32 length = 1;  // 1, 2, 4 or 8 bytes; `first` is a multiple of it
};

// Breakpoint n (0 to 3). R/Wn = 10b names I/O only with CR4.DE; without it the manual leaves it undefined, and it never matches here.
[[nodiscard]] inline Breakpoint breakpoint(const CpuState& s, unsigned n) {
  constexpr std::array<u32, 4> lengths{1, 2, 8, 4};  // LENn; 10b is 8 on the family that the CPU models announce
  Breakpoint b;
  const u32 control = s.dr[7] >> (16 + 4 * n);
  b.on = static_cast<BreakOn>(control & 3u);
  b.enabled = ((s.dr[7] >> (2 * n)) & 3u) != 0 && (b.on != BreakOn::io || (s.cr4 & cr4::de) != 0);
  // Instructions match by their first byte; the manual leaves other lengths undefined for them.
  b.length = b.on == BreakOn::execute ? 1 : lengths[(control >> 2) & 3u];
  b.first = s.dr[n] & ~(b.length - 1);
  return b;
}

[[nodiscard]] inline bool any_breakpoint(const CpuState& s) { return (s.dr[7] & dr7::enables) != 0; }

// The B bits of DR6 for the enabled breakpoints of kind `on` (`access`: of kinds write and access together if `writes`) that share a byte
// with [first, first + size), modulo 4 GiB.
[[nodiscard]] inline u32 matching_breakpoints(const CpuState& s, BreakOn on, bool writes, u32 first, u32 size) {
  u32 bits = 0;
  if (!any_breakpoint(s)) return bits;
  for (unsigned n = 0; n < 4; ++n) {
    const Breakpoint b = breakpoint(s, n);
    if (!b.enabled || (b.on != on && !(on == BreakOn::access && writes && b.on == BreakOn::write))) continue;
    if (first - b.first < b.length || b.first - first < size) bits |= 1u << n;
  }
  return bits;
}

[[nodiscard]] inline u32 code_breakpoints_at(const CpuState& s, u32 linear) {
  return matching_breakpoints(s, BreakOn::execute, false, linear, 1);
}
[[nodiscard]] inline u32 data_breakpoints_in(const CpuState& s, u32 linear, u32 size, bool write) {
  return matching_breakpoints(s, BreakOn::access, write, linear, size);
}
[[nodiscard]] inline u32 io_breakpoints_in(const CpuState& s, u16 port, u32 size) {
  return matching_breakpoints(s, BreakOn::io, false, port, size);
}

}  // namespace ring3
