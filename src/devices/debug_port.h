// The "port E9 hack" of Bochs and QEMU, 1 port (E9h): a byte written appears on the host; a read returns E9h so that guests can detect it.
#pragma once

#include "devices/io_device.h"

#include <functional>
#include <utility>

namespace ring3 {

class DebugPort : public ByteDevice {
 public:
  explicit DebugPort(std::function<void(u8)> sink) : sink_(std::move(sink)) {}

 protected:
  u8 read_byte(u32) override { return 0xE9; }
  void write_byte(u32, u8 value) override { sink_(value); }

 private:
  std::function<void(u8)> sink_;
};

}  // namespace ring3
