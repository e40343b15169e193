// The host CPU in a process of its own: it gives its address space and its segment registers up to the programs, and an engine wants the
// same signals.
#pragma once

#include "executor.h"

#include <sys/types.h>

namespace ring3::hostcpu {

class HostProcess {
 public:
  // Forks. Throws std::runtime_error when the host refuses or lacks something.
  HostProcess();
  ~HostProcess();
  HostProcess(const HostProcess&) = delete;
  HostProcess& operator=(const HostProcess&) = delete;

  // Filled by the caller, completed by the host.
  [[nodiscard]] Batch& batch();
  // Runs programs [first, first + count) of the batch. Throws std::runtime_error when the process died or hangs; the program that did it
  // is `progress`.
  void run(u32 first, u32 count);
  [[nodiscard]] u32 progress() const;

 private:
  struct Shared;
  void serve(int in, int out);

  Shared* shared_ = nullptr;
  pid_t child_ = -1;
  int to_child_ = -1;
  int from_child_ = -1;
};

}  // namespace ring3::hostcpu
