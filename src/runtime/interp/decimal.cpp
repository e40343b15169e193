// BCD adjustments (SDM vol. 2), which 64-bit mode lacks.
#include "runtime/interp/families.h"
#include "runtime/interp/host_alu.h"
#include "runtime/interp/operands.h"

namespace ring3::interp {

namespace {

// AL (or AX) plus or minus the correction, with all flags that the host's ADD or SUB gives: measured on Intel hardware, the adjustments
// leave OF, and AAA and AAS also SF, ZF and PF, as that addition does. CF and AF follow the manual's rules, set by the caller.
template <bool subtract, typename T>
T correct(T value, T correction, u32& eflags) {
  return subtract ? host::Sub::run<T>(value, correction, eflags) : host::Add::run<T>(value, correction, eflags);
}

template <bool subtract>
Flow decimal_adjust(Vcpu& v, const Insn&) {
  u32& eflags = v.s.eflags;
  const u8 old = v.reg8(eax);
  const bool old_carry = (eflags & flag::cf) != 0;
  const bool low = (old & 0xF) > 9 || (eflags & flag::af) != 0;
  const bool high = old > 0x99 || old_carry;
  // Only DAS can borrow in the low step and not need the high one.
  const bool borrow = subtract && low && old < 6;
  v.set_reg8(eax, correct<subtract>(old, static_cast<u8>((low ? 6 : 0) + (high ? 0x60 : 0)), eflags));
  set_flag(eflags, flag::af, low);
  set_flag(eflags, flag::cf, high || borrow);
  return Flow::next;
}

template <bool subtract>
Flow ascii_adjust(Vcpu& v, const Insn&) {
  u32& eflags = v.s.eflags;
  const bool adjust = (v.reg8(eax) & 0xF) > 9 || (eflags & flag::af) != 0;
  // AX as a whole moves by 106h: a carry out of AL reaches AH.
  v.set_reg16(eax, correct<subtract>(v.reg16(eax), static_cast<u16>(adjust ? 0x106 : 0), eflags));
  v.set_reg8(eax, v.reg8(eax) & 0xF);
  set_flag(eflags, flag::af, adjust);
  set_flag(eflags, flag::cf, adjust);
  return Flow::next;
}

// OF, AF and CF are undefined by the manual; hardware clears them.
Flow aam(Vcpu& v, const Insn& insn) {
  const auto base = static_cast<u8>(insn.imm);
  if (base == 0) return v.raise(Vector::divide);
  const u8 al = v.reg8(eax);
  const auto rest = static_cast<u8>(al % base);
  v.set_reg16(eax, static_cast<u16>(((al / base) << 8) | rest));
  (void)host::Add::run<u8>(rest, 0, v.s.eflags);
  return Flow::next;
}

// OF, AF and CF are undefined by the manual; hardware leaves those of the addition.
Flow aad(Vcpu& v, const Insn& insn) {
  const u16 ax = v.reg16(eax);
  const auto tens = static_cast<u8>((ax >> 8) * static_cast<u8>(insn.imm));
  v.set_reg16(eax, host::Add::run<u8>(static_cast<u8>(ax), tens, v.s.eflags));
  return Flow::next;
}

}  // namespace

void add_decimal(HandlerTable& t) {
  t.set(Row::daa, decimal_adjust<false>);
  t.set(Row::das, decimal_adjust<true>);
  t.set(Row::aaa, ascii_adjust<false>);
  t.set(Row::aas, ascii_adjust<true>);
  t.set(Row::aam, aam);
  t.set(Row::aad, aad);
}

}  // namespace ring3::interp
