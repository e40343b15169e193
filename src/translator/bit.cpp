#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;

// BT, BTS, BTR, BTC with a memory operand and a register index reach other memory than their operand: the index is a signed bit offset
// (SDM vol. 2, BT). The dword that holds the bit is addressed here, and the host instruction gets the index within it.
bool Emitter::emit_bit_test(const Insn& insn) {
  const bool bit_test = insn.row == Row::bt || insn.row == Row::bts || insn.row == Row::btr || insn.row == Row::btc;
  if (!bit_test || !insn.has_memory || insn.operand[1].kind != OperandKind::reg) return emit_copy(insn);
  if (insn.operand_size == 2 || insn.address_size == 2 || site_unaligned()) return false;  // rare: 16-bit bit strings
  const Gp index = gpr32(insn.operand[1].reg);
  effective_address(insn, x86::r8d);
  a_.mov(x86::r10d, 5);
  a_.sarx(x86::r11d, index, x86::r10d);
  a_.lea(x86::r8d, x86::ptr(x86::r8, x86::r11, 2));
  const Table table = insn.row == Row::bt ? Table::read : Table::write;
  to_linear(insn.mem.segment, 4, table);
  a_.mov(x86::r10d, 27);
  a_.shlx(x86::r11d, index, x86::r10d);
  a_.shrx(x86::r11d, x86::r11d, x86::r10d);
  a_.mov(x86::r10d, 10);
  look_up(4, table);
  const x86::Mem mem = host_memory(4);
  if (insn.lock) a_.lock();
  switch (insn.row) {
    case Row::bt: a_.bt(mem, x86::r11d); break;
    case Row::bts: a_.bts(mem, x86::r11d); break;
    case Row::btr: a_.btr(mem, x86::r11d); break;
    default: a_.btc(mem, x86::r11d); break;
  }
  return true;
}

bool Emitter::emit_xlat() {
  if (insn_->address_size == 2) return false;
  a_.movzx(x86::r8d, x86::al);
  a_.lea(x86::r8d, x86::ptr(x86::rbx, x86::r8));
  to_linear(insn_->mem.segment, 1, Table::read);
  look_up(1, Table::read);
  a_.mov(x86::al, host_memory(1));
  return true;
}

}  // namespace ring3
