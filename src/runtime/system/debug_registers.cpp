// MOV to and from debug registers (SDM vol. 2, MOV; vol. 3, 17.2). guest/breakpoints.h says what their contents mean.
#include "guest/breakpoints.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"

namespace ring3::system {
namespace {

constexpr u32 dr6_writable = dr6::breakpoints | dr6::general_detect | dr6::single_step | dr6::task_switch;

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
  if ((s.dr[7] & dr7::general_detect) == 0) return true;
  s.dr[6] |= dr6::general_detect;
  s.eflags |= flag::rf;  // a fault that is no instruction breakpoint pushes RF; delivery.cpp pushes EFLAGS of a #DB as it finds them
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
    case 6: v.s.dr[6] = (value & dr6_writable) | dr6::fixed1; return Flow::next;
    case 7: v.s.dr[7] = (value & dr7::writable) | dr7::fixed1; break;
    default: v.s.dr[number] = value; break;
  }
  v.mem.breakpoints_changed();
  return Flow::next;
}

}  // namespace

void add_debug_registers(HandlerTable& t) {
  t.set(Row::mov_from_dr, mov_from_dr);
  t.set(Row::mov_to_dr, mov_to_dr);
}

}  // namespace ring3::system
