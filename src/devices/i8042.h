// Intel 8042 keyboard controller of the PC/AT with a 101-key keyboard behind it and no auxiliary device. 2 offsets: 0 data (port 60h), 1
// status and command (64h). Sources: IBM PC/AT Technical Reference (keyboard controller), IBM PS/2 Hardware Interface Technical Reference
// (keyboard, scan code sets).
//
// Answers are there at once: a guest's probe never waits. Of the auxiliary port only its absence is answered (A9h reports a stuck clock,
// D3h returns its byte as keyboard data, D4h a time-out), so that no driver waits for a mouse.
#pragma once

#include "devices/a20_gate.h"
#include "devices/interrupt_line.h"
#include "devices/io_device.h"

#include <array>
#include <functional>
#include <span>

namespace ring3 {

class I8042 : public ByteDevice {
 public:
  // Bytes waiting to be read, in order; when full, further bytes are refused (the keyboard's own buffer is 16 bytes).
  struct ByteQueue {
    static constexpr unsigned capacity = 32;
    std::array<u8, capacity> bytes{};
    unsigned head = 0;
    unsigned count = 0;
    [[nodiscard]] bool empty() const { return count == 0; }
    [[nodiscard]] unsigned room() const { return capacity - count; }
    void push(u8 byte);  // dropped when full
    u8 pop();            // 0 when empty
    void clear() { count = 0; }
  };
  struct State {
    u8 command_byte = 0x65;  // as firmware leaves it: translate, no auxiliary port, system flag, keyboard interrupt
    u8 output_port = 0x03;   // A20 on, reset not asserted
    u8 pending_command = 0;  // controller command that waits for its data byte; 0: none
    u8 output_buffer = 0;
    bool output_full = false;
    bool output_from_controller = false;
    u8 output_status = 0;        // status bits 5-7 of the byte in the output buffer
    bool reply_waiting = false;  // a controller answer behind an unread keyboard byte
    u8 reply_value = 0;
    u8 reply_status = 0;
    bool last_write_was_command = false;
    ByteQueue keyboard;       // in the keyboard's own scan code set
    u8 keyboard_command = 0;  // keyboard command that waits for its data byte
    u8 scan_set = 2;
    u8 leds = 0;
    u8 typematic = 0x2B;
    u8 last_sent = 0xAA;
    bool scanning = true;
    bool translate_break = false;  // an F0h prefix was seen by the translator
  };

  // `irq1`: output buffer full with keyboard data. `reset`: the CPU reset pin (FEh pulse or output port bit 0 driven low).
  I8042(InterruptLine irq1, A20Gate& a20, std::function<void()> reset);

  // Key data from the keyboard in its current scan code set (one make or break sequence). False: scanning is off or no room, nothing was
  // taken.
  bool key(std::span<const u8> sequence);

  [[nodiscard]] const State& state() const { return s_; }
  void restore(const State& state);

 protected:
  u8 read_byte(u32 offset) override;
  void write_byte(u32 offset, u8 value) override;

 private:
  void controller_command(u8 command);
  void controller_data(u8 command, u8 value);
  void keyboard_byte(u8 value);
  void keyboard_argument(u8 command, u8 value);
  void reply(u8 value, u8 status = 0);  // from the controller itself
  void keyboard_reply(u8 value);
  void set_output_port(u8 value);
  void place(u8 value, u8 status, bool from_controller);
  void drive_irq();
  void pump();  // moves keyboard bytes into the output buffer and drives IRQ1

  InterruptLine irq1_;
  A20Gate& a20_;
  std::function<void()> reset_;
  State s_;
};

}  // namespace ring3
