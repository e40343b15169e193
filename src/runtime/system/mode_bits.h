// The mode that translated code depends on.
#pragma once

#include "base/types.h"
#include "guest/block_key.h"
#include "guest/cpu_state.h"

namespace ring3 {

// The mode::* bits (guest/block_key.h) of the current state. Engines compare them after every step in the runtime; about 5 ns.
[[nodiscard]] u32 compute_mode_bits(const CpuState& state);
// Its two halves: what follows from the segment registers, and from everything else.
[[nodiscard]] u32 segment_mode_bits(const CpuState& state);
[[nodiscard]] inline u32 control_mode_bits(const CpuState& s) {
  u32 bits = 0;
  if (s.cpl == 3) bits |= mode::user;
  if (s.cpl == 0) bits |= mode::cpl0;
  if (s.v8086()) bits |= mode::v8086;
  if ((s.eflags & flag::tf) != 0) bits |= mode::trap;
  if ((s.cr4 & cr4::osfxsr) != 0) bits |= mode::osfxsr;
  if ((s.cr4 & cr4::tsd) != 0 && s.cpl != 0) bits |= mode::tsc_faults;
  if (s.cpl == 3 && (s.cr0 & cr0::am) != 0 && (s.eflags & flag::ac) != 0) bits |= mode::alignment_checks;
  if (s.protected_mode()) bits |= mode::protected_mode;
  constexpr u16 x87_masks = 0x3F;
  if ((s.fpu.fcw & x87_masks) != x87_masks) bits |= mode::x87_unmasked;
  return bits;
}

}  // namespace ring3
