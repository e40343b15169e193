// Shifts and rotates (SDM vol. 2). A count of 0 still reads and writes its memory operand, as hardware does, and changes no flag.
#include "runtime/interp/families.h"
#include "runtime/interp/host_alu.h"
#include "runtime/interp/operands.h"

namespace ring3::interp {

namespace {

template <typename Op>
Flow shift(Vcpu& v, const Insn& insn) {
  // Without a second operand the count is the implicit 1.
  const u8 count = insn.operand_count < 2 ? u8{1} : insn.operand[1].kind == OperandKind::reg ? v.reg8(ecx) : static_cast<u8>(insn.imm);
  return by_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    return modify_operand<T>(v, insn, 0, [&](T old) { return Op::template run<T>(old, count, v.s.eflags); });
  });
}

// OF after a rotation by more than 1 is undefined (SDM vol. 2, RCL/RCR/ROL/ROR). Intel's CPUs compute it, except that ROL and ROR of a
// register by an immediate leave it alone; others always compute it. Emitted code is the guest's own instruction, so this host decides.
bool measure_immediate_keeps_overflow() {
  u8 overflow = 0;
  u32 value = 0;  // every rule that looks at the result clears OF
  asm("movb $127, %%al\n\taddb $1, %%al\n\trorl $7, %[v]\n\tseto %%al" : "=&a"(overflow), [v] "+r"(value) : : "cc");
  return overflow != 0;
}

template <typename Op>
Flow rotate(Vcpu& v, const Insn& insn) {
  static const bool immediate_keeps_overflow = measure_immediate_keeps_overflow();
  const u32 before = v.s.eflags;
  const Flow flow = shift<Op>(v, insn);
  if (immediate_keeps_overflow && flow == Flow::next && insn.operand[0].kind == OperandKind::reg && insn.imm_size != 0 &&
      (insn.imm & 31) > 1)
    v.s.eflags = (v.s.eflags & ~flag::of) | (before & flag::of);
  return flow;
}

template <typename Op>
Flow double_shift(Vcpu& v, const Insn& insn) {
  const u8 count = insn.operand[2].kind == OperandKind::reg ? v.reg8(ecx) : static_cast<u8>(insn.imm);
  return by_wide_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    const T filler = get_reg<T>(v, insn.operand[1].reg);
    return modify_operand<T>(v, insn, 0, [&](T old) { return Op::template run<T>(old, filler, count, v.s.eflags); });
  });
}

}  // namespace

void add_shifts(HandlerTable& t) {
  t.set(Row::rol, rotate<host::Rol>);
  t.set(Row::ror, rotate<host::Ror>);
  t.set(Row::rcl, shift<host::Rcl>);
  t.set(Row::rcr, shift<host::Rcr>);
  t.set(Row::shl, shift<host::Shl>);
  t.set(Row::shr, shift<host::Shr>);
  t.set(Row::sar, shift<host::Sar>);
  t.set(Row::shld, double_shift<host::Shld>);
  t.set(Row::shrd, double_shift<host::Shrd>);
}

}  // namespace ring3::interp
