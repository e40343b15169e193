// Single flags, LAHF/SAHF/SALC, PUSHF and POPF (SDM vol. 2; interrupt flag and IOPL: vol. 3, 2.3, 6.8.1 and 20.3).
#include "runtime/interp/families.h"
#include "runtime/interp/stack_access.h"

namespace ring3::interp {

namespace {

template <u32 bit, bool on>
Flow set_one(Vcpu& v, const Insn&) {
  set_flag(v.s.eflags, bit, on);
  return Flow::next;
}

Flow cmc(Vcpu& v, const Insn&) {
  v.s.eflags ^= flag::cf;
  return Flow::next;
}

Flow lahf(Vcpu& v, const Insn&) {
  v.set_reg8(4, static_cast<u8>((v.s.eflags & flag::status) | flag::fixed1));
  return Flow::next;
}

Flow sahf(Vcpu& v, const Insn&) {
  constexpr u32 bits = flag::status & 0xFFu;
  v.s.eflags = (v.s.eflags & ~bits) | (v.reg8(4) & bits);
  return Flow::next;
}

Flow salc(Vcpu& v, const Insn&) {
  v.set_reg8(eax, (v.s.eflags & flag::cf) != 0 ? 0xFF : 0);
  return Flow::next;
}

// Which flag CLI and STI change: IF where IOPL allows, VIF under CR4.PVI at CPL 3 and under CR4.VME in v8086 mode, else 0 for #GP(0).
u32 interrupt_flag(const CpuState& s) {
  if (!s.protected_mode()) return flag::if_;
  if (s.v8086()) return s.iopl() == 3 ? flag::if_ : (s.cr4 & cr4::vme) != 0 ? flag::vif : 0;
  if (s.cpl <= s.iopl()) return flag::if_;
  return s.cpl == 3 && (s.cr4 & cr4::pvi) != 0 ? flag::vif : 0;
}

Flow cli(Vcpu& v, const Insn&) {
  const u32 bit = interrupt_flag(v.s);
  if (bit == 0) return v.raise(Vector::general_protection, 0);
  v.s.eflags &= ~bit;
  return Flow::next;
}

Flow sti(Vcpu& v, const Insn&) {
  const u32 bit = interrupt_flag(v.s);
  if (bit == 0 || (bit == flag::vif && (v.s.eflags & flag::vip) != 0)) return v.raise(Vector::general_protection, 0);
  // Only an STI that turns interrupts on holds them off for one instruction.
  if (bit == flag::if_ && (v.s.eflags & flag::if_) == 0) v.s.shadow = Shadow::sti;
  v.s.eflags |= bit;
  return Flow::next;
}

// v8086 mode with IOPL < 3: only the 16-bit forms under CR4.VME, with VIF in the place of IF.
bool virtual_if_only(const CpuState& s) { return s.v8086() && s.iopl() < 3; }
bool virtual_if_allowed(const CpuState& s, const Insn& insn) { return insn.operand_size == 2 && (s.cr4 & cr4::vme) != 0; }

Flow pushf(Vcpu& v, const Insn& insn) {
  u32 image = v.s.eflags & ~(flag::rf | flag::vm);
  if (virtual_if_only(v.s)) {
    if (!virtual_if_allowed(v.s, insn)) return v.raise(Vector::general_protection, 0);
    image |= flag::iopl;
    set_flag(image, flag::if_, (v.s.eflags & flag::vif) != 0);
  }
  return by_wide_size(insn.operand_size, [&](auto zero) {
    StackCursor stack(v);
    if (!stack.push(static_cast<decltype(zero)>(image))) return Flow::fault;
    stack.commit();
    return Flow::next;
  });
}

// The flags that POPF may change (SDM vol. 2, POPF, table of effects). IOPL and IF are kept without a fault where privilege lacks.
u32 popf_writable(const CpuState& s, unsigned operand_size) {
  u32 writable = flag::status | flag::tf | flag::df | flag::nt;
  if (operand_size == 4) writable |= flag::ac | flag::id;
  if (!s.protected_mode() || s.cpl == 0) return writable | flag::if_ | flag::iopl;
  return s.cpl <= s.iopl() ? writable | flag::if_ : writable;
}

Flow popf(Vcpu& v, const Insn& insn) {
  CpuState& s = v.s;
  const bool by_vif = virtual_if_only(s);
  if (by_vif && !virtual_if_allowed(s, insn)) return v.raise(Vector::general_protection, 0);
  return by_wide_size(insn.operand_size, [&](auto image) {
    StackCursor stack(v);
    if (!stack.pop(image)) return Flow::fault;
    if (by_vif) {
      const bool on = (image & flag::if_) != 0;
      if ((on && (s.eflags & flag::vip) != 0) || (image & flag::tf) != 0) return v.raise(Vector::general_protection, 0);
      set_flag(s.eflags, flag::vif, on);
    }
    const u32 writable = by_vif ? popf_writable(s, sizeof(image)) & ~flag::if_ : popf_writable(s, sizeof(image));
    s.eflags = (s.eflags & ~(writable | flag::rf)) | (image & writable) | flag::fixed1;
    stack.commit();
    return Flow::next;
  });
}

}  // namespace

void add_flags(HandlerTable& t) {
  t.set(Row::clc, set_one<flag::cf, false>);
  t.set(Row::stc, set_one<flag::cf, true>);
  t.set(Row::cld, set_one<flag::df, false>);
  t.set(Row::std, set_one<flag::df, true>);
  t.set(Row::cmc, cmc);
  t.set(Row::lahf, lahf);
  t.set(Row::sahf, sahf);
  t.set(Row::salc, salc);
  t.set(Row::cli, cli);
  t.set(Row::sti, sti);
  t.set(Row::pushf, pushf);
  t.set(Row::popf, popf);
}

}  // namespace ring3::interp
