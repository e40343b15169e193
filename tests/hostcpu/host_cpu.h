// The host CPU as an executor: a far jump into the 32-bit code segment that every 64-bit Linux process can use.
#pragma once

#include "executor.h"

#include <memory>

namespace ring3::hostcpu {

class HostCpu final : public Executor {
 public:
  // Maps the pages of layout.h at their addresses and installs signal handlers; one instance per process, used by one thread.
  // Throws std::runtime_error when an address is taken or the host has no 32-bit code segment.
  HostCpu();
  ~HostCpu() override;
  [[nodiscard]] std::string name() const override { return "host"; }
  [[nodiscard]] u8* data() override;
  void run(const Case& test, Outcome& out) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ring3::hostcpu
