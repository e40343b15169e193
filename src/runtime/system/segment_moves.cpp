// MOV, PUSH and POP of segment registers; LDS LES LFS LGS LSS (SDM vol. 2).
#include "runtime/interp/operands.h"
#include "runtime/interp/stack_access.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"
#include "runtime/system/segment_load.h"

namespace ring3::system {
namespace {

constexpr const char* outside_protected_mode = "segment register load in real or v8086 mode";

Flow mov_to_sreg(Vcpu& v, const Insn& insn) {
  const Seg segment = static_cast<Seg>(insn.operand[0].reg);
  if (segment == Seg::cs) return v.raise(Vector::invalid_opcode);
  if (!in_protected_mode(v.s)) return missing(v, outside_protected_mode);
  u16 selector = 0;
  if (!interp::read_operand(v, insn, 1, selector) || !load_segment(v, segment, selector)) return Flow::fault;
  if (segment == Seg::ss) v.s.shadow = Shadow::mov_ss;
  return Flow::next;
}

// A register takes the selector zero-extended to the operand size, memory always 16 bits.
Flow mov_from_sreg(Vcpu& v, const Insn& insn) {
  const u16 selector = v.s.seg[insn.operand[1].reg].selector;
  if (insn.operand[0].kind == OperandKind::mem) {
    return v.store(insn.mem.segment, v.effective_address(insn), selector) ? Flow::next : Flow::fault;
  }
  if (insn.operand_size == 4)
    v.set_reg32(insn.operand[0].reg, selector);
  else
    v.set_reg16(insn.operand[0].reg, selector);
  return Flow::next;
}

// A 32-bit push writes two of its four bytes, as Intel's CPUs do since the first Core (SDM vol. 2, PUSH).
Flow push_sreg(Vcpu& v, const Insn& insn) {
  const u16 selector = v.s.seg[insn.operand[0].reg].selector;
  interp::StackCursor stack(v);
  stack.skip(0u - insn.operand_size);
  if (!v.store(Seg::ss, stack.pointer(), selector)) return Flow::fault;
  stack.commit();
  return Flow::next;
}

Flow pop_sreg(Vcpu& v, const Insn& insn) {
  const Seg segment = static_cast<Seg>(insn.operand[0].reg);
  if (segment == Seg::cs) return v.raise(Vector::invalid_opcode);
  if (!in_protected_mode(v.s)) return missing(v, outside_protected_mode);
  u16 selector = 0;  // the upper half of a 32-bit slot is not read
  const u32 offset = v.stack_pointer();
  if (!v.load(Seg::ss, offset, selector)) return Flow::fault;
  const bool wide_pointer = v.s.segment(Seg::ss).big();  // POP SS: the old stack's width counts
  if (!load_segment(v, segment, selector)) return Flow::fault;
  const u32 after = offset + insn.operand_size;
  if (wide_pointer)
    v.set_reg32(esp, after);
  else
    v.set_reg16(esp, static_cast<u16>(after));
  if (segment == Seg::ss) v.s.shadow = Shadow::mov_ss;
  return Flow::next;
}

template <Seg segment>
Flow load_far_pointer(Vcpu& v, const Insn& insn) {
  if (!insn.has_memory) return v.raise(Vector::invalid_opcode);
  if (!in_protected_mode(v.s)) return missing(v, outside_protected_mode);
  const u32 address = v.effective_address(insn);
  const u32 address_mask = insn.address_size == 4 ? ~0u : 0xFFFFu;
  u32 offset = 0;
  u16 selector = 0;
  if (!v.load_bytes(insn.mem.segment, address, &offset, insn.operand_size)) return Flow::fault;
  if (!v.load(insn.mem.segment, (address + insn.operand_size) & address_mask, selector)) return Flow::fault;
  if (!load_segment(v, segment, selector)) return Flow::fault;
  if (insn.operand_size == 4)
    v.set_reg32(insn.operand[0].reg, offset);
  else
    v.set_reg16(insn.operand[0].reg, static_cast<u16>(offset));
  return Flow::next;
}

}  // namespace

void add_segment_moves(HandlerTable& t) {
  t.set(Row::mov_to_sreg, mov_to_sreg);
  t.set(Row::mov_from_sreg, mov_from_sreg);
  t.set(Row::push_sreg, push_sreg);
  t.set(Row::pop_sreg, pop_sreg);
  t.set(Row::les, load_far_pointer<Seg::es>);
  t.set(Row::lds, load_far_pointer<Seg::ds>);
  t.set(Row::lss, load_far_pointer<Seg::ss>);
  t.set(Row::lfs, load_far_pointer<Seg::fs>);
  t.set(Row::lgs, load_far_pointer<Seg::gs>);
}

}  // namespace ring3::system
