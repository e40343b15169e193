#include "devices/i8042.h"

namespace ring3 {

namespace {

enum : u8 {  // status register
  status_output_full = 0x01,
  status_system = 0x04,
  status_command = 0x08,
  status_unlocked = 0x10,
  status_aux = 0x20,
  status_timeout = 0x40,
};

enum : u8 {  // command byte
  cb_interrupt = 0x01,
  cb_system = 0x04,
  cb_keyboard_off = 0x10,
  cb_translate = 0x40,
};

enum : u8 { port_reset = 0x01, port_a20 = 0x02 };

enum : u8 { key_ack = 0xFA, key_resend = 0xFE, key_test_passed = 0xAA, key_echo = 0xEE };

// Scan code set 2 to set 1 as the controller translates (IBM PS/2 Hardware Interface Technical Reference, "Scan code tables": the key with
// this set 2 make code has that set 1 make code). Unassigned codes map as the AT controller's table does; 84h and above pass unchanged.
constexpr std::array<u8, 0x84> set1_of_set2 = {
    0xFF, 0x43, 0x41, 0x3F, 0x3D, 0x3B, 0x3C, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3E, 0x0F, 0x29, 0x59,  // 00
    0x65, 0x38, 0x2A, 0x70, 0x1D, 0x10, 0x02, 0x5A, 0x66, 0x71, 0x2C, 0x1F, 0x1E, 0x11, 0x03, 0x5B,  // 10
    0x67, 0x2E, 0x2D, 0x20, 0x12, 0x05, 0x04, 0x5C, 0x68, 0x39, 0x2F, 0x21, 0x14, 0x13, 0x06, 0x5D,  // 20
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5E, 0x6A, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5F,  // 30
    0x6B, 0x33, 0x25, 0x17, 0x18, 0x0B, 0x0A, 0x60, 0x6C, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0C, 0x61,  // 40
    0x6D, 0x73, 0x28, 0x74, 0x1A, 0x0D, 0x62, 0x6E, 0x3A, 0x36, 0x1C, 0x1B, 0x75, 0x2B, 0x63, 0x76,  // 50
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7A, 0x0E, 0x7B, 0x7C, 0x4F, 0x7D, 0x4B, 0x47, 0x7E, 0x7F, 0x6F,  // 60
    0x52, 0x53, 0x50, 0x4C, 0x4D, 0x48, 0x01, 0x45, 0x57, 0x4E, 0x51, 0x4A, 0x37, 0x49, 0x46, 0x54,  // 70
    0x80, 0x81, 0x82, 0x41,                                                                          // 80
};

}  // namespace

void I8042::ByteQueue::push(u8 byte) {
  if (room() == 0) return;
  bytes[(head + count) % capacity] = byte;
  ++count;
}

u8 I8042::ByteQueue::pop() {
  if (empty()) return 0;
  const u8 byte = bytes[head % capacity];
  head = (head + 1) % capacity;
  --count;
  return byte;
}

I8042::I8042(InterruptLine irq1, A20Gate& a20, std::function<void()> reset) : irq1_(std::move(irq1)), a20_(a20), reset_(std::move(reset)) {}

bool I8042::key(std::span<const u8> sequence) {
  if (!s_.scanning || sequence.size() > s_.keyboard.room()) return false;
  for (const u8 byte : sequence) s_.keyboard.push(byte);
  pump();
  return true;
}

void I8042::drive_irq() { irq1_.set(s_.output_full && !(s_.output_status & status_aux) && (s_.command_byte & cb_interrupt)); }

void I8042::place(u8 value, u8 status, bool from_controller) {
  s_.output_buffer = value;
  s_.output_status = status;
  s_.output_from_controller = from_controller;
  s_.output_full = true;
  irq1_.set(false);  // every byte is an edge of its own
  drive_irq();
}

void I8042::pump() {
  while (!s_.output_full) {
    if (s_.reply_waiting) {
      s_.reply_waiting = false;
      place(s_.reply_value, s_.reply_status, true);
      return;
    }
    if (s_.keyboard.empty() || (s_.command_byte & cb_keyboard_off)) break;
    u8 value = s_.keyboard.pop();
    s_.last_sent = value;
    if (s_.command_byte & cb_translate) {
      if (value == 0xF0) {
        s_.translate_break = true;
        continue;
      }
      if (value < set1_of_set2.size()) value = set1_of_set2[value];
      if (s_.translate_break) value |= 0x80;
      s_.translate_break = false;
    }
    place(value, 0, false);
  }
  drive_irq();
}

void I8042::reply(u8 value, u8 status) {
  // An unread answer to an earlier command is overwritten; an unread key is not: it goes first.
  if (s_.output_full && !s_.output_from_controller) {
    s_.reply_waiting = true;
    s_.reply_value = value;
    s_.reply_status = status;
  } else {
    s_.reply_waiting = false;
    place(value, status, true);
  }
}

u8 I8042::read_byte(u32 offset) {
  if (offset & 1) {
    u8 status = status_unlocked;  // the input buffer is always empty: bytes are handled as they are written
    if (s_.output_full) status |= static_cast<u8>(status_output_full | s_.output_status);
    if (s_.command_byte & cb_system) status |= status_system;
    if (s_.last_write_was_command) status |= status_command;
    return status;
  }
  const u8 value = s_.output_buffer;
  s_.output_full = false;
  drive_irq();
  pump();
  return value;
}

void I8042::write_byte(u32 offset, u8 value) {
  s_.last_write_was_command = (offset & 1) != 0;
  if (offset & 1) {
    s_.pending_command = 0;
    controller_command(value);
  } else if (s_.pending_command != 0) {
    const u8 command = s_.pending_command;
    s_.pending_command = 0;
    controller_data(command, value);
  } else {
    s_.command_byte &= static_cast<u8>(~cb_keyboard_off);  // sending to the keyboard opens its interface
    keyboard_byte(value);
  }
  pump();
}

void I8042::controller_command(u8 command) {
  if (command >= 0x20 && command <= 0x3F) return reply(command == 0x20 ? s_.command_byte : 0);
  if (command >= 0xF0) {  // pulse output port bits whose command bit is 0
    if ((command & port_reset) == 0) reset_();
    return;
  }
  switch (command) {
    case 0xA4: return reply(0xF1);  // no password installed
    case 0xA9: return reply(0x01);  // auxiliary interface: clock line stuck low
    case 0xAA: s_.command_byte |= cb_system; return reply(0x55);
    case 0xAB: return reply(0x00);
    case 0xAD: s_.command_byte |= cb_keyboard_off; return;
    case 0xAE: s_.command_byte &= static_cast<u8>(~cb_keyboard_off); return;
    case 0xC0: return reply(0xB0);  // keyboard not inhibited, no manufacturing jumper, colour display
    case 0xD0: return reply(s_.output_port);
    case 0xE0: return reply(0x00);  // clock and data low: nothing is being sent
    case 0xD1:
    case 0xD2:
    case 0xD3:
    case 0xD4: s_.pending_command = command; return;
    default:
      if (command >= 0x60 && command <= 0x7F) s_.pending_command = command;
      return;  // A7h and A8h have no port to switch; the rest is not defined
  }
}

void I8042::controller_data(u8 command, u8 value) {
  switch (command) {
    case 0x60: s_.command_byte = value & 0x7F; return;
    case 0xD1: return set_output_port(value);
    case 0xD2:  // as if the keyboard had sent it
      if (!s_.output_full) place(value, 0, false);
      return;
    case 0xD3: return reply(value);
    case 0xD4: return reply(key_resend, status_timeout | status_aux);
    default: return;  // 61h-7Fh: RAM of the 8042 that means nothing here
  }
}

void I8042::set_output_port(u8 value) {
  s_.output_port = value;
  a20_.set(A20Gate::Source::keyboard_controller, (value & port_a20) != 0);
  if ((value & port_reset) == 0) {
    s_.output_port |= port_reset;
    reset_();
  }
}

void I8042::keyboard_reply(u8 value) { s_.keyboard.push(value); }

void I8042::keyboard_byte(u8 value) {
  if (s_.keyboard_command != 0) {
    const u8 command = s_.keyboard_command;
    s_.keyboard_command = 0;
    if (value < 0xED) return keyboard_argument(command, value);
    // A command instead of the argument: the old one is abandoned.
  }
  switch (value) {
    case 0xED:
    case 0xF0:
    case 0xF3: s_.keyboard_command = value; return keyboard_reply(key_ack);
    case 0xEE: return keyboard_reply(key_echo);
    case 0xF2:
      keyboard_reply(key_ack);
      keyboard_reply(0xAB);
      return keyboard_reply(0x83);
    case 0xF4:
    case 0xF5:
    case 0xF6:
      s_.keyboard.clear();
      if (value != 0xF6) s_.scanning = value == 0xF4;
      if (value != 0xF4) s_.typematic = 0x2B;
      if (value == 0xF6) s_.leds = 0;
      return keyboard_reply(key_ack);
    case 0xF7:
    case 0xF8:
    case 0xF9:
    case 0xFA: return keyboard_reply(key_ack);  // key types of set 3: all keys alike
    case 0xFE: return keyboard_reply(s_.last_sent);
    case 0xFF:
      s_.keyboard.clear();
      s_.scan_set = 2;
      s_.leds = 0;
      s_.typematic = 0x2B;
      s_.scanning = true;
      s_.translate_break = false;
      keyboard_reply(key_ack);
      return keyboard_reply(key_test_passed);
    default: return keyboard_reply(key_resend);
  }
}

void I8042::keyboard_argument(u8 command, u8 value) {
  if (command == 0xED) {
    s_.leds = value & 7;
  } else if (command == 0xF3) {
    s_.typematic = value & 0x7F;
  } else {
    if (value > 3) return keyboard_reply(key_resend);
    if (value == 0) {
      keyboard_reply(key_ack);
      return keyboard_reply(s_.scan_set);
    }
    s_.scan_set = value;
  }
  keyboard_reply(key_ack);
}

void I8042::restore(const State& state) {
  s_ = state;
  s_.keyboard.head %= ByteQueue::capacity;
  a20_.set(A20Gate::Source::keyboard_controller, (s_.output_port & port_a20) != 0);
  drive_irq();
}

}  // namespace ring3
