// What a CPU must have for one form of an instruction.
#pragma once

#include "frontend/insn.h"

namespace ring3 {

// The row's feature, or another one where the forms of a row came with different CPUs: MMX forms that SSE2 widened, the multi-byte NOP,
// MOV from and to CR4. All fields of `insn` but `feature` are set. The CPUID flag of each form: SDM vol. 2, its opcode table; of those
// older than CPUID flags: SDM vol. 3, 23.13 ("New instructions in the Pentium and later IA-32 processors").
[[nodiscard]] Feature form_feature(const Insn& insn);

}  // namespace ring3
