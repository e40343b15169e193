// Ports 61h and 92h of the PC/AT and PS/2 (Intel ICH data sheet: NMI_SC and PORT92).
#pragma once

#include "devices/a20_gate.h"
#include "devices/clock.h"
#include "devices/io_device.h"
#include "devices/pit.h"

#include <functional>

namespace ring3 {

// 1 port (61h). Bit 0 GATE of PIT counter 2, bit 1 speaker, bits 2-3 NMI masks (kept, no source here), bit 4 refresh toggle, bit 5 OUT of
// counter 2, bits 6-7 read 0 (no parity or channel check).
class SystemControlB : public ByteDevice {
 public:
  SystemControlB(const Clock& clock, Pit& pit) : clock_(clock), pit_(pit) {}

  [[nodiscard]] u8 state() const { return written_; }
  void restore(u8 written) { written_ = written & 0x0F; }

 protected:
  u8 read_byte(u32 offset) override;
  void write_byte(u32 offset, u8 value) override;

 private:
  const Clock& clock_;
  Pit& pit_;
  u8 written_ = 0;
};

// 1 port (92h). Bit 1 A20, bit 0 going from 0 to 1 resets the CPU.
class SystemControlA : public ByteDevice {
 public:
  SystemControlA(A20Gate& a20, std::function<void()> reset) : a20_(a20), reset_(std::move(reset)) {}

  [[nodiscard]] u8 state() const { return value_; }
  void restore(u8 value) { value_ = value & 3; }

 protected:
  u8 read_byte(u32 offset) override;
  void write_byte(u32 offset, u8 value) override;

 private:
  A20Gate& a20_;
  std::function<void()> reset_;
  u8 value_ = 0;
};

}  // namespace ring3
