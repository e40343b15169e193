// The mechanisms that make a run faster and change nothing that a guest can see. Each can be switched off (--opt no-NAME), to measure what
// it gains and to bisect what it breaks; all guest tests run with each of them off.
#pragma once

#include "base/types.h"

#include <array>
#include <string_view>

// X(enumerator, name on the command line, what it is)
#define RING3_OPTIMIZATIONS(X)                                                                                           \
  X(sensitive, "sensitive", "CLI, STI, PUSHF, POPF and their like inside the cache instead of interpreted")              \
  X(direct, "direct", "emitted code calls the interpreter instead of leaving for it")                                    \
  X(transfers, "transfers", "interrupts, exceptions and IRET between flat rings by a few comparisons")                   \
  X(divisions, "divisions", "a division that faulted is checked before the host does it")                                \
  X(views, "views", "memory tables outlive MOV CR3: compared with the guest's page tables, not emptied")                 \
  X(jumps_ahead, "jumps-ahead", "the first look-up on a page fills the jump table for all known code of that page")      \
  X(miss_calls, "miss-calls", "sites that missed the memory tables call the runtime instead of faulting")                \
  X(returns, "returns", "CALL and RET of the guest are calls and returns of the host too, for its return predictor")     \
  X(windows, "windows", "guest memory mapped for real where a context runs for long: an access is one instruction")      \
  X(low_window, "low-window", "one window at a time lies at host address 0: an operand's address is the guest's own")    \
  X(host_esp, "host-esp", "code for windows keeps esp as a host address: the host forwards stores on the stack at once") \
  X(merged_esp, "merged-esp", "consecutive instructions on the stack change esp once")                                   \
  X(steps, "steps", "the timer takes emitted code to the next instruction by single steps; loops do not poll")           \
  X(superblocks, "superblocks", "a block goes on behind a conditional jump or a call")                                   \
  X(moved_code, "moved-code", "a page of code that appears at another linear address keeps its translations")            \
  X(fpu_state, "fpu-state", "FIP is stored once before a way out, and a loop asks for the guest's FPU state once")       \
  X(aligned_code, "aligned-code", "blocks for windows begin at a cache line of the host")                                \
  X(short_rep, "short-rep", "a short REP MOVS or REP STOS is done by plain stores where the host's takes long to start")

namespace ring3 {

enum class Optimization : u8 {
#define RING3_OPTIMIZATION(enumerator, name, text) enumerator,
  RING3_OPTIMIZATIONS(RING3_OPTIMIZATION)
#undef RING3_OPTIMIZATION
      count,
};

struct OptimizationInfo {
  std::string_view name;
  std::string_view text;
};

inline constexpr std::array<OptimizationInfo, static_cast<std::size_t>(Optimization::count)> optimization_table{{
#define RING3_OPTIMIZATION(enumerator, name, text) {name, text},
    RING3_OPTIMIZATIONS(RING3_OPTIMIZATION)
#undef RING3_OPTIMIZATION
}};

// All on unless switched off.
class Optimizations {
 public:
  [[nodiscard]] bool on(Optimization which) const { return (off_ >> static_cast<unsigned>(which) & 1u) == 0; }
  void switch_off(Optimization which) { off_ |= 1u << static_cast<unsigned>(which); }

 private:
  u32 off_ = 0;
};

}  // namespace ring3
