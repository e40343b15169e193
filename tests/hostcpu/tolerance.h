// Where the manual leaves the CPU a choice, so that the host's answer is not the only right one. The guest's CPU is an Intel one: what
// Intel's CPUs do is demanded where the host is one of them, also where the manual leaves it open, unless a line here says otherwise.
#pragma once

#include "executor.h"

namespace ring3::hostcpu {

struct Tolerance {
  u32 gpr = 0;               // registers (bit per number) that may differ
  u32 eflags = 0;            // flags that may differ
  u32 mxcsr = 0;             // bits that may differ
  bool x87 = false;          // x87 state may differ
  bool xmm = false;          // XMM registers may differ
  bool memory = false;       // memory may differ from then on
  bool anything = false;     // also no fault at all; the program is `isolated`
  bool fault_place = false;  // of several pages that fault, another one may be reported
  bool other_fault = false;  // of several faults of the instruction, another one may be reported
  bool eip = false;          // EIP may differ
};

// `expected` is the host's outcome.
[[nodiscard]] Tolerance tolerance_of(const Batch& batch, const Program& program, const State& before, const Outcome& expected,
                                     const Outcome& got);

// Whether the memory that this instruction leaves behind can differ where that is tolerated.
[[nodiscard]] bool needs_isolation(const Insn& insn);

[[nodiscard]] bool host_is_intel();
// What a host of AMD's may do besides (tolerance_amd.cpp).
[[nodiscard]] Tolerance amd_tolerance(const Batch& batch, const Program& program, const State& before, const Outcome& expected,
                                      const Outcome& got);

}  // namespace ring3::hostcpu
