// The host CPU in a process of its own: the pages of layout.h lie where an engine's emitted code expects nothing, and both want the same
// signals.
#pragma once

#include "executor.h"

#include <sys/types.h>

#include <span>

namespace ring3::hostcpu {

// One case on its way: filled by the caller, completed by the host.
struct Slot {
  Case test;
  Outcome expected;
  std::array<u8, data_size> before;
  std::array<u8, data_size> after;
};

class HostProcess {
 public:
  static constexpr u32 batch = 64;

  // Forks. Throws std::runtime_error when the host refuses or lacks a 32-bit code segment.
  HostProcess();
  ~HostProcess();
  HostProcess(const HostProcess&) = delete;
  HostProcess& operator=(const HostProcess&) = delete;

  [[nodiscard]] std::span<Slot> slots() { return {slots_, batch}; }
  // Executes slots [0, count). Throws std::runtime_error when the process died.
  void run(u32 count);

 private:
  Slot* slots_ = nullptr;
  pid_t child_ = -1;
  int to_child_ = -1;
  int from_child_ = -1;
};

}  // namespace ring3::hostcpu
