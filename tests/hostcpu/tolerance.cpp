#include "tolerance.h"

#include "guest/fault.h"

#include <cpuid.h>

namespace ring3::hostcpu {

namespace {

constexpr u32 all_but_esp = 0xFFu & ~(1u << esp);

bool is_fault(const Outcome& o, Vector vector) { return o.vector == static_cast<u16>(vector); }

void after_page_fault(const Insn& insn, Tolerance& t) {
  switch (insn.row) {
    // Two operands, read in any order. With REP the manual promises the flags from before the instruction (SDM vol. 2, REP); AMD's CPUs
    // leave those of the last comparison.
    case Row::cmpsb:
    case Row::cmpsw:
    case Row::cmpsd: t.fault_place = !host_is_intel(); [[fallthrough]];
    case Row::scasb:
    case Row::scasw:
    case Row::scasd:
      if (insn.rep != Rep::none && !host_is_intel()) t.eflags = flag::status;
      break;
    // Registers popped before the fault keep their new values on some CPUs; ESP tells that the instruction has not happened.
    case Row::popa:
      if (!host_is_intel()) t.gpr = all_but_esp;
      break;
    // Operands of many parts, tested in an order of the CPU's own.
    case Row::fnstenv:
    case Row::fldenv:
    case Row::fnsave:
    case Row::frstor:
    case Row::fxsave:
    case Row::fxrstor: t.fault_place = !host_is_intel(); break;
    // Whether bytes that are not selected are tested is the CPU's choice (SDM vol. 2, MASKMOVQ); AMD's CPUs do, after entering MMX state.
    case Row::maskmovdqu:
    case Row::maskmovq: t.anything = !host_is_intel(); break;
    default: break;
  }
}

void after_simd_exception(const Program& program, const State& before, Tolerance& t) {
  constexpr u32 flags = 0x3F;
  constexpr u32 overflow_underflow = 0x18;
  constexpr u32 precision = 0x20;
  const u32 unmasked = ~(before.fpu.mxcsr >> 7) & flags;
  // Whether the result with an unbounded exponent is inexact: the interpreter knows only the masked result.
  if ((unmasked & overflow_underflow) != 0) t.mxcsr |= precision;
  // Whether MMX state was entered before the exception: AMD's CPUs do, the manual does not say.
  switch (program.insn.row) {
    case Row::cvtpi2ps:
    case Row::cvtpd2pi:
    case Row::cvtps2pi:
    case Row::cvttpd2pi:
    case Row::cvttps2pi: t.x87 = !host_is_intel(); break;
    default: break;
  }
  // Multiplications, then additions: where it stops decides which flags it has seen (SDM vol. 2, DPPS).
  if (program.insn.row == Row::dpps || program.insn.row == Row::dppd) t.mxcsr |= flags;
}

}  // namespace

Tolerance tolerance_of(const Program& program, const State& before, const Outcome& expected, const Outcome&) {
  Tolerance t;
  if (!program.defined) return t;
  // The interpreter's own arithmetic: what the manual leaves undefined. All other rows run the host's instruction and get the host's flags.
  if (program.insn.info().family == Family::decimal) t.eflags = program.insn.info().flags_undefined;
  // Different every time.
  switch (program.insn.row) {
    case Row::rdtsc:
    case Row::rdtscp: t.gpr = 1u << eax | 1u << ecx | 1u << edx; break;
    case Row::rdrand:
    case Row::rdseed:
      t.gpr = 1u << program.insn.operand[0].reg;
      t.eflags = flag::cf;  // there may be none
      break;
    default: break;
  }
  if (is_fault(expected, Vector::page)) after_page_fault(program.insn, t);
  // An image that leaves its segment: how much of it is loaded or stored before the fault.
  if (is_fault(expected, Vector::general_protection) || is_fault(expected, Vector::stack)) {
    switch (program.insn.row) {
      case Row::fnstenv:
      case Row::fldenv:
      case Row::fnsave:
      case Row::frstor:
      case Row::fxsave:
      case Row::fxrstor:
        t.x87 = true;
        t.xmm = true;
        t.mxcsr = ~0u;
        t.memory = true;
        break;
      default: break;
    }
  }
  if (is_fault(expected, Vector::simd)) after_simd_exception(program, before, t);
  return t;
}

bool needs_isolation(const Insn& insn) { return insn.row == Row::maskmovq || insn.row == Row::maskmovdqu; }

bool host_is_intel() {
  static const bool intel = [] {
    u32 a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(0, &a, &b, &c, &d) != 0 && b == signature_INTEL_ebx;
  }();
  return intel;
}

}  // namespace ring3::hostcpu
