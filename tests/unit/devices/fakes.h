// What device tests stand devices on.
#pragma once

#include "devices/clock.h"
#include "devices/interrupt_line.h"
#include "devices/io_device.h"
#include "devices/serial_sink.h"

#include <string>

namespace ring3::test {

class FakeClock : public Clock {
 public:
  Nanoseconds time = 0;
  [[nodiscard]] Nanoseconds now() const override { return time; }
};

// An interrupt wire that counts its rising edges.
struct Wire {
  bool level = false;
  unsigned rises = 0;
  InterruptLine line() {
    return InterruptLine([this](bool now) {
      level = now;
      if (now) ++rises;
    });
  }
};

class FakeSink : public SerialSink {
 public:
  std::string text;
  std::size_t room = ~std::size_t{0};
  bool send(u8 byte) override {
    if (room == 0) return false;
    --room;
    text.push_back(static_cast<char>(byte));
    return true;
  }
};

inline u8 in(IoDevice& device, u32 offset) { return static_cast<u8>(device.read(offset, 1)); }
inline void out(IoDevice& device, u32 offset, u32 value) { device.write(offset, 1, value); }

}  // namespace ring3::test
