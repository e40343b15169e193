// PUSH, POP, LEAVE. The slot is addressed and accessed first; esp changes after the last access that can fault.
#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;

void Emitter::stack_slot(i32 displacement, unsigned size, Table table) {
  register_operand(x86::r12, displacement + esp_pending_, Seg::ss, size, table);
}

bool Emitter::emit_stack(const Insn& insn) {
  // A 16-bit stack pointer is rare in 32-bit kernels; a misaligned one too.
  if ((key_.mode & mode::stack32) == 0 || site_unaligned()) return false;
  switch (insn.row) {
    case Row::push: return emit_push(insn);
    case Row::pop: return emit_pop(insn);
    case Row::leave: return emit_leave(insn);
    default: return false;
  }
}

bool Emitter::emit_push(const Insn& insn) {
  const Operand& o = insn.operand[0];
  const unsigned size = insn.operand_size;
  const i32 step = -static_cast<i32>(size);
  if (o.kind == OperandKind::mem) {
    operand_address(insn, size, Table::read);
    if (size == 4) {
      a_.mov(x86::r11d, host_memory(4));
    } else {
      a_.movzx(x86::r11d, host_memory(2));
    }
  }
  stack_slot(step, size, Table::write);
  const x86::Mem slot = host_memory(size);
  if (o.kind == OperandKind::imm) {
    a_.mov(slot, size == 4 ? insn.imm : insn.imm & 0xFFFFu);
  } else if (o.kind == OperandKind::mem) {
    a_.mov(slot, size == 4 ? Gp(x86::r11d) : Gp(x86::r11w));
  } else {
    a_.mov(slot, size == 4 ? gpr32(o.reg) : gpr16(o.reg));
  }
  move_esp(step);
  return true;
}

bool Emitter::emit_pop(const Insn& insn) {
  const Operand& o = insn.operand[0];
  const unsigned size = insn.operand_size;
  const i32 step = static_cast<i32>(size);
  if (o.kind == OperandKind::reg) {
    stack_slot(0, size, Table::read);
    if (o.reg == esp) {  // the popped value wins over the increment
      if (size == 4) {
        a_.mov(x86::r12d, host_memory(4));
      } else {
        a_.movzx(x86::r11d, host_memory(2));
        add_to_esp(step);
        a_.mov(x86::r12w, x86::r11w);
      }
      return true;
    }
    a_.mov(size == 4 ? gpr32(o.reg) : gpr16(o.reg), host_memory(size));
    move_esp(step);
    return true;
  }
  // POP m: the destination's address is computed with the incremented esp (SDM vol. 2, POP).
  stack_slot(0, size, Table::read);
  if (size == 4) {
    a_.mov(x86::r11d, host_memory(4));
  } else {
    a_.movzx(x86::r11d, host_memory(2));
  }
  Insn shifted = insn;
  if (shifted.mem.base == esp) shifted.mem.displacement += static_cast<u32>(step);
  operand_address(shifted, size, Table::write);
  a_.mov(host_memory(size), size == 4 ? Gp(x86::r11d) : Gp(x86::r11w));
  move_esp(step);
  return true;
}

bool Emitter::emit_leave(const Insn& insn) {
  if (insn.operand_size != 4) return false;
  register_operand(x86::rbp, 0, Seg::ss, 4, Table::read);
  a_.mov(x86::r11d, host_memory(4));  // faults before anything changed
  if (esp_is_host()) {
    a_.lea(x86::r12, x86::ptr(x86::r14, x86::rbp, 0, 4));
  } else {
    a_.lea(x86::r12d, x86::ptr(x86::rbp, 4));
  }
  esp_pending_ = 0;
  a_.mov(x86::ebp, x86::r11d);
  return true;
}

}  // namespace ring3
