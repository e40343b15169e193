// DIV and IDIV at a site that raised #DE before: the host's own fault costs a signal, so the quotient's range is checked first, and the
// interpreter raises what is due.
#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;

// The divisor goes to r11, and the division is the host's own with that operand, so that flags and results are what they are without the
// check. IDIV is let through only if the dividend fits the quotient's size and the divisor is neither 0 nor -1: the others are rare, and
// right in the interpreter too.
bool Emitter::emit_checked_division(const Insn& insn) {
  const bool is_signed = insn.row == Row::idiv;
  if (!is_signed && insn.row != Row::div) return false;
  const Operand* divisor = nullptr;
  for (unsigned i = 0; i < insn.operand_count; ++i)
    if (insn.operand[i].slot == Slot::modrm_rm) divisor = &insn.operand[i];
  if (divisor == nullptr || (is_signed && divisor->size == 1)) return false;
  const unsigned size = divisor->size;
  if (divisor->kind == OperandKind::mem) {
    operand_address(insn, size, Table::read);
    if (size == 4) {
      a_.mov(x86::r11d, host_memory(4));
    } else {
      a_.movzx(x86::r11d, host_memory(size));
    }
  } else if (size == 4) {
    a_.mov(x86::r11d, gpr32(divisor->reg));
  } else if (size == 2) {
    a_.movzx(x86::r11d, gpr16(divisor->reg));
  } else {
    const bool high = divisor->reg >= 4;
    a_.rorx(x86::r11d, x86::gpd(divisor->reg & 3u), high ? 8 : 0);
    a_.movzx(x86::r11d, x86::r11b);
  }

  const Label fits = a_.newLabel(), faults = a_.newLabel();
  const Gp part = size == 4 ? Gp(x86::r11d) : size == 2 ? Gp(x86::r11w) : Gp(x86::r11b);
  const Gp high = size == 4 ? Gp(x86::edx) : Gp(x86::dx);
  save_flags(x86::r8);
  if (is_signed) {
    if (size == 4) {
      a_.mov(x86::r8d, x86::eax);
    } else {
      a_.movsx(x86::r8d, x86::ax);
    }
    a_.sar(x86::r8d, 31);
    a_.cmp(high, size == 4 ? Gp(x86::r8d) : Gp(x86::r8w));
    a_.short_().jne(faults);
    a_.test(part, part);
    a_.short_().jz(faults);
    a_.cmp(part, -1);
    a_.short_().jne(fits);
  } else if (size == 1) {
    a_.movzx(x86::r8d, x86::ax);
    a_.shr(x86::r8d, 8);
    a_.cmp(x86::r8b, part);
    a_.short_().jb(fits);
  } else {
    a_.cmp(high, part);
    a_.short_().jb(fits);
  }
  a_.bind(faults);
  restore_flags(x86::r8);
  jump_to_interpreter();
  a_.bind(fits);
  restore_flags(x86::r8);
  std::array<u8, 4> code{};
  u32 n = 0;
  if (size == 2) code[n++] = 0x66;
  code[n++] = 0x41;  // REX.B
  code[n++] = size == 1 ? 0xF6 : 0xF7;
  code[n++] = is_signed ? 0xFB : 0xF3;  // r11
  a_.embed(code.data(), n);
  return true;
}

}  // namespace ring3
