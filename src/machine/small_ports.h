// Two ports of the PC/AT too small for files of their own.
#pragma once

#include "devices/io_device.h"

#include <functional>

namespace ring3 {

// 1 port (80h): the diagnostic code of firmware, and what kernels write to for a short delay. Keeps the last byte.
class PostPort : public ByteDevice {
 protected:
  u8 read_byte(u32) override { return last_; }
  void write_byte(u32, u8 value) override { last_ = value; }

 private:
  u8 last_ = 0;
};

// 1 port (F0h): a write clears the latch that FERR# set on IRQ 13 and asserts IGNNE# (IBM PC/AT Technical Reference, "Math Coprocessor
// Control").
class CoprocessorLatch : public ByteDevice {
 public:
  explicit CoprocessorLatch(std::function<void()> clear) : clear_(std::move(clear)) {}

 protected:
  u8 read_byte(u32) override { return 0xFF; }
  void write_byte(u32, u8) override { clear_(); }

 private:
  std::function<void()> clear_;
};

}  // namespace ring3
