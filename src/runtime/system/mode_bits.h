// The mode that translated code depends on.
#pragma once

#include "base/types.h"

namespace ring3 {

struct CpuState;

// The mode::* bits (guest/block_key.h) of the current state. Engines compare them after every step in the runtime; about 5 ns.
[[nodiscard]] u32 compute_mode_bits(const CpuState& state);

}  // namespace ring3
