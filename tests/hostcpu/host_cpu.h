// The host CPU as an executor: far jumps into 32-bit and 16-bit code segments, which every 64-bit Linux process may have. The process is
// given up to it: nothing but the pages of layout.h lies below 4 GiB, system calls of the programs are caught, and the segment registers
// are theirs while they run.
#pragma once

#include "executor.h"

#include <memory>

namespace ring3::hostcpu {

class HostCpu {
 public:
  // Maps the pages of layout.h, installs signal handlers and a system-call filter; one instance per process, used by one thread.
  // Throws std::runtime_error when the host lacks something.
  HostCpu();
  ~HostCpu();
  HostCpu(const HostCpu&) = delete;
  HostCpu& operator=(const HostCpu&) = delete;

  // Runs programs [first, first + count) of the batch and fills in `expected` and `memory`. `progress` is the program being run.
  void run(Batch& batch, u32 first, u32 count, volatile u32& progress);

 private:
  void load_ldt(const Ldt& ldt);
  void place(const Batch& batch, const Program& program);
  void run_state(const Program& program, const State& state, Outcome& out);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What the trampoline page holds, in this process and its children.
void fill_trampoline(u8* bytes);

}  // namespace ring3::hostcpu
