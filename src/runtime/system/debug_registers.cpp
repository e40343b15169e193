// MOV to and from debug registers (SDM vol. 3, 17.2). Breakpoints themselves are not there: enabling one ends the run.
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"

namespace ring3::system {
namespace {

constexpr u32 dr6_ones = 0xFFFF0FF0, dr6_writable = 0x0000E00F, dr6_bd = 1u << 13;
constexpr u32 dr7_ones = 1u << 10, dr7_writable = 0xFFFF23FF, dr7_gd = 1u << 13, dr7_enables = 0xFF;

// DR4 and DR5 name DR6 and DR7 unless CR4.DE is set. Nothing: `flow` says which fault.
bool open_register(Vcpu& v, unsigned& number) {
  CpuState& s = v.s;
  if (number == 4 || number == 5) {
    if ((s.cr4 & cr4::de) != 0) {
      v.raise(Vector::invalid_opcode);
      return false;
    }
    number += 2;
  }
  if (!require_cpl0(v)) return false;
  if ((s.dr[7] & dr7_gd) == 0) return true;
  s.dr[6] |= dr6_bd;
  s.eflags |= flag::rf;  // this #DB is a fault: delivery.cpp pushes EFLAGS as it finds it
  v.raise(Vector::debug);
  return false;
}

Flow mov_from_dr(Vcpu& v, const Insn& insn) {
  unsigned number = insn.operand[1].reg;
  if (!open_register(v, number)) return Flow::fault;
  v.set_reg32(insn.operand[0].reg, v.s.dr[number]);
  return Flow::next;
}

Flow mov_to_dr(Vcpu& v, const Insn& insn) {
  unsigned number = insn.operand[0].reg;
  if (!open_register(v, number)) return Flow::fault;
  const u32 value = v.reg32(insn.operand[1].reg);
  switch (number) {
    case 6: v.s.dr[6] = (value & dr6_writable) | dr6_ones; break;
    case 7:
      if ((value & dr7_enables) != 0) return missing(v, "breakpoint enabled in DR7");
      v.s.dr[7] = (value & dr7_writable) | dr7_ones;
      break;
    default: v.s.dr[number] = value; break;
  }
  return Flow::next;
}

}  // namespace

void add_debug_registers(HandlerTable& t) {
  t.set(Row::mov_from_dr, mov_from_dr);
  t.set(Row::mov_to_dr, mov_to_dr);
}

}  // namespace ring3::system
