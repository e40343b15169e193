// Conversion between CpuState as the runtime sees it and the form that emitted code works on (CpuState::link).
#pragma once

#include "base/types.h"
#include "guest/cpu_state.h"

namespace ring3 {

// Splits EFLAGS, opens or closes the segment gates and the FPU gate, and arms the poll if `interrupt_waits` and IF is set;
// with IF clear it arms `pending` only, which STI and POPF copy.
void export_state(CpuState& s, bool interrupt_waits);

// The part of it that concerns flags and gates of the FPU.
void export_flags(CpuState& s, bool interrupt_waits);

// What emitted code checks accesses through a segment register with.
[[nodiscard]] SegmentCheck segment_check_of(const SegmentCache& cache);

// The part of it that concerns segments. Cheap where none has changed.
void export_segments(CpuState& s);

// As export_state after a change of nothing but general registers, memory and the flags in flag::host.
void export_status_flags(CpuState& s);

// Puts EFLAGS together again.
void import_state(CpuState& s);

}  // namespace ring3
