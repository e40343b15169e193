#include "tolerance.h"

#include "guest/fault.h"

#include <cpuid.h>

namespace ring3::hostcpu {

namespace {

bool is_fault(const Outcome& o, Vector vector) { return o.vector == static_cast<u16>(vector); }

void after_simd_exception(const Program& program, const State& before, Tolerance& t) {
  constexpr u32 flags = 0x3F;
  constexpr u32 overflow_underflow = 0x18;
  constexpr u32 precision = 0x20;
  const u32 unmasked = ~(before.fpu.mxcsr >> 7) & flags;
  // Whether the result with an unbounded exponent is inexact: the interpreter knows only the masked result.
  if ((unmasked & overflow_underflow) != 0) t.mxcsr |= precision;
  // Multiplications, then additions: where it stops decides which flags it has seen (SDM vol. 2, DPPS).
  if (program.insn.row == Row::dpps || program.insn.row == Row::dppd) t.mxcsr |= flags;
}

// Whether the memory operand, of `size` bytes, starts below offset 4 GiB and ends behind it.
bool wraps(const Batch& batch, const Program& program, const State& before, u32 size) {
  const u32 first = operand_address(batch, program, before.gpr) - batch.segment(program, program.insn.mem.segment).base;
  return first + size - 1 < first;
}

// Whether it starts inside of a 16-bit segment that expands down and ends above its upper bound.
bool leaves_16_bit_expand_down(const Batch& batch, const Program& program, const State& before, u32 size) {
  const SegmentCache s = batch.segment(program, program.insn.mem.segment);
  const u32 first = operand_address(batch, program, before.gpr) - s.base;
  return s.expand_down() && !s.big() && first > s.limit && first <= 0xFFFF && first + size - 1 > 0xFFFF;
}

}  // namespace

Tolerance tolerance_of(const Batch& batch, const Program& program, const State& before, const Outcome& expected, const Outcome& got) {
  Tolerance t;
  if (!host_is_intel()) t = amd_tolerance(batch, program, before, expected, got);
  if (!program.defined) return t;
  // The interpreter's own arithmetic: what the manual leaves undefined. All other rows run the host's instruction and get the host's flags.
  if (program.insn.info().family == Family::decimal) t.eflags |= program.insn.info().flags_undefined;
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
  // An operand from the end of a segment of 4 GiB on to its beginning: whether that is a fault of the segment is the CPU's choice (SDM
  // vol. 3, 5.3). Of images that are loaded Intel's CPUs compare a part, so that they load some of these.
  if (host_is_intel() && program.insn.row == Row::fxrstor && wraps(batch, program, before, 512)) t.anything = true;
  // The page of an image's beginning is looked at before its end, where that wraps at 4 GiB or is above the bound of such a segment.
  const bool image = program.insn.row == Row::fxrstor || program.insn.row == Row::fxsave;
  if (host_is_intel() && image && is_fault(expected, Vector::page) &&
      (wraps(batch, program, before, 512) || leaves_16_bit_expand_down(batch, program, before, 512)))
    t.other_fault = true;
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
