// isa-debug-exit, up to 4 ports: writing v asks the machine to end with exit code (v << 1) | 1, as users know it from QEMU. Reads give 0.
#pragma once

#include "devices/io_device.h"

#include <functional>
#include <utility>

namespace ring3 {

class DebugExit : public IoDevice {
 public:
  // `exit` gets (v << 1) | 1 in 32 bits; what the host's exit status keeps of it (the low 8 bits on Linux) is the caller's affair.
  explicit DebugExit(std::function<void(u32 code)> exit) : exit_(std::move(exit)) {}

  u32 read(u32, unsigned) override { return 0; }
  void write(u32, unsigned, u32 value) override { exit_((value << 1) | 1u); }

 private:
  std::function<void(u32)> exit_;
};

}  // namespace ring3
