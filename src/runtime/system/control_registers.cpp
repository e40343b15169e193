// Control registers (SDM vol. 2, MOV to/from CR, LMSW, SMSW, CLTS, INVLPG; vol. 3, 2.5 and 4.10.4).
#include "runtime/interp/operands.h"
#include "runtime/system/cpu_model.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"

namespace ring3::system {
namespace {

constexpr u32 cr0_defined = cr0::pe | cr0::mp | cr0::em | cr0::ts | cr0::et | cr0::ne | cr0::wp | cr0::am | cr0::nw | cr0::cd | cr0::pg;

bool uses_pae(u32 new_cr0, u32 new_cr4) { return (new_cr0 & cr0::pg) != 0 && (new_cr4 & cr4::pae) != 0; }

// PDPTEs are read when paging or its kind changes under PAE (SDM vol. 3, 4.4.1). False: #GP(0).
bool reload_pdptes(Vcpu& v, u32 new_cr3) { return v.mem.load_pdptes(new_cr3) || refuse(v, Vector::general_protection, 0); }

bool set_cr0(Vcpu& v, u32 value) {
  CpuState& s = v.s;
  const u32 next = (value & cr0_defined) | cr0::et;
  if ((next & cr0::pg) != 0 && (next & cr0::pe) == 0) return refuse(v, Vector::general_protection, 0);
  if ((next & cr0::nw) != 0 && (next & cr0::cd) == 0) return refuse(v, Vector::general_protection, 0);
  const u32 changed = s.cr0 ^ next;
  if (uses_pae(next, s.cr4) && (changed & (cr0::pg | cr0::cd | cr0::nw)) != 0 && !reload_pdptes(v, s.cr3)) return false;
  s.cr0 = next;
  if ((changed & (cr0::pg | cr0::wp | cr0::pe)) != 0) v.mem.flush_all();
  return true;
}

bool set_cr3(Vcpu& v, u32 value) {
  CpuState& s = v.s;
  if (uses_pae(s.cr0, s.cr4) && !reload_pdptes(v, value)) return false;
  s.cr3 = value;
  if ((s.cr4 & cr4::pge) != 0)
    v.mem.flush_non_global();
  else
    v.mem.flush_global();
  return true;
}

bool set_cr4(Vcpu& v, u32 value) {
  CpuState& s = v.s;
  if ((value & ~v.model.cr4_allowed()) != 0) return refuse(v, Vector::general_protection, 0);
  constexpr u32 paging_bits = cr4::pge | cr4::pse | cr4::pae;
  const u32 changed = s.cr4 ^ value;
  if (uses_pae(s.cr0, value) && (changed & paging_bits) != 0 && !reload_pdptes(v, s.cr3)) return false;
  s.cr4 = value;
  if ((changed & (cr4::pse | cr4::pae)) != 0)
    v.mem.flush_all();
  else if ((changed & cr4::pge) != 0)
    v.mem.flush_global();
  return true;
}

Flow mov_to_cr(Vcpu& v, const Insn& insn) {
  const unsigned number = insn.operand[0].reg;
  if (number == 1 || number > 4) return v.raise(Vector::invalid_opcode);
  if (!require_cpl0(v)) return Flow::fault;
  const u32 value = v.reg32(insn.operand[1].reg);
  bool done = true;
  switch (number) {
    case 0: done = set_cr0(v, value); break;
    case 2: v.s.cr2 = value; break;
    case 3: done = set_cr3(v, value); break;
    default: done = set_cr4(v, value); break;
  }
  return done ? Flow::next : Flow::fault;
}

Flow mov_from_cr(Vcpu& v, const Insn& insn) {
  const unsigned number = insn.operand[1].reg;
  if (number == 1 || number > 4) return v.raise(Vector::invalid_opcode);
  if (!require_cpl0(v)) return Flow::fault;
  const u32 value = number == 0 ? v.s.cr0 : number == 2 ? v.s.cr2 : number == 3 ? v.s.cr3 : v.s.cr4;
  v.set_reg32(insn.operand[0].reg, value);
  return Flow::next;
}

// PE can be set, not cleared.
Flow lmsw(Vcpu& v, const Insn& insn) {
  u16 word = 0;
  if (!require_cpl0(v) || !interp::read_operand(v, insn, 0, word)) return Flow::fault;
  constexpr u32 loaded = cr0::pe | cr0::mp | cr0::em | cr0::ts;
  const u32 next = (v.s.cr0 & ~(loaded & ~cr0::pe)) | (word & loaded);
  return set_cr0(v, next) ? Flow::next : Flow::fault;
}

// A 32-bit register gets all of CR0, as current CPUs do where the manual leaves bits 31:16 undefined.
Flow smsw(Vcpu& v, const Insn& insn) {
  if (insn.operand[0].kind == OperandKind::mem) {
    return v.store(insn.mem.segment, v.effective_address(insn), static_cast<u16>(v.s.cr0)) ? Flow::next : Flow::fault;
  }
  if (insn.operand_size == 4)
    v.set_reg32(insn.operand[0].reg, v.s.cr0);
  else
    v.set_reg16(insn.operand[0].reg, static_cast<u16>(v.s.cr0));
  return Flow::next;
}

Flow clts(Vcpu& v, const Insn&) {
  if (!require_cpl0(v)) return Flow::fault;
  v.s.cr0 &= ~cr0::ts;
  return Flow::next;
}

// No segment check: the operand is an address, not an access.
Flow invlpg(Vcpu& v, const Insn& insn) {
  if (!insn.has_memory) return v.raise(Vector::invalid_opcode);
  if (!require_cpl0(v)) return Flow::fault;
  v.mem.flush_page(v.s.segment(insn.mem.segment).base + v.effective_address(insn));
  return Flow::next;
}

}  // namespace

void add_control_registers(HandlerTable& t) {
  t.set(Row::mov_to_cr, mov_to_cr);
  t.set(Row::mov_from_cr, mov_from_cr);
  t.set(Row::lmsw, lmsw);
  t.set(Row::smsw, smsw);
  t.set(Row::clts, clts);
  t.set(Row::invlpg, invlpg);
}

}  // namespace ring3::system
