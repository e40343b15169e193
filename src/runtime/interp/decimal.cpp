// BCD adjustments (SDM vol. 2), which 64-bit mode lacks. Flags that the manual leaves undefined keep their value, except where noted.
#include "runtime/interp/families.h"
#include "runtime/interp/host_alu.h"
#include "runtime/interp/operands.h"

namespace ring3::interp {

namespace {

// SF, ZF and PF by `result`.
void set_result_flags(u32& eflags, u8 result) {
  u32 by_host = 0;
  (void)host::Test::run<u8>(result, result, by_host);
  constexpr u32 bits = flag::sf | flag::zf | flag::pf;
  eflags = (eflags & ~bits) | (by_host & bits);
}

template <bool subtract>
Flow decimal_adjust(Vcpu& v, const Insn&) {
  const u8 old = v.reg8(eax);
  const bool old_carry = (v.s.eflags & flag::cf) != 0;
  const auto adjust = [](u8 a, unsigned by) { return static_cast<u8>(subtract ? a - by : a + by); };
  u8 al = old;
  bool carry = false;
  const bool low = (old & 0xF) > 9 || (v.s.eflags & flag::af) != 0;
  if (low) {
    carry = old_carry || (subtract ? old < 6 : old > 0xFF - 6);
    al = adjust(al, 6);
  }
  const bool high = old > 0x99 || old_carry;
  if (high) {
    al = adjust(al, 0x60);
    carry = true;
  } else if (!subtract) {
    carry = false;
  }
  v.set_reg8(eax, al);
  set_flag(v.s.eflags, flag::af, low);
  set_flag(v.s.eflags, flag::cf, carry);
  set_result_flags(v.s.eflags, al);
  return Flow::next;
}

template <bool subtract>
Flow ascii_adjust(Vcpu& v, const Insn&) {
  const bool adjust = (v.reg8(eax) & 0xF) > 9 || (v.s.eflags & flag::af) != 0;
  if (adjust) {
    // AX as a whole moves by 106h: a carry out of AL reaches AH.
    const u16 ax = v.reg16(eax);
    v.set_reg16(eax, static_cast<u16>(subtract ? ax - 0x106 : ax + 0x106));
  }
  v.set_reg8(eax, v.reg8(eax) & 0xF);
  set_flag(v.s.eflags, flag::af, adjust);
  set_flag(v.s.eflags, flag::cf, adjust);
  return Flow::next;
}

Flow aam(Vcpu& v, const Insn& insn) {
  const auto base = static_cast<u8>(insn.imm);
  if (base == 0) return v.raise(Vector::divide);
  const u8 al = v.reg8(eax);
  v.set_reg16(eax, static_cast<u16>(((al / base) << 8) | (al % base)));
  set_result_flags(v.s.eflags, v.reg8(eax));
  return Flow::next;
}

Flow aad(Vcpu& v, const Insn& insn) {
  const auto base = static_cast<u8>(insn.imm);
  const u16 ax = v.reg16(eax);
  const auto al = static_cast<u8>(ax + (ax >> 8) * base);
  v.set_reg16(eax, al);
  set_result_flags(v.s.eflags, al);
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
