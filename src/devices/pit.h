// Intel 8254 programmable interval timer (data sheet order number 231164), three counters at 1193182 Hz.
//
// Nothing is ticked: each counter knows the tick at which it was loaded, and count and OUT are functions of the time since.
#pragma once

#include "devices/clock.h"
#include "devices/interrupt_line.h"
#include "devices/io_device.h"
#include "devices/tick_rate.h"
#include "devices/timer.h"

#include <array>
#include <optional>

namespace ring3 {

// One counter. All times are ticks of the PIT clock; `tick` arguments never go back.
class PitCounter {
 public:
  struct State {
    u8 mode = 0;    // 0..5
    u8 access = 3;  // RW1:RW0: 1 LSB, 2 MSB, 3 LSB then MSB
    bool bcd = false;
    bool gate = true;
    bool programmed = false;   // a control word was written
    bool loaded = false;       // `start` and `period` are valid: a count was written (and, in modes 1 and 5, triggered)
    u32 count_register = 0;    // the last complete count in clocks, 1..65536
    bool count_valid = false;  // count_register holds a count written since the control word
    u32 period = 0x10000;      // the count in use, 1..65536
    u64 start = 0;             // tick at which it was loaded
    u64 paused_elapsed = 0;    // while GATE stops the counting: ticks counted so far
    bool paused = false;
    bool reload_pending = false;  // modes 2, 3: count_register replaces `period` at `reload_at`
    u64 reload_at = 0;
    bool write_high_next = false;
    u8 write_low = 0;
    bool read_high_next = false;
    u8 latched_bytes = 0;  // bytes of the latched count still to be read
    u16 latched_count = 0;
    bool status_latched = false;
    u8 latched_status = 0;
  };

  void write_control(u64 tick, u8 access, u8 mode, bool bcd);
  void write_count_byte(u64 tick, u8 value);
  u8 read_byte(u64 tick);
  void latch_count(u64 tick);
  void latch_status(u64 tick);
  void set_gate(u64 tick, bool level);

  [[nodiscard]] bool out(u64 tick) const;
  // The first tick after `tick` at which OUT goes from low to high; empty: never, as things are.
  [[nodiscard]] std::optional<u64> next_rise(u64 tick) const;
  // Applies reloads that were due by `tick`; every entry point above does it first.
  void advance(u64 tick);

  [[nodiscard]] const State& state() const { return s_; }
  void restore(const State& state) { s_ = state; }

 private:
  [[nodiscard]] bool counting_started(u64 tick) const { return s_.loaded && (s_.paused || tick >= s_.start); }
  [[nodiscard]] u64 elapsed(u64 tick) const { return s_.paused ? s_.paused_elapsed : tick - s_.start; }
  [[nodiscard]] u32 count(u64 tick) const;
  void count_written(u64 tick, u32 raw);
  void load(u64 tick);
  [[nodiscard]] u64 next_reload(u64 tick) const;

  State s_;
};

// 4 ports (40h): counters 0-2 and the control word register.
class Pit : public ByteDevice, public Timer {
 public:
  static constexpr TickRate rate{1193182};
  struct State {
    std::array<PitCounter::State, 3> counters;
    u64 synced_tick = 0;
    bool irq0_level = false;
  };

  // `irq0` hears OUT of counter 0. Its high time is stretched to the next rise in the periodic modes, and however many rises passed since
  // the last visit become one: an edge-triggered 8259 could not hold more, and a process that was not scheduled must not owe the guest a
  // burst.
  Pit(const Clock& clock, InterruptLine irq0);

  // GATE of counter 2 (port 61h bit 0). Counters 0 and 1 have GATE tied high.
  void set_gate2(bool level);
  [[nodiscard]] bool gate2() const { return counters_[2].state().gate; }
  // OUT pin of counter 0-2 at this moment.
  [[nodiscard]] bool out(unsigned counter);

  [[nodiscard]] std::optional<Nanoseconds> next_deadline() const override;
  void run(Nanoseconds now) override;

  [[nodiscard]] State state() const;
  void restore(const State& state);

 protected:
  u8 read_byte(u32 offset) override;
  void write_byte(u32 offset, u8 value) override;

 private:
  u64 sync();  // advances everything to the clock's now; returns its tick
  void sync_to(u64 tick);
  void follow_out0(u64 tick);
  void write_control(u64 tick, u8 value);

  const Clock& clock_;
  InterruptLine irq0_;
  Nanoseconds epoch_;
  u64 synced_tick_;
  std::array<PitCounter, 3> counters_;
};

}  // namespace ring3
