// What must be equal after a case, and how a difference is told.
#pragma once

#include "executor.h"

#include <span>
#include <string>

namespace ring3::hostcpu {

// Clears what an x87 or FXSAVE image in memory says about instruction and data pointers and about the host's MXCSR extensions: those are
// the guest's own on one side and the host's on the other.
void mask_pointers(const Case& test, std::span<u8> data);

// Empty when equal. `expected` is the host's.
[[nodiscard]] std::string difference(const Case& test, const Outcome& expected, const Outcome& got, std::span<const u8> expected_data,
                                     std::span<const u8> got_data);

// Bytes, registers and FPU state before.
[[nodiscard]] std::string describe(const Case& test, std::span<const u8> data);

}  // namespace ring3::hostcpu
