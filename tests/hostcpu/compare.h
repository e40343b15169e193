// What must be equal after a state has run, and how a difference is told.
#pragma once

#include "executor.h"

#include <span>
#include <string>

namespace ring3::hostcpu {

// Clears what an x87 or FXSAVE image in memory says about instruction and data pointers and about the host's MXCSR extensions: those are
// the guest's own on one side and the host's on the other. Likewise the upper half of a pushed selector, which AMD's CPUs write and Intel's
// do not (SDM vol. 2, PUSH). `data` is the data pages after the state has run.
void mask_pointers(const Batch& batch, const Program& program, const std::array<u32, 8>& gpr_before, u8* data);

// Empty when equal. `expected` is the host's.
[[nodiscard]] std::string difference(const Batch& batch, const Program& program, const State& before, const Outcome& expected,
                                     const Outcome& got);
// Of the data pages.
[[nodiscard]] std::string difference(std::span<const u8> expected, std::span<const u8> got);

// Bytes, registers, segments and FPU state before; `data` is the data pages then.
[[nodiscard]] std::string describe(const Batch& batch, const Program& program, const State& before, std::span<const u8> data);

}  // namespace ring3::hostcpu
