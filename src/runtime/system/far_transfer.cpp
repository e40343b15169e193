// Far JMP, CALL and RET in protected mode (SDM vol. 2; vol. 3, 5.8). Task switches are not there: they are checked, and
// end the run if they would succeed.
#include "runtime/interp/stack_access.h"
#include "runtime/system/far_return.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"
#include "runtime/system/stack_switch.h"

#include <array>

namespace ring3::system {
namespace {

constexpr const char* outside_protected_mode = "far transfer in real or v8086 mode";

struct FarPointer {
  u32 offset = 0;
  u16 selector = 0;
};

bool read_pointer(Vcpu& v, const Insn& insn, FarPointer& out) {
  if (insn.operand[0].kind == OperandKind::far_pointer) {
    out = {insn.imm, static_cast<u16>(insn.imm2)};
    return true;
  }
  const u32 address = v.effective_address(insn);
  const u32 address_mask = insn.address_size == 4 ? ~0u : 0xFFFFu;
  return v.load_bytes(insn.mem.segment, address, &out.offset, insn.operand_size) &&
         v.load(insn.mem.segment, (address + insn.operand_size) & address_mask, out.selector);
}

// Faults of a direct transfer to a code segment.
bool check_direct(Vcpu& v, u16 selector, const Descriptor& d) {
  const bool allowed = d.is_conforming() ? d.dpl() <= v.s.cpl : rpl(selector) <= v.s.cpl && d.dpl() == v.s.cpl;
  if (!allowed) return refuse(v, Vector::general_protection, selector_error(selector));
  return d.present() || refuse(v, Vector::not_present, selector_error(selector));
}

// Faults of any gate or TSS named by a far transfer.
bool check_gate(Vcpu& v, u16 selector, const Descriptor& gate) {
  if (gate.dpl() < v.s.cpl || gate.dpl() < rpl(selector)) return refuse(v, Vector::general_protection, selector_error(selector));
  return gate.present() || refuse(v, Vector::not_present, selector_error(selector));
}

// The code segment that a call gate names. `jump`: no change of privilege.
bool fetch_gate_target(Vcpu& v, const Descriptor& gate, bool jump, Descriptor& code) {
  const u16 selector = gate.gate_selector();
  if (is_null(selector)) return refuse(v, Vector::general_protection, 0);
  if (!fetch_descriptor(v, selector, Vector::general_protection, 0, code)) return false;
  const bool level_fits = jump && !code.is_conforming() ? code.dpl() == v.s.cpl : code.dpl() <= v.s.cpl;
  if (!code.is_code() || !level_fits) return refuse(v, Vector::general_protection, selector_error(selector));
  return code.present() || refuse(v, Vector::not_present, selector_error(selector));
}

void enter(Vcpu& v, const Descriptor& code, u16 selector, u32 level, u32 target) {
  v.s.segment(Seg::cs) = code.cache(with_rpl(selector, level));
  v.s.cpl = static_cast<u8>(level);
  v.s.eip = target;
}

Flow jump_within_ring(Vcpu& v, Descriptor& code, u16 selector, u32 target) {
  if (target > code.limit()) return v.raise(Vector::general_protection, 0);
  if (!mark_accessed(v, code)) return Flow::fault;
  enter(v, code, selector, v.s.cpl, target);
  return Flow::jumped;
}

template <typename T>
Flow call_within_ring(Vcpu& v, Descriptor& code, u16 selector, u32 target, u32 return_eip) {
  interp::StackCursor stack(v);
  // The manual compares EIP with the limit before it pushes. Intel CPUs push CS, then EIP, then compare: a page fault comes before #GP(0),
  // and what was pushed before a fault stays in memory, below the stack pointer.
  if (!stack.push(static_cast<T>(v.s.segment(Seg::cs).selector)) || !stack.push(static_cast<T>(return_eip))) return Flow::fault;
  if (target > code.limit()) return v.raise(Vector::general_protection, 0);
  if (!mark_accessed(v, code)) return Flow::fault;
  stack.commit();
  enter(v, code, selector, v.s.cpl, target);
  return Flow::jumped;
}

Flow call_within_ring(Vcpu& v, unsigned size, Descriptor& code, u16 selector, u32 target, u32 return_eip) {
  return size == 4 ? call_within_ring<u32>(v, code, selector, target, return_eip)
                   : call_within_ring<u16>(v, code, selector, target, return_eip);
}

// Call through a gate to a more privileged ring: stack from the TSS, parameters copied (SDM vol. 3, 5.8.5).
Flow call_inner_ring(Vcpu& v, const Descriptor& gate, Descriptor& code, u32 return_eip) {
  CpuState& s = v.s;
  const unsigned size = gate.is_gate32() ? 4 : 2;
  const u32 count = gate.parameter_count();
  const u32 level = code.dpl();
  PendingStack stack;
  if (!PendingStack::inner(v, level, 0, stack)) return Flow::fault;
  if (!stack.has_room(v, count + 4, size)) return Flow::fault;
  if (gate.gate_offset() > code.limit()) return v.raise(Vector::general_protection, 0);
  if (!stack.make_writable(v, count + 4, size)) return Flow::fault;
  std::array<u32, 32> parameter{};
  for (u32 i = 0; i < count; ++i) {
    if (!peek_stack(v, i * size, size, parameter[i])) return Flow::fault;
  }
  if (!mark_accessed(v, code)) return Flow::fault;

  bool pushed = stack.push(v, s.segment(Seg::ss).selector, size) && stack.push(v, s.gpr[esp], size);
  for (u32 i = count; pushed && i > 0; --i) pushed = stack.push(v, parameter[i - 1], size);
  pushed = pushed && stack.push(v, s.segment(Seg::cs).selector, size) && stack.push(v, return_eip, size);
  if (!pushed) return Flow::fault;
  stack.adopt(v);
  enter(v, code, gate.gate_selector(), level, gate.gate_offset());
  return Flow::jumped;
}

bool is_task_switch(const Descriptor& d) { return d.is_available_tss() || d.type() == system_type::task_gate; }

bool is_call_gate(const Descriptor& d) { return d.type() == system_type::call_gate16 || d.type() == system_type::call_gate32; }

// Reads the operand and the descriptor it names.
bool fetch_target(Vcpu& v, const Insn& insn, FarPointer& pointer, Descriptor& d) {
  if (!read_pointer(v, insn, pointer)) return false;
  if (is_null(pointer.selector)) return refuse(v, Vector::general_protection, 0);
  return fetch_descriptor(v, pointer.selector, Vector::general_protection, 0, d);
}

Flow system_target_fault(Vcpu& v, u16 selector, const Descriptor& d) {
  if (!is_task_switch(d)) return v.raise(Vector::general_protection, selector_error(selector));
  if (!check_gate(v, selector, d)) return Flow::fault;
  const u16 tss = d.is_available_tss() ? selector : d.gate_selector();
  if (!check_new_tss(v, tss, false, Vector::general_protection, 0)) return Flow::fault;
  return missing(v, "hardware task switch by a far JMP or CALL");
}

Flow jmp_far(Vcpu& v, const Insn& insn) {
  if (!in_protected_mode(v.s)) return missing(v, outside_protected_mode);
  FarPointer pointer;
  Descriptor d;
  if (!fetch_target(v, insn, pointer, d)) return Flow::fault;
  if (d.is_code()) {
    if (!check_direct(v, pointer.selector, d)) return Flow::fault;
    return jump_within_ring(v, d, pointer.selector, pointer.offset);
  }
  if (!d.is_system() || !is_call_gate(d)) {
    return d.is_system() ? system_target_fault(v, pointer.selector, d)
                         : v.raise(Vector::general_protection, selector_error(pointer.selector));
  }
  Descriptor code;
  if (!check_gate(v, pointer.selector, d) || !fetch_gate_target(v, d, true, code)) return Flow::fault;
  return jump_within_ring(v, code, d.gate_selector(), d.gate_offset());
}

Flow call_far(Vcpu& v, const Insn& insn) {
  if (!in_protected_mode(v.s)) return missing(v, outside_protected_mode);
  const u32 return_eip = v.s.eip + insn.length;
  FarPointer pointer;
  Descriptor d;
  if (!fetch_target(v, insn, pointer, d)) return Flow::fault;
  if (d.is_code()) {
    if (!check_direct(v, pointer.selector, d)) return Flow::fault;
    return call_within_ring(v, insn.operand_size, d, pointer.selector, pointer.offset, return_eip);
  }
  if (!d.is_system() || !is_call_gate(d)) {
    return d.is_system() ? system_target_fault(v, pointer.selector, d)
                         : v.raise(Vector::general_protection, selector_error(pointer.selector));
  }
  Descriptor code;
  if (!check_gate(v, pointer.selector, d) || !fetch_gate_target(v, d, false, code)) return Flow::fault;
  if (!code.is_conforming() && code.dpl() < v.s.cpl) return call_inner_ring(v, d, code, return_eip);
  return call_within_ring(v, d.is_gate32() ? 4 : 2, code, d.gate_selector(), d.gate_offset(), return_eip);
}

Flow ret_far(Vcpu& v, const Insn& insn) {
  if (!in_protected_mode(v.s)) return missing(v, outside_protected_mode);
  CpuState& s = v.s;
  const unsigned size = insn.operand_size;
  const u32 released = insn.operand_count == 0 ? 0 : insn.imm & 0xFFFFu;
  u32 new_eip = 0, new_cs = 0;
  // In the order of Intel's CPUs, which read no more than the selector's two bytes.
  if (!peek_stack(v, size, 2, new_cs) || !peek_stack(v, 0, size, new_eip)) return Flow::fault;
  const u16 selector = static_cast<u16>(new_cs);
  Descriptor code;
  if (!fetch_return_segment(v, selector, code)) return Flow::fault;
  const u32 level = rpl(selector);
  if (level == s.cpl) {
    if (new_eip > code.limit()) return v.raise(Vector::general_protection, 0);
    if (!mark_accessed(v, code)) return Flow::fault;
    enter(v, code, selector, level, new_eip);
    v.set_stack_pointer(v.stack_pointer() + 2 * size + released);
    return Flow::jumped;
  }
  u32 new_esp = 0, new_ss = 0;
  if (!peek_stack(v, 2 * size + released, size, new_esp) || !peek_stack(v, 3 * size + released, size, new_ss)) return Flow::fault;
  Descriptor stack;
  if (!fetch_outer_stack(v, static_cast<u16>(new_ss), level, stack)) return Flow::fault;
  if (new_eip > code.limit()) return v.raise(Vector::general_protection, 0);
  if (!mark_accessed(v, code) || !mark_accessed(v, stack)) return Flow::fault;
  enter_outer_ring(v, code.cache(selector), new_eip, stack.cache(static_cast<u16>(new_ss)), new_esp + released);
  return Flow::jumped;
}

}  // namespace

void add_far_transfers(HandlerTable& t) {
  t.set(Row::jmp_far, jmp_far);
  t.set(Row::call_far, call_far);
  t.set(Row::ret_far, ret_far);
}

}  // namespace ring3::system
