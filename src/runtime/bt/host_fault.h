// The only file that knows signals of emitted code. A fault in emitted code becomes a plain record and a jump to the exit stub; the timer
// signal stops emitted code at its next poll, or by single steps (EFLAGS.TF of the host) at the next instruction. Handlers take no lock,
// allocate nothing, format nothing; faults elsewhere are passed on.
#pragma once

#include <csignal>
#include <ctime>

#include "base/types.h"
#include "codecache/code_cache.h"
#include "codecache/code_region.h"
#include "guest/cpu_state.h"
#include "translator/stubs.h"

namespace ring3 {

struct HostFault {
  u64 pc = 0;
  u64 address = 0;
  int signal = 0;
  bool write = false;             // the access was a write, if the address is known
  bool between_elements = false;  // no fault: a timer met a REP on a window that had begun
  bool table_miss = false;        // of an access through a soft table, if the signal is SIGSEGV
  bool address_known = false;     // false: a general-protection fault, the CPU does not say where (non-canonical address)
};

// The stack that emitted code runs on, between two guards without access rights of the same size. Guests take more from it than they put
// there, or less: it starts in the middle again when it meets a guard, because what it holds is only what the host predicts from, and the
// few words that glue has pushed.
struct ReturnRegion {
  static constexpr u64 size = u64{64} * 1024;
  static constexpr u64 glue = 128;  // bytes that glue may have pushed

  u64 begin = 0;
  [[nodiscard]] u64 middle() const { return begin + size / 2; }
  [[nodiscard]] bool guards(u64 address) const { return address - (begin - size) < 3 * size && address - begin >= size; }
};

// While it lives, this thread's faults in the blocks of `region` go to its exit stub; those in look-up stubs count as the caller's.
// One at a time per thread.
class FaultGuard {
 public:
  FaultGuard(CpuState& cpu, const CodeRegion& region, const Stubs& stubs, const ReturnRegion& returns);
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;

  [[nodiscard]] const HostFault& last() const { return record_.fault; }
  // The timer fired since `clear_event`.
  [[nodiscard]] bool event() const { return record_.event != 0; }
  void clear_event() { record_.event = 0; }
  // Fires at host monotonic time `at` (ns), in the past: at once; then every millisecond until armed anew.
  void arm(u64 at);
  void disarm();
  // From now on the timer stops emitted code at the next boundary in this cache.
  void stop_at_boundaries(CodeCache& cache) { record_.boundaries = &cache; }

  struct Record {
    CpuState* cpu = nullptr;
    u64 code_begin = 0;
    u64 code_end = 0;
    u64 look_up_begin = 0;
    u64 look_up_end = 0;
    u64 exit_fault = 0;
    ReturnRegion returns;
    HostFault fault;
    volatile std::sig_atomic_t event = 0;
    CodeCache* boundaries = nullptr;
    unsigned steps = 0;  // that may still be made to the next boundary
    u64 stepped = 0;     // pc before the step that goes on; 0: none does
  };

 private:
  Record record_;
  Record* previous_ = nullptr;
  timer_t timer_ = nullptr;
  void* alternate_stack_ = nullptr;
  stack_t old_stack_{};
};

}  // namespace ring3
