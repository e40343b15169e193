// REP around one string element: counting, flags at faults, and regular breaks for interrupts.
#pragma once

#include "runtime/interp/operands.h"

#include <algorithm>

namespace ring3::interp {

// Elements done before the instruction yields with Flow::again, so that interrupts come in: some microseconds of work.
inline constexpr u32 repeat_budget = 4096;

// What one address size sees of ESI, EDI and ECX: SI, DI and CX, or all 32 bits.
class StringRegisters {
 public:
  StringRegisters(Vcpu& v, const Insn& insn) : v_(v), mask_(insn.address_size == 2 ? 0xFFFFu : ~0u) {}

  [[nodiscard]] u32 get(Gpr n) const { return v_.s.gpr[n] & mask_; }
  void set(Gpr n, u32 value) { v_.s.gpr[n] = (v_.s.gpr[n] & ~mask_) | (value & mask_); }
  // Moves past `count` elements in the direction that DF says.
  void advance(Gpr n, u32 element_size, u32 count = 1) {
    const u32 bytes = element_size * count;
    set(n, backward() ? get(n) - bytes : get(n) + bytes);
  }
  [[nodiscard]] bool backward() const { return (v_.s.eflags & flag::df) != 0; }
  // Elements of `element_size` bytes that a forward run from `offset` may touch without wrapping.
  [[nodiscard]] u32 before_wrap(u32 offset, u32 element_size) const {
    return static_cast<u32>(std::min<u64>((u64{mask_} + 1 - offset) / element_size, ~0u));
  }

 private:
  Vcpu& v_;
  u32 mask_;
};

// A data or I/O breakpoint traps after the element that met it (SDM vol. 3, 17.2.5).
//
// `step(limit)` does 1 to `limit` elements, moves ESI and EDI, and returns how many it did; 0: `v.fault` is set.
// `compares`: REPE and REPNE look at ZF after each element (CMPS, SCAS), which then must do one element at a time.
// At a fault and when it yields, the flags are those before the instruction (SDM vol. 2, REP: a fault restores them; no string
// instruction but the last comparison gives them a meaning).
template <bool compares, typename Step>
[[nodiscard]] Flow repeat(Vcpu& v, const Insn& insn, StringRegisters& regs, Step step) {
  if (insn.rep == Rep::none) return step(1u) != 0 ? Flow::next : Flow::fault;
  const u32 flags_before = v.s.eflags;
  u32 left = regs.get(ecx);
  // Single-stepping stops after every element (measured: the manual does not say).
  u32 budget = (flags_before & flag::tf) != 0 ? 1 : repeat_budget;
  while (left != 0) {
    if (budget == 0) {
      v.s.eflags = flags_before;
      return Flow::again;
    }
    const u32 done = step(std::min(left, budget));
    if (done == 0) {
      v.s.eflags = flags_before;
      return Flow::fault;
    }
    left -= done;
    budget = v.s.pending_debug == 0 ? budget - done : 0;
    regs.set(ecx, left);
    if constexpr (compares) {
      const bool equal = (v.s.eflags & flag::zf) != 0;
      if (equal != (insn.rep == Rep::rep)) break;
    }
  }
  return Flow::next;
}

}  // namespace ring3::interp
