// National Semiconductor PC16550D UART (data sheet TL/C/8652), 8 ports.
//
// Sending takes no time: a byte leaves as soon as the sink takes it. Receiving is paced by the owner, which offers bytes when there is
// room, so that nothing is ever overrun.
#pragma once

#include "devices/clock.h"
#include "devices/interrupt_line.h"
#include "devices/io_device.h"
#include "devices/serial_sink.h"
#include "devices/timer.h"

#include <array>

namespace ring3 {

class Uart16550 : public ByteDevice, public Timer {
 public:
  static constexpr unsigned fifo_size = 16;
  struct Fifo {
    std::array<u8, fifo_size> bytes{};
    unsigned head = 0;
    unsigned count = 0;
    [[nodiscard]] bool empty() const { return count == 0; }
    [[nodiscard]] bool full() const { return count == fifo_size; }
    void push(u8 byte);
    u8 pop();
    void clear() { count = 0; }
  };
  struct State {
    u8 ier = 0;
    u8 fcr = 0;  // bit 0 enable, bits 6-7 trigger level
    u8 lcr = 0;
    u8 mcr = 0;
    u8 lsr_errors = 0;  // OE PE FE BI, cleared by reading LSR
    u8 msr_delta = 0;
    u8 scratch = 0;
    u16 divisor = 12;  // 9600 baud
    bool thre_pending = false;
    bool timeout_pending = false;
    bool timeout_armed = false;
    Nanoseconds timeout_at = 0;
    Fifo receive;
    bool looped = false;  // `receive` holds bytes of the loopback test, which a reset destroys for good
    Fifo transmit;        // bytes the sink has not taken yet
    Fifo on_wire;         // bytes a FIFO reset threw out: offered again as if they had arrived later
    bool quiet = false;   // the wire rests until `quiet_until`
    Nanoseconds quiet_until = 0;
  };

  Uart16550(const Clock& clock, InterruptLine irq, SerialSink& sink);

  // Room for a byte from outside. False also in loopback mode (SIN is disconnected) and for a moment after the guest reset the receive
  // FIFO: drivers reset and drain the port when they open it, and input that was typed ahead must survive that.
  [[nodiscard]] bool can_receive() const;
  // Only when can_receive().
  void receive(u8 byte);
  // Bytes are waiting for the sink; call output_ready() when it may have room again.
  [[nodiscard]] bool output_pending() const { return !s_.transmit.empty(); }
  void output_ready();

  [[nodiscard]] std::optional<Nanoseconds> next_deadline() const override;
  void run(Nanoseconds now) override;

  [[nodiscard]] const State& state() const { return s_; }
  void restore(const State& state);

 protected:
  u8 read_byte(u32 offset) override;
  void write_byte(u32 offset, u8 value) override;

 private:
  [[nodiscard]] bool fifo_enabled() const { return (s_.fcr & 1) != 0; }
  [[nodiscard]] bool loopback() const { return (s_.mcr & 0x10) != 0; }
  [[nodiscard]] unsigned trigger_level() const;
  [[nodiscard]] Nanoseconds character_time() const;
  [[nodiscard]] u8 line_status() const;
  [[nodiscard]] u8 modem_lines() const;
  [[nodiscard]] u8 interrupt_identity() const;
  [[nodiscard]] bool receiver_full() const;
  u8 read_receiver();
  void accept(u8 byte);
  void transmit(u8 byte);
  void flush();
  void write_fcr(u8 value);
  void write_mcr(u8 value);
  void reset_receiver();
  void refill_from_wire();
  void restart_timeout();
  void update_irq();

  const Clock& clock_;
  InterruptLine irq_;
  SerialSink& sink_;
  State s_;
};

}  // namespace ring3
