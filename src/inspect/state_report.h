// The last guest state, for people: what stands on stderr after an abnormal end.
#pragma once

#include "runtime/stats.h"

#include <span>
#include <string>

namespace ring3 {

struct CpuState;
class GuestRam;
class Memory;

// Registers, flags, segments, control registers, mode, the last exceptions (oldest first) and the code at EIP with its disassembly.
// Reads guest memory through the page tables without changing anything.
[[nodiscard]] std::string state_report(const CpuState& cpu, const Memory& memory, const GuestRam& ram,
                                       std::span<const ExceptionRecord> last);

}  // namespace ring3
