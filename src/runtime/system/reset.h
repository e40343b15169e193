// Power-on state of the CPU.
#pragma once

namespace ring3 {

struct CpuState;

// Sets every register to its value after power-up (SDM vol. 3, table 9-1); the words shared with emitted code and the TSC offset are
// left alone. EDX shows the default CPU model's signature. The CPU is then in real mode at F000:FFF0; loaders that start a kernel in
// protected mode set segments, CR0 and EIP next.
void reset_cpu(CpuState& state);

}  // namespace ring3
