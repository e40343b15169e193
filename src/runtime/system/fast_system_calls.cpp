// SYSENTER and SYSEXIT (SDM vol. 2): segments come from constants, no descriptor is read.
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"

namespace ring3::system {
namespace {

// Flat 4 GiB segments, present, accessed, 32-bit.
constexpr u16 code_attributes(u32 dpl) { return static_cast<u16>(0xC09Bu | (dpl << 5)); }
constexpr u16 data_attributes(u32 dpl) { return static_cast<u16>(0xC093u | (dpl << 5)); }

void enter_flat(CpuState& s, u32 code_selector, u32 level, u32 new_eip, u32 new_esp) {
  const u32 stack_selector = code_selector + 8;
  s.segment(Seg::cs) = {static_cast<u16>(code_selector), code_attributes(level), 0, 0xFFFFFFFF};
  s.segment(Seg::ss) = {static_cast<u16>(stack_selector), data_attributes(level), 0, 0xFFFFFFFF};
  s.cpl = static_cast<u8>(level);
  s.eip = new_eip;
  s.gpr[esp] = new_esp;
}

bool is_set_up(const CpuState& s) { return s.protected_mode() && (s.sysenter_cs & 0xFFFCu) != 0; }

Flow sysenter(Vcpu& v, const Insn&) {
  CpuState& s = v.s;
  if (!is_set_up(s)) return v.raise(Vector::general_protection, 0);
  s.eflags &= ~(flag::vm | flag::if_ | flag::rf);
  enter_flat(s, s.sysenter_cs & 0xFFFCu, 0, s.sysenter_eip, s.sysenter_esp);
  return Flow::jumped;
}

Flow sysexit(Vcpu& v, const Insn&) {
  CpuState& s = v.s;
  if (!is_set_up(s) || s.cpl != 0) return v.raise(Vector::general_protection, 0);
  enter_flat(s, (s.sysenter_cs + 16) | 3u, 3, s.gpr[edx], s.gpr[ecx]);
  return Flow::jumped;
}

}  // namespace

void add_fast_system_calls(HandlerTable& t) {
  t.set(Row::sysenter, sysenter);
  t.set(Row::sysexit, sysexit);
}

}  // namespace ring3::system
