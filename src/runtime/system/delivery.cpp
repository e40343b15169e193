// Events through interrupt and trap gates: SDM vol. 2, INT n ("Operation", protected mode) and vol. 3, 6.11 to 6.15.
#include "runtime/system/delivery.h"

#include "runtime/system/flat_transfers.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"
#include "runtime/system/stack_switch.h"

namespace ring3 {
namespace {

struct Event : GateEvent {
  u32 ext = 1;  // 0 for INT n, INT3 and INTO: goes into error codes of faults during delivery
};

// Error code that names an IDT entry.
u32 vector_error(const Event& e) { return u32{e.vector} * 8 + 2 + e.ext; }

bool is_event_gate(const Descriptor& gate) {
  if (!gate.is_system()) return false;
  switch (gate.type()) {
    case system_type::task_gate:
    case system_type::interrupt_gate16:
    case system_type::trap_gate16:
    case system_type::interrupt_gate32:
    case system_type::trap_gate32: return true;
    default: return false;
  }
}

bool fetch_gate(Vcpu& v, const Event& e, Descriptor& gate) {
  const u32 error = vector_error(e);
  if (u32{e.vector} * 8 + 7 > v.s.idtr.limit) return refuse(v, Vector::general_protection, error);
  const u32 address = v.s.idtr.base + u32{e.vector} * 8;
  u64 bytes = 0;
  if (!v.load_system(address, &bytes, 8)) return false;
  gate = {static_cast<u32>(bytes), static_cast<u32>(bytes >> 32), address};
  if (!is_event_gate(gate)) return refuse(v, Vector::general_protection, error);
  if (e.check_dpl && gate.dpl() < v.s.cpl) return refuse(v, Vector::general_protection, error);
  return gate.present() || refuse(v, Vector::not_present, error);
}

bool fetch_handler_segment(Vcpu& v, const Event& e, u16 selector, Descriptor& code) {
  if (is_null(selector)) return refuse(v, Vector::general_protection, e.ext);
  const u32 error = selector_error(selector, e.ext);
  if (!fetch_descriptor(v, selector, Vector::general_protection, e.ext, code)) return false;
  if (!code.is_code() || code.dpl() > v.s.cpl) return refuse(v, Vector::general_protection, error);
  return code.present() || refuse(v, Vector::not_present, error);
}

// One attempt. Flow::jumped: the CPU is at the handler's first instruction. Flow::fault: `v.fault`, registers unchanged.
Flow attempt(Vcpu& v, const Event& e) {
  CpuState& s = v.s;
  if (v.shortcuts && deliver_flat(v, e)) return Flow::jumped;
  if (!s.protected_mode()) return missing(v, "interrupt or exception in real mode");
  if (s.v8086()) return missing(v, "interrupt or exception in v8086 mode");

  Descriptor gate;
  if (!fetch_gate(v, e, gate)) return Flow::fault;
  if (gate.type() == system_type::task_gate) {
    if (!check_new_tss(v, gate.gate_selector(), false, Vector::general_protection, e.ext)) return Flow::fault;
    return missing(v, "interrupt or exception through a task gate");
  }
  Descriptor code;
  if (!fetch_handler_segment(v, e, gate.gate_selector(), code)) return Flow::fault;

  const unsigned size = gate.is_gate32() ? 4 : 2;
  const u32 target = gate.gate_offset();
  const bool inner = !code.is_conforming() && code.dpl() < s.cpl;
  const u32 level = inner ? code.dpl() : s.cpl;
  PendingStack stack = PendingStack::current(v, e.ext);
  if (inner && !PendingStack::inner(v, level, e.ext, stack)) return Flow::fault;
  const unsigned items = (inner ? 5u : 3u) + (e.has_error_code ? 1u : 0u);
  if (!stack.has_room(v, items, size)) return Flow::fault;
  if (target > code.limit()) return v.raise(Vector::general_protection, e.ext);
  if (!stack.make_writable(v, items, size) || !mark_accessed(v, code)) return Flow::fault;

  bool pushed = true;
  if (inner) pushed = stack.push(v, s.segment(Seg::ss).selector, size) && stack.push(v, s.gpr[esp], size);
  pushed = pushed && stack.push(v, e.pushed_eflags, size) && stack.push(v, s.segment(Seg::cs).selector, size) &&
           stack.push(v, e.return_eip, size);
  if (pushed && e.has_error_code) pushed = stack.push(v, e.error_code, size);
  if (!pushed) return Flow::fault;

  stack.adopt(v);
  s.segment(Seg::cs) = code.cache(with_rpl(gate.gate_selector(), level));
  s.cpl = static_cast<u8>(level);
  s.eip = target;
  s.eflags &= ~(flag::tf | flag::nt | flag::rf | flag::vm);
  if (gate.type() == system_type::interrupt_gate16 || gate.type() == system_type::interrupt_gate32) s.eflags &= ~flag::if_;
  s.shadow = Shadow::none;
  s.halted = false;
  return Flow::jumped;
}

// Classes of SDM vol. 3, table 6-4.
enum class Severity : u8 { benign, contributory, page, double_fault };

Severity severity(Vector vector) {
  switch (vector) {
    case Vector::divide:
    case Vector::invalid_tss:
    case Vector::not_present:
    case Vector::stack:
    case Vector::general_protection: return Severity::contributory;
    case Vector::page: return Severity::page;
    case Vector::double_fault: return Severity::double_fault;
    default: return Severity::benign;
  }
}

// Does `second`, raised while `first` was delivered, make a double fault (SDM vol. 3, table 6-5)?
bool doubles(Severity first, Severity second) {
  if (second == Severity::benign) return false;
  if (first == Severity::contributory) return second == Severity::contributory;
  return first == Severity::page;
}

// Traps push the EFLAGS they find; faults push RF so that the restarted instruction is not stopped by the same code breakpoint again
// (SDM vol. 3, 17.3.1.1). #DB pushes what it finds: RF is set there already for general detect and between two elements of a REP, and clear
// for instruction breakpoints, whose handler sets it.
bool pushes_rf(Vector vector) { return vector != Vector::debug && vector != Vector::breakpoint && vector != Vector::overflow; }

Event fault_event(const Vcpu& v, const Fault& fault) {
  Event e;
  e.vector = static_cast<u8>(fault.vector);
  e.has_error_code = fault.has_error_code;
  e.error_code = fault.error_code;
  e.return_eip = v.s.eip;
  e.pushed_eflags = v.s.eflags | (pushes_rf(fault.vector) ? flag::rf : 0u);
  return e;
}

}  // namespace

Delivery deliver_fault(Vcpu& v) {
  Fault current = v.fault;
  for (;;) {
    if (current.vector == Vector::page) v.s.cr2 = current.address;
    switch (attempt(v, fault_event(v, current))) {
      case Flow::jumped:
        if (current.vector == Vector::debug) v.s.dr[7] &= ~(1u << 13);  // GD, so that the handler may use DRs (SDM vol. 3, 17.2.4)
        return Delivery::done;
      case Flow::fault: break;
      default: return Delivery::missing;
    }
    if (current.vector == Vector::alignment && v.fault.vector == Vector::alignment) {
      // Benign twice, so one after the other: a CPU whose #AC handler is in ring 3 and whose stack is misaligned never gets out of this,
      // not even by an interrupt.
      v.missing = "a way out of an alignment check that its own delivery raises again";
      return Delivery::missing;
    }
    const Severity first = severity(current.vector);
    const Severity second = severity(v.fault.vector);
    if (first == Severity::double_fault && second != Severity::benign) return Delivery::triple_fault;
    if (doubles(first, second)) {
      if (second == Severity::page) v.s.cr2 = v.fault.address;
      current = {Vector::double_fault, true, 0, 0};
    } else {
      current = v.fault;
    }
  }
}

Delivery deliver_interrupt(Vcpu& v, u8 vector) {
  Event e;
  e.vector = vector;
  e.return_eip = v.s.eip;
  e.pushed_eflags = v.s.eflags;
  v.s.halted = false;
  switch (attempt(v, e)) {
    case Flow::jumped: return Delivery::done;
    case Flow::fault: return deliver_fault(v);
    default: return Delivery::missing;
  }
}

Flow software_interrupt(Vcpu& v, u8 vector, u32 return_eip, bool check_dpl) {
  Event e;
  e.vector = vector;
  e.ext = check_dpl ? 0 : 1;
  e.check_dpl = check_dpl;
  e.return_eip = return_eip;
  e.pushed_eflags = v.s.eflags & ~flag::rf;  // cleared when the instruction began (SDM vol. 3, 17.3.1.1)
  return attempt(v, e);
}

namespace system {
namespace {

u32 next_eip(const Vcpu& v, const Insn& insn) { return v.s.eip + insn.length; }

Flow int_(Vcpu& v, const Insn& insn) { return software_interrupt(v, static_cast<u8>(insn.imm), next_eip(v, insn), true); }

Flow int3(Vcpu& v, const Insn& insn) { return software_interrupt(v, static_cast<u8>(Vector::breakpoint), next_eip(v, insn), true); }

Flow into(Vcpu& v, const Insn& insn) {
  if ((v.s.eflags & flag::of) == 0) return Flow::next;
  return software_interrupt(v, static_cast<u8>(Vector::overflow), next_eip(v, insn), true);
}

Flow int1(Vcpu& v, const Insn& insn) {
  const Flow flow = software_interrupt(v, static_cast<u8>(Vector::debug), next_eip(v, insn), false);
  if (flow == Flow::jumped) v.s.dr[7] &= ~(1u << 13);
  return flow;
}

}  // namespace

void add_software_interrupts(HandlerTable& t) {
  t.set(Row::int_, int_);
  t.set(Row::int3, int3);
  t.set(Row::into, into);
  t.set(Row::int1, int1);
}

}  // namespace system
}  // namespace ring3
