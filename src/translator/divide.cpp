// DIV and IDIV at a site that raised #DE before: the host's own fault costs a signal, so the quotient's range is checked first, and the
// interpreter raises what is due.
#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;

// For IDIV: compares |dividend| with the first magnitude that is too large. A quotient of n bits fits if it is 0 or more and below 2^(n-1),
// or not above 2^(n-1) and negative: |dividend| < |divisor| * 2^(n-1), plus |divisor| if the signs differ. 0 as divisor fits nothing.
// Divisor in r11, which stays; "below" is the answer. Changes r8 and r10.
void Emitter::compare_signed_quotient(unsigned size) {
  const Label dividend_positive = a_.newLabel(), divisor_positive = a_.newLabel();
  a_.push(x86::r11);
  if (size == 4) {
    a_.mov(x86::r8, x86::rdx);
    a_.shl(x86::r8, 32);
    a_.or_(x86::r8, x86::rax);
    a_.movsxd(x86::r11, x86::r11d);
  } else if (size == 2) {
    a_.movzx(x86::r8d, x86::ax);
    a_.mov(x86::r10d, x86::edx);
    a_.shl(x86::r10d, 16);
    a_.or_(x86::r8d, x86::r10d);
    a_.movsxd(x86::r8, x86::r8d);
    a_.movsx(x86::r11, x86::r11w);
  } else {
    a_.movsx(x86::r8, x86::ax);
    a_.movsx(x86::r11, x86::r11b);
  }
  a_.mov(x86::r10, x86::r8);
  a_.xor_(x86::r10, x86::r11);
  a_.sar(x86::r10, 63);
  a_.test(x86::r8, x86::r8);
  a_.short_().jns(dividend_positive);
  a_.neg(x86::r8);
  a_.bind(dividend_positive);
  a_.test(x86::r11, x86::r11);
  a_.short_().jns(divisor_positive);
  a_.neg(x86::r11);
  a_.bind(divisor_positive);
  a_.and_(x86::r10, x86::r11);
  a_.shl(x86::r11, size * 8 - 1);
  a_.add(x86::r10, x86::r11);
  a_.cmp(x86::r8, x86::r10);
  a_.pop(x86::r11);
}

// The divisor goes to r11, and the division is the host's own with that operand, so that flags and results are what they are without the
// check.
bool Emitter::emit_checked_division(const Insn& insn) {
  const bool is_signed = insn.row == Row::idiv;
  if (!is_signed && insn.row != Row::div) return false;
  const Operand* divisor = nullptr;
  for (unsigned i = 0; i < insn.operand_count; ++i)
    if (insn.operand[i].slot == Slot::modrm_rm) divisor = &insn.operand[i];
  if (divisor == nullptr) return false;
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

  const Label fits = a_.newLabel();
  const Gp part = size == 4 ? Gp(x86::r11d) : size == 2 ? Gp(x86::r11w) : Gp(x86::r11b);
  const Gp high = size == 4 ? Gp(x86::edx) : Gp(x86::dx);
  save_flags(x86::r8);
  if (is_signed) {
    compare_signed_quotient(size);
    a_.mov(x86::r10d, 10);
    a_.short_().jb(fits);
  } else if (size == 1) {
    a_.movzx(x86::r8d, x86::ax);
    a_.shr(x86::r8d, 8);
    a_.cmp(x86::r8b, part);
    a_.short_().jb(fits);
  } else {
    a_.cmp(high, part);
    a_.short_().jb(fits);
  }
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
