// Motorola MC146818 real-time clock with 128 bytes of CMOS memory, 2 ports (70h index, 71h data). Data sheet MC146818AS; the meaning of the
// CMOS bytes from the IBM PC/AT Technical Reference and Ralf Brown's list.
#pragma once

#include "devices/clock.h"
#include "devices/interrupt_line.h"
#include "devices/io_device.h"
#include "devices/tick_rate.h"
#include "devices/timer.h"

#include <array>

namespace ring3 {

class Rtc : public ByteDevice, public Timer {
 public:
  static constexpr TickRate rate{32768};
  struct State {
    std::array<u8, 128> cmos{};
    u8 index = 0;                // with bit 7 = NMI masked
    i64 seconds = 0;             // time of day as seconds since 1970-01-01 00:00, shown since `updated_at`
    Nanoseconds updated_at = 0;  // the last update (also while SET or the divider hold it: keeps the phase)
    u8 weekday_shift = 0;        // the day-of-week counter is independent of the date
    u64 periodic_ticks = 0;      // 32768 Hz ticks up to which the periodic flag was evaluated
  };

  // `unix_nanoseconds` is the UTC time of day now; `ram_bytes` (RAM from 0 up, below 4 GiB) goes into the memory size bytes. `irq8` is IRQ#
  // (true: asserted).
  Rtc(const Clock& clock, InterruptLine irq8, i64 unix_nanoseconds, u64 ram_bytes);

  // Port 70h bit 7.
  [[nodiscard]] bool nmi_masked() const { return (s_.index & 0x80) != 0; }
  // CMOS byte 0Fh, set by software before a CPU reset.
  [[nodiscard]] u8 shutdown_status() const { return s_.cmos[0x0F]; }

  [[nodiscard]] std::optional<Nanoseconds> next_deadline() const override;
  void run(Nanoseconds now) override;

  [[nodiscard]] const State& state() const { return s_; }
  void restore(const State& state);

 protected:
  u8 read_byte(u32 offset) override;
  void write_byte(u32 offset, u8 value) override;

 private:
  u8 read_cmos(Nanoseconds now, unsigned index);
  void write_cmos(Nanoseconds now, unsigned index, u8 value);
  [[nodiscard]] bool divider_held() const;
  [[nodiscard]] bool updates_inhibited() const;
  [[nodiscard]] u64 period_ticks() const;  // 0: no periodic rate selected
  [[nodiscard]] u8 encode(unsigned value) const;
  [[nodiscard]] unsigned decode(u8 value) const;
  [[nodiscard]] u8 encode_hour(unsigned hour) const;
  [[nodiscard]] unsigned decode_hour(u8 value) const;
  [[nodiscard]] bool alarm_matches(i64 seconds) const;
  void show_time();  // seconds -> registers
  void take_time();  // registers -> seconds
  void update_irq();

  const Clock& clock_;
  InterruptLine irq_;
  Nanoseconds epoch_;
  State s_;
};

}  // namespace ring3
