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
  t.set(Row::rol, shift<host::Rol>);
  t.set(Row::ror, shift<host::Ror>);
  t.set(Row::rcl, shift<host::Rcl>);
  t.set(Row::rcr, shift<host::Rcr>);
  t.set(Row::shl, shift<host::Shl>);
  t.set(Row::shr, shift<host::Shr>);
  t.set(Row::sar, shift<host::Sar>);
  t.set(Row::shld, double_shift<host::Shld>);
  t.set(Row::shrd, double_shift<host::Shrd>);
}

}  // namespace ring3::interp
