#include "tolerance.h"

#include "guest/fault.h"

namespace ring3::hostcpu {

namespace {

void after_page_fault(const Insn& insn, Tolerance& t) {
  switch (insn.row) {
    // Two operands, read in any order. With REP the manual promises the flags from before the instruction (SDM vol. 2, REP); AMD's CPUs
    // leave those of the last comparison.
    case Row::cmpsb:
    case Row::cmpsw:
    case Row::cmpsd: t.fault_place = true; [[fallthrough]];
    case Row::scasb:
    case Row::scasw:
    case Row::scasd:
      if (insn.rep != Rep::none) t.eflags = flag::status;
      break;
    // Registers popped before the fault keep their new values on some CPUs; ESP tells that the instruction has not happened.
    case Row::popa: t.gpr = 0xFFu & ~(1u << esp); break;
    // Operands of many parts, tested in an order of the CPU's own.
    case Row::fnstenv:
    case Row::fldenv:
    case Row::fnsave:
    case Row::frstor:
    case Row::fxsave:
    case Row::fxrstor: t.fault_place = true; break;
    // Whether bytes that are not selected are tested is the CPU's choice (SDM vol. 2, MASKMOVQ); AMD's CPUs do, after entering MMX state.
    case Row::maskmovdqu:
    case Row::maskmovq: t.anything = true; break;
    default: break;
  }
}

void after_simd_exception(const Case& test, Tolerance& t) {
  constexpr u32 flags = 0x3F;
  constexpr u32 overflow_underflow = 0x18;
  constexpr u32 precision = 0x20;
  const u32 unmasked = ~(test.before.fpu.mxcsr >> 7) & flags;
  // Whether the result with an unbounded exponent is inexact: the interpreter knows only the masked result.
  if ((unmasked & overflow_underflow) != 0) t.mxcsr |= precision;
  // Whether MMX state was entered before the exception: AMD's CPUs do, the manual does not say.
  switch (test.insn.row) {
    case Row::cvtpi2ps:
    case Row::cvtpd2pi:
    case Row::cvtps2pi:
    case Row::cvttpd2pi:
    case Row::cvttps2pi: t.x87 = true; break;
    default: break;
  }
  // Multiplications, then additions: where it stops decides which flags it has seen (SDM vol. 2, DPPS).
  if (test.insn.row == Row::dpps || test.insn.row == Row::dppd) t.mxcsr |= flags;
}

}  // namespace

Tolerance tolerance_of(const Case& test, const Outcome& expected) {
  Tolerance t;
  // The interpreter's own arithmetic: what the manual leaves undefined. All other rows run the host's instruction and get the host's flags.
  if (test.insn.info().family == Family::decimal) t.eflags = test.insn.info().flags_undefined;
  if (expected.faulted && expected.vector == static_cast<u8>(Vector::page)) after_page_fault(test.insn, t);
  if (expected.faulted && expected.vector == static_cast<u8>(Vector::simd)) after_simd_exception(test, t);
  return t;
}

}  // namespace ring3::hostcpu
