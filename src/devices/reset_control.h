// Reset control register, 1 port (CF9h). Intel ICH data sheet, RST_CNT: bit 1 selects a hard reset, bit 2 going from 0 to 1 resets; bit 3
// (full reset) is kept.
#pragma once

#include "devices/io_device.h"

#include <functional>
#include <utility>

namespace ring3 {

class ResetControl : public ByteDevice {
 public:
  explicit ResetControl(std::function<void()> reset) : reset_(std::move(reset)) {}

  [[nodiscard]] u8 state() const { return value_; }
  void restore(u8 value) { value_ = value & 0x0E; }

 protected:
  u8 read_byte(u32 offset) override;
  void write_byte(u32 offset, u8 value) override;

 private:
  std::function<void()> reset_;
  u8 value_ = 0;
};

}  // namespace ring3
