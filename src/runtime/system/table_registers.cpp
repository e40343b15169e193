// LGDT LIDT SGDT SIDT LLDT LTR SLDT STR (SDM vol. 2).
#include "runtime/interp/operands.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"

#include <cstring>

namespace ring3::system {
namespace {

template <DescriptorTable CpuState::*table>
Flow load_table(Vcpu& v, const Insn& insn) {
  if (!insn.has_memory) return v.raise(Vector::invalid_opcode);
  if (!require_cpl0(v)) return Flow::fault;
  const u32 address = v.effective_address(insn);
  u16 limit = 0;
  u32 base = 0;
  if (!v.load(insn.mem.segment, address, limit) || !v.load(insn.mem.segment, address + 2, base)) return Flow::fault;
  v.s.*table = {insn.operand_size == 4 ? base : base & 0xFFFFFFu, limit};
  return Flow::next;
}

// All 32 base bits are stored with either operand size (SDM vol. 2, SGDT, "Operation").
template <DescriptorTable CpuState::*table>
Flow store_table(Vcpu& v, const Insn& insn) {
  if (!insn.has_memory) return v.raise(Vector::invalid_opcode);
  const DescriptorTable& t = v.s.*table;
  u8 image[6];
  const u16 limit = static_cast<u16>(t.limit);
  std::memcpy(image, &limit, 2);
  std::memcpy(image + 2, &t.base, 4);
  return v.store_bytes(insn.mem.segment, v.effective_address(insn), image, 6) ? Flow::next : Flow::fault;
}

Flow lldt(Vcpu& v, const Insn& insn) {
  if (!in_protected_mode(v.s)) return v.raise(Vector::invalid_opcode);
  u16 selector = 0;
  if (!require_cpl0(v) || !interp::read_operand(v, insn, 0, selector)) return Flow::fault;
  if (is_null(selector)) {
    v.s.ldtr = {selector, 0, 0, 0};
    return Flow::next;
  }
  const u32 error = selector_error(selector);
  if ((selector & 4u) != 0) return v.raise(Vector::general_protection, error);
  Descriptor d;
  if (!fetch_descriptor(v, selector, Vector::general_protection, 0, d)) return Flow::fault;
  if (!d.is_system() || d.type() != system_type::ldt) return v.raise(Vector::general_protection, error);
  if (!d.present()) return v.raise(Vector::not_present, error);
  v.s.ldtr = d.cache(selector);
  return Flow::next;
}

Flow ltr(Vcpu& v, const Insn& insn) {
  if (!in_protected_mode(v.s)) return v.raise(Vector::invalid_opcode);
  u16 selector = 0;
  if (!require_cpl0(v) || !interp::read_operand(v, insn, 0, selector)) return Flow::fault;
  if (is_null(selector)) return v.raise(Vector::general_protection, 0);
  const u32 error = selector_error(selector);
  if ((selector & 4u) != 0) return v.raise(Vector::general_protection, error);
  Descriptor d;
  if (!fetch_descriptor(v, selector, Vector::general_protection, 0, d)) return Flow::fault;
  if (!d.is_available_tss()) return v.raise(Vector::general_protection, error);
  if (!d.present()) return v.raise(Vector::not_present, error);
  const u64 available = d.low | u64{d.high} << 32;
  d.high |= 0x200u;  // busy, in memory and in the register
  const u8 rights = static_cast<u8>(d.high >> 8);
  if (!v.store_system(d.address + 5, &rights, 1)) return Flow::fault;
  v.s.tr = d.cache(selector);
  v.s.link.task = {available, v.s.tr};
  return Flow::next;
}

// A register takes the selector zero-extended to the operand size, memory always 16 bits.
template <SegmentCache CpuState::*table>
Flow store_selector(Vcpu& v, const Insn& insn) {
  if (!in_protected_mode(v.s)) return v.raise(Vector::invalid_opcode);
  const u16 selector = (v.s.*table).selector;
  if (insn.operand[0].kind == OperandKind::mem) {
    return v.store(insn.mem.segment, v.effective_address(insn), selector) ? Flow::next : Flow::fault;
  }
  if (insn.operand_size == 4)
    v.set_reg32(insn.operand[0].reg, selector);
  else
    v.set_reg16(insn.operand[0].reg, selector);
  return Flow::next;
}

}  // namespace

void add_table_registers(HandlerTable& t) {
  t.set(Row::lgdt, load_table<&CpuState::gdtr>);
  t.set(Row::lidt, load_table<&CpuState::idtr>);
  t.set(Row::sgdt, store_table<&CpuState::gdtr>);
  t.set(Row::sidt, store_table<&CpuState::idtr>);
  t.set(Row::lldt, lldt);
  t.set(Row::ltr, ltr);
  t.set(Row::sldt, store_selector<&CpuState::ldtr>);
  t.set(Row::str, store_selector<&CpuState::tr>);
}

}  // namespace ring3::system
