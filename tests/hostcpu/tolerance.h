// Where the manual leaves the CPU a choice, so that the host's answer is not the only right one.
#pragma once

#include "executor.h"

namespace ring3::hostcpu {

struct Tolerance {
  u32 gpr = 0;               // registers (bit per number) that may differ
  u32 eflags = 0;            // flags that may differ
  u32 mxcsr = 0;             // bits that may differ
  bool x87 = false;          // x87 state may differ
  bool anything = false;     // also no fault at all
  bool fault_place = false;  // of several pages that fault, another one may be reported
};

// `expected` is the host's outcome.
[[nodiscard]] Tolerance tolerance_of(const Case& test, const Outcome& expected);

}  // namespace ring3::hostcpu
