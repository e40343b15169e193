// LAR LSL VERR VERW ARPL: questions about descriptors that fault on nothing but their operand and the table's pages (SDM vol. 2).
#include "runtime/interp/operands.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"

namespace ring3::system {
namespace {

constexpr u32 bit(u32 type) { return 1u << type; }

// System types that LAR and LSL accept (SDM vol. 2, tables 3-51 and 3-63).
constexpr u32 lar_types = bit(system_type::tss16) | bit(system_type::ldt) | bit(system_type::tss16_busy) | bit(system_type::call_gate16) |
                          bit(system_type::task_gate) | bit(system_type::tss32) | bit(system_type::tss32_busy) |
                          bit(system_type::call_gate32);
constexpr u32 lsl_types =
    bit(system_type::tss16) | bit(system_type::ldt) | bit(system_type::tss16_busy) | bit(system_type::tss32) | bit(system_type::tss32_busy);

bool in_reach(const CpuState& s, u16 selector, const Descriptor& d) { return s.cpl <= d.dpl() && rpl(selector) <= d.dpl(); }

// Reads operand `n` as a selector and asks `accepts(selector, descriptor)` unless it is NULL or outside its table. ZF gets the answer.
template <typename Accepts>
Flow ask(Vcpu& v, const Insn& insn, unsigned n, Accepts accepts) {
  if (!in_protected_mode(v.s)) return v.raise(Vector::invalid_opcode);
  u16 selector = 0;
  if (!interp::read_operand(v, insn, n, selector)) return Flow::fault;
  bool answer = false;
  if (!is_null(selector) && inside_table(v.s, selector)) {
    Descriptor d;
    if (!read_descriptor(v, selector, d)) return Flow::fault;
    answer = accepts(selector, d);
  }
  interp::set_flag(v.s.eflags, flag::zf, answer);
  return Flow::next;
}

void set_result(Vcpu& v, const Insn& insn, u32 value) {
  if (insn.operand_size == 4)
    v.set_reg32(insn.operand[0].reg, value);
  else
    v.set_reg16(insn.operand[0].reg, static_cast<u16>(value));
}

// Limit bits 19:16, which the manual calls undefined, come along as on current CPUs.
Flow lar(Vcpu& v, const Insn& insn) {
  return ask(v, insn, 1, [&](u16 selector, const Descriptor& d) {
    if (d.is_system() && (lar_types & bit(d.type())) == 0) return false;
    if (!d.is_conforming() && !in_reach(v.s, selector, d)) return false;
    set_result(v, insn, d.high & 0x00FFFF00u);
    return true;
  });
}

Flow lsl(Vcpu& v, const Insn& insn) {
  return ask(v, insn, 1, [&](u16 selector, const Descriptor& d) {
    if (d.is_system() && (lsl_types & bit(d.type())) == 0) return false;
    if (!d.is_conforming() && !in_reach(v.s, selector, d)) return false;
    set_result(v, insn, d.limit());
    return true;
  });
}

Flow verr(Vcpu& v, const Insn& insn) {
  return ask(v, insn, 0,
             [&](u16 selector, const Descriptor& d) { return d.is_readable() && (d.is_conforming() || in_reach(v.s, selector, d)); });
}

Flow verw(Vcpu& v, const Insn& insn) {
  return ask(v, insn, 0, [&](u16 selector, const Descriptor& d) { return d.is_writable_data() && in_reach(v.s, selector, d); });
}

Flow arpl(Vcpu& v, const Insn& insn) {
  if (!in_protected_mode(v.s)) return v.raise(Vector::invalid_opcode);
  u16 destination = 0;
  if (!interp::read_operand(v, insn, 0, destination)) return Flow::fault;
  const u32 wanted = v.reg16(insn.operand[1].reg) & 3u;
  const bool raised = rpl(destination) < wanted;
  if (raised && !interp::write_operand(v, insn, 0, with_rpl(destination, wanted))) return Flow::fault;
  interp::set_flag(v.s.eflags, flag::zf, raised);
  return Flow::next;
}

}  // namespace

void add_segment_queries(HandlerTable& t) {
  t.set(Row::lar, lar);
  t.set(Row::lsl, lsl);
  t.set(Row::verr, verr);
  t.set(Row::verw, verw);
  t.set(Row::arpl, arpl);
}

}  // namespace ring3::system
