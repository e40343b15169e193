// Which operands must lie on a boundary of their size.
#pragma once

#include "frontend/insn.h"

namespace ring3 {

// Whether a misaligned memory operand of 16 bytes is #GP(0), before the operand's pages are looked at. All are but those of instructions
// that exist for such operands (SDM vol. 2, 2.4 and 4.1).
[[nodiscard]] inline bool needs_alignment(const Insn& insn, const Operand& memory) {
  switch (insn.row) {
    case Row::movups:
    case Row::movupd:
    case Row::movdqu:
    case Row::lddqu:
    case Row::pcmpestri:
    case Row::pcmpestrm:
    case Row::pcmpistri:
    case Row::pcmpistrm: return false;
    default: return memory.size == 16;
  }
}

}  // namespace ring3
