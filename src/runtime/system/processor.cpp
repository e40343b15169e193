// Identification, time, sleep, caches and random numbers (SDM vol. 2).
#include "runtime/interp/operands.h"
#include "runtime/system/cpu_model.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"

#include <x86intrin.h>

namespace ring3::system {
namespace {

Flow cpuid(Vcpu& v, const Insn&) {
  const u32 leaf = v.s.gpr[eax], subleaf = v.s.gpr[ecx];
  const CpuidResult r = v.model.cpuid(leaf, subleaf, v.s.cr4);
  v.s.gpr[eax] = r.eax;
  v.s.gpr[ebx] = r.ebx;
  v.s.gpr[ecx] = r.ecx;
  v.s.gpr[edx] = r.edx;
  v.s.link.cpuid[leaf % EmittedLink::cpuid_count] = {leaf, subleaf, v.s.cr4, 1, {r.eax, r.ecx, r.edx, r.ebx}};
  return Flow::next;
}

bool may_read_time(Vcpu& v) {
  return (v.s.cr4 & cr4::tsd) == 0 || v.s.cpl == 0 || !v.s.protected_mode() || refuse(v, Vector::general_protection, 0);
}

void load_time(CpuState& s) {
  const u64 now = read_tsc() + s.tsc_offset;
  s.gpr[eax] = static_cast<u32>(now);
  s.gpr[edx] = static_cast<u32>(now >> 32);
}

Flow rdtsc(Vcpu& v, const Insn&) {
  if (!may_read_time(v)) return Flow::fault;
  load_time(v.s);
  return Flow::next;
}

Flow rdtscp(Vcpu& v, const Insn&) {
  if (!may_read_time(v)) return Flow::fault;
  load_time(v.s);
  v.s.gpr[ecx] = v.s.msr.tsc_aux;
  return Flow::next;
}

// The CPU model has no performance counters: every counter number is invalid.
Flow rdpmc(Vcpu& v, const Insn&) { return v.raise(Vector::general_protection, 0); }

Flow hlt(Vcpu& v, const Insn&) {
  if (!require_cpl0(v)) return Flow::fault;
  v.s.halted = true;
  return Flow::halt;
}

// Guest RAM is coherent: there is no cache of its own to write back or forget.
Flow flush_caches(Vcpu& v, const Insn&) { return require_cpl0(v) ? Flow::next : Flow::fault; }

__attribute__((target("rdrnd"))) bool draw_rdrand(u32& out) { return _rdrand32_step(&out) != 0; }
__attribute__((target("rdseed"))) bool draw_rdseed(u32& out) { return _rdseed32_step(&out) != 0; }

// CF tells success, the other status flags are cleared; a failed draw gives 0 (SDM vol. 2, RDRAND).
template <bool (*draw)(u32&)>
Flow random_number(Vcpu& v, const Insn& insn) {
  u32 value = 0;
  const bool drawn = draw(value);
  if (!drawn) value = 0;
  if (insn.operand_size == 4)
    v.set_reg32(insn.operand[0].reg, value);
  else
    v.set_reg16(insn.operand[0].reg, static_cast<u16>(value));
  v.s.eflags &= ~flag::status;
  interp::set_flag(v.s.eflags, flag::cf, drawn);
  return Flow::next;
}

Flow undefined(Vcpu& v, const Insn&) { return v.raise(Vector::invalid_opcode); }

}  // namespace

void add_processor_rows(HandlerTable& t) {
  t.set(Row::cpuid, cpuid);
  t.set(Row::rdtsc, rdtsc);
  t.set(Row::rdtscp, rdtscp);
  t.set(Row::rdpmc, rdpmc);
  t.set(Row::hlt, hlt);
  t.set(Row::wbinvd, flush_caches);
  t.set(Row::invd, flush_caches);
  t.set(Row::rdrand, random_number<draw_rdrand>);
  t.set(Row::rdseed, random_number<draw_rdseed>);
  t.set(Row::ud0, undefined);
  t.set(Row::ud1, undefined);
  t.set(Row::ud2, undefined);
}

}  // namespace ring3::system
