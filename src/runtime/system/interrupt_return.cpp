// IRET in protected mode (SDM vol. 2, IRET/IRETD, "PROTECTED-MODE-RETURN"). Returns to v8086 mode and from nested tasks
// are not there; the latter are checked, and end the run if they would succeed.
#include "runtime/system/far_return.h"
#include "runtime/system/flat_transfers.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"
#include "runtime/system/stack_switch.h"

namespace ring3::system {
namespace {

// EFLAGS bits that IRET takes from the stack at privilege `cpl`. VIF and VIP stay 0: no CPU model announces VME.
u32 writable_flags(const CpuState& s, unsigned operand_size) {
  u32 mask = flag::status | flag::tf | flag::df | flag::nt;
  if (operand_size == 4) mask |= flag::rf | flag::ac | flag::id;
  if (s.cpl <= s.iopl()) mask |= flag::if_;
  if (s.cpl == 0) mask |= flag::iopl;
  return mask;
}

// "TASK-RETURN": the checks, then the end of the run.
Flow return_from_task(Vcpu& v) {
  const SegmentCache& tr = v.s.tr;
  u16 link = 0;
  if (tr.limit < 1) return v.raise(Vector::invalid_tss, selector_error(tr.selector));
  if (!v.load_system(tr.base, &link, 2) || !check_new_tss(v, link, true, Vector::invalid_tss, 0)) return Flow::fault;
  return missing(v, "IRET from a nested task (EFLAGS.NT)");
}

Flow iret(Vcpu& v, const Insn& insn) {
  CpuState& s = v.s;
  if (v.shortcuts && insn.operand_size == 4 && return_flat(v)) return Flow::jumped;
  if (!s.protected_mode()) return missing(v, "IRET in real mode");
  if (s.v8086()) return missing(v, "IRET in v8086 mode");
  s.nmi_masked = false;  // SDM vol. 3, 6.7.1: even if the IRET faults
  if ((s.eflags & flag::nt) != 0) return return_from_task(v);
  const unsigned size = insn.operand_size;

  u32 new_eip = 0, new_cs = 0, new_eflags = 0;
  // In the order of Intel's CPUs, which read no more than the selector's two bytes.
  if (!peek_stack(v, 2 * size, size, new_eflags) || !peek_stack(v, size, 2, new_cs) || !peek_stack(v, 0, size, new_eip)) {
    return Flow::fault;
  }
  if (size == 4 && (new_eflags & flag::vm) != 0 && s.cpl == 0) return missing(v, "IRET to v8086 mode");

  const u16 selector = static_cast<u16>(new_cs);
  Descriptor code;
  if (!fetch_return_segment(v, selector, code)) return Flow::fault;
  const u32 level = rpl(selector);
  const bool outer = level > s.cpl;
  u32 new_esp = 0, new_ss = 0;
  Descriptor stack;
  if (outer) {
    if (!peek_stack(v, 3 * size, size, new_esp) || !peek_stack(v, 4 * size, size, new_ss)) return Flow::fault;
    if (!fetch_outer_stack(v, static_cast<u16>(new_ss), level, stack)) return Flow::fault;
  }
  if (new_eip > code.limit()) return v.raise(Vector::general_protection, 0);
  if (!mark_accessed(v, code) || (outer && !mark_accessed(v, stack))) return Flow::fault;

  const u32 mask = writable_flags(s, size);
  s.eflags = (s.eflags & ~mask) | (new_eflags & mask);
  if (outer) {
    enter_outer_ring(v, code.cache(selector), new_eip, stack.cache(static_cast<u16>(new_ss)), new_esp);
  } else {
    s.segment(Seg::cs) = code.cache(selector);
    s.eip = new_eip;
    v.set_stack_pointer(v.stack_pointer() + 3 * size);
  }
  return Flow::jumped;
}

}  // namespace

void add_interrupt_return(HandlerTable& t) { t.set(Row::iret, iret); }

}  // namespace ring3::system
