// Expected values: Intel 8254 data sheet, mode definitions and figures. Times are given in CLK pulses.
#include "devices/pit.h"

#include "devices/system_control.h"
#include "fakes.h"

#include <gtest/gtest.h>

#include <vector>

namespace ring3 {
namespace {

using test::in;
using test::out;

constexpr u32 control = 3;

class PitTest : public ::testing::Test {
 protected:
  test::FakeClock clock;
  test::Wire irq0;
  Pit pit{clock, irq0.line()};
  u64 tick = 0;

  void advance(u64 ticks) {
    tick += ticks;
    clock.time = Pit::rate.time_of(tick);
  }
  void program(unsigned counter, unsigned mode, u16 count, bool bcd = false) {
    out(pit, control, counter << 6 | 0x30 | mode << 1 | (bcd ? 1 : 0));
    out(pit, counter, count & 0xFF);
    out(pit, counter, count >> 8);
  }
  u16 latched(unsigned counter) {
    out(pit, control, counter << 6);
    const u8 low = in(pit, counter);
    return static_cast<u16>(low | in(pit, counter) << 8);
  }
  u8 status(unsigned counter) {
    out(pit, control, 0xE0 | 2u << counter);
    return in(pit, counter);
  }
  // OUT of a counter over the next `n` clocks, one character each.
  std::string wave(unsigned counter, unsigned n) {
    std::string result;
    for (unsigned i = 0; i < n; ++i) {
      advance(1);
      result.push_back(pit.out(counter) ? 'H' : '_');
    }
    return result;
  }
};

TEST(TickRate, ConvertsWithoutDrift) {
  constexpr TickRate rate{1193182};
  EXPECT_EQ(rate.ticks_in(1'000'000'000), 1193182u);
  EXPECT_EQ(rate.ticks_in(u64{86400} * 365 * 100 * 1'000'000'000), u64{86400} * 365 * 100 * 1193182);
  for (u64 ticks : {u64{1}, u64{2}, u64{65536}, u64{1193181}, u64{1193183}, u64{987654321012}}) {
    EXPECT_EQ(rate.ticks_in(rate.time_of(ticks)), ticks);
    EXPECT_EQ(rate.ticks_in(rate.time_of(ticks) - 1), ticks - 1);
  }
}

// Figure 15: count 4 in mode 0: OUT goes high N + 1 clocks after the write.
TEST_F(PitTest, Mode0) {
  program(1, 0, 4);
  EXPECT_EQ(wave(1, 7), "____HHH");
  out(pit, control, 0x70);
  EXPECT_FALSE(pit.out(1));  // the control word sets OUT low
}

TEST_F(PitTest, Mode0CountsAndWraps) {
  program(1, 0, 3);
  advance(1);
  EXPECT_EQ(latched(1), 3);
  advance(1);
  EXPECT_EQ(latched(1), 2);
  advance(2);
  EXPECT_EQ(latched(1), 0);
  advance(1);
  EXPECT_EQ(latched(1), 0xFFFF);
}

TEST_F(PitTest, Mode0FirstByteStopsTheCounting) {
  program(1, 0, 2);
  EXPECT_EQ(wave(1, 4), "__HH");
  out(pit, 1, 5);
  EXPECT_EQ(wave(1, 8), "________");
  out(pit, 1, 0);
  EXPECT_EQ(wave(1, 7), "_____HH");
}

TEST_F(PitTest, Mode0GatePauses) {
  pit.set_gate2(true);
  program(2, 0, 4);
  EXPECT_EQ(wave(2, 3), "___");  // loaded, two counted
  pit.set_gate2(false);
  EXPECT_EQ(latched(2), 2);
  EXPECT_EQ(wave(2, 5), "_____");
  EXPECT_EQ(latched(2), 2);
  pit.set_gate2(true);
  EXPECT_EQ(wave(2, 3), "_HH");
}

// "If an initial count is written while GATE = 0 ... when GATE goes high, OUT will go high N CLK pulses later".
TEST_F(PitTest, Mode0CountWrittenWhileGateLow) {
  program(2, 0, 3);
  advance(10);
  EXPECT_EQ(latched(2), 3);
  pit.set_gate2(true);
  EXPECT_EQ(wave(2, 4), "__HH");
}

// Figure 16: one-shot of 3 clocks from the clock after the trigger; retriggerable.
TEST_F(PitTest, Mode1) {
  program(2, 1, 3);
  EXPECT_EQ(wave(2, 3), "HHH");
  pit.set_gate2(true);
  EXPECT_EQ(wave(2, 5), "___HH");
  pit.set_gate2(false);
  EXPECT_EQ(wave(2, 2), "HH");
  pit.set_gate2(true);
  EXPECT_EQ(wave(2, 2), "__");
  pit.set_gate2(false);
  pit.set_gate2(true);
  EXPECT_EQ(wave(2, 5), "___HH");
}

// Figure 17: count 3: high for 2 clocks, low for 1.
TEST_F(PitTest, Mode2) {
  program(1, 2, 3);
  EXPECT_EQ(wave(1, 10), "HH_HH_HH_H");
  EXPECT_EQ(latched(1), 3);
  advance(1);
  EXPECT_EQ(latched(1), 2);
  advance(1);
  EXPECT_EQ(latched(1), 1);
  advance(1);
  EXPECT_EQ(latched(1), 3);
}

TEST_F(PitTest, Mode2NewCountAtTheEndOfTheCycle) {
  program(1, 2, 4);
  EXPECT_EQ(wave(1, 2), "HH");
  out(pit, 1, 5);
  out(pit, 1, 0);
  EXPECT_EQ(wave(1, 12), "H_HHHH_HHHH_");
}

TEST_F(PitTest, Mode2GateLowForcesHighAndRestarts) {
  pit.set_gate2(true);
  program(2, 2, 3);
  EXPECT_EQ(wave(2, 3), "HH_");
  pit.set_gate2(false);
  EXPECT_TRUE(pit.out(2));
  EXPECT_EQ(wave(2, 4), "HHHH");
  pit.set_gate2(true);
  EXPECT_EQ(wave(2, 6), "HH_HH_");
}

// Figure 18: even and odd counts.
TEST_F(PitTest, Mode3) {
  program(1, 3, 4);
  EXPECT_EQ(wave(1, 9), "HH__HH__H");
  program(1, 3, 5);
  EXPECT_EQ(wave(1, 11), "HHH__HHH__H");
}

TEST_F(PitTest, Mode3CountsByTwo) {
  program(1, 3, 5);
  std::vector<u16> counts;
  for (int i = 0; i < 6; ++i) {
    advance(1);
    counts.push_back(latched(1));
  }
  EXPECT_EQ(counts, (std::vector<u16>{4, 2, 0, 4, 2, 4}));
  program(1, 3, 4);
  counts.clear();
  for (int i = 0; i < 5; ++i) {
    advance(1);
    counts.push_back(latched(1));
  }
  EXPECT_EQ(counts, (std::vector<u16>{4, 2, 4, 2, 4}));
}

TEST_F(PitTest, Mode3NewCountAtTheEndOfTheHalf) {
  program(1, 3, 4);
  EXPECT_EQ(wave(1, 1), "H");
  out(pit, 1, 6);
  out(pit, 1, 0);
  EXPECT_EQ(wave(1, 11), "H___HHH___H");
}

// Figure 19: strobe one clock wide, N + 1 clocks after the write.
TEST_F(PitTest, Mode4) {
  program(1, 4, 3);
  EXPECT_EQ(wave(1, 7), "HHH_HHH");
}

TEST_F(PitTest, Mode5) {
  program(2, 5, 3);
  EXPECT_EQ(wave(2, 5), "HHHHH");
  pit.set_gate2(true);
  EXPECT_EQ(wave(2, 7), "HHH_HHH");
}

TEST_F(PitTest, BcdAndZeroCounts) {
  program(1, 0, 0x1234, true);
  advance(1);
  EXPECT_EQ(latched(1), 0x1234);
  advance(35);
  EXPECT_EQ(latched(1), 0x1199);
  program(1, 0, 0, true);  // 10000
  advance(2);
  EXPECT_EQ(latched(1), 0x9999);
  EXPECT_FALSE(pit.out(1));
  advance(9999);
  EXPECT_TRUE(pit.out(1));
  program(1, 0, 0);  // 65536
  advance(65536);
  EXPECT_FALSE(pit.out(1));
  advance(1);
  EXPECT_TRUE(pit.out(1));
}

TEST_F(PitTest, OneByteCounts) {
  out(pit, control, 0x50);  // counter 1, LSB only, mode 0
  out(pit, 1, 0x20);
  advance(1);
  EXPECT_EQ(in(pit, 1), 0x20);
  EXPECT_EQ(in(pit, 1), 0x20);
  out(pit, control, 0x60);  // MSB only
  out(pit, 1, 0x20);
  advance(2);
  EXPECT_EQ(in(pit, 1), 0x1F);
}

TEST_F(PitTest, LatchHoldsUntilRead) {
  program(1, 0, 1000);
  advance(1);
  out(pit, control, 0x40);
  advance(100);
  out(pit, control, 0x40);  // ignored
  EXPECT_EQ(in(pit, 1), 1000 & 0xFF);
  advance(100);
  EXPECT_EQ(in(pit, 1), 1000 >> 8);
  EXPECT_EQ(in(pit, 1), 800 & 0xFF);
}

// Figures 11 and 12: status byte; status comes before the count when both are latched.
TEST_F(PitTest, ReadBack) {
  program(1, 3, 0x1000);
  EXPECT_EQ(status(1), 0x80 | 0x40 | 0x36);  // not loaded yet: null count
  advance(1);
  EXPECT_EQ(status(1), 0x80 | 0x36);
  advance(0x800);
  EXPECT_EQ(status(1), 0x36);
  out(pit, control, 0xC4);  // count and status of counter 1
  EXPECT_EQ(in(pit, 1), 0x36);
  EXPECT_EQ(in(pit, 1), 0x00);
  EXPECT_EQ(in(pit, 1), 0x10);
  out(pit, control, 0x72);  // counter 1, mode 1
  EXPECT_EQ(status(1), 0x80 | 0x40 | 0x32);
  out(pit, control, 0x4F | 0x30);  // mode bits 111 mean mode 3, BCD
  EXPECT_EQ(status(1) & 0x3F, 0x37);
}

TEST_F(PitTest, PeriodicInterruptsKeepPhase) {
  program(0, 2, 1193);  // 1 kHz
  const unsigned before = irq0.rises;
  for (unsigned i = 1; i <= 100; ++i) {
    const auto deadline = pit.next_deadline();
    ASSERT_TRUE(deadline.has_value());
    EXPECT_EQ(*deadline, Pit::rate.time_of(1 + u64{i} * 1193));
    pit.run(*deadline - 1);
    EXPECT_EQ(irq0.rises, before + i - 1);
    pit.run(*deadline);
    EXPECT_EQ(irq0.rises, before + i);
    clock.time = *deadline;
  }
}

TEST_F(PitTest, LongPauseGivesOneInterruptAndKeepsPhase) {
  program(0, 3, 1000);
  const unsigned before = irq0.rises;
  const Nanoseconds late = Pit::rate.time_of(1 + 12345 * u64{1000} + 700);  // in the low half
  clock.time = late;
  pit.run(late);
  EXPECT_EQ(irq0.rises, before + 1);
  EXPECT_TRUE(irq0.level);  // stays up although OUT is low, so that the request is not withdrawn
  EXPECT_FALSE(pit.out(0));
  EXPECT_EQ(pit.next_deadline(), Pit::rate.time_of(1 + 12346 * u64{1000}));
}

TEST_F(PitTest, UnrelatedWritesMakeNoEdges) {
  program(0, 3, 1000);
  advance(1 + 600);
  const unsigned before = irq0.rises;
  out(pit, control, 0x00);  // latch counter 0 in its low half
  program(2, 0, 77);
  advance(100);
  out(pit, control, 0xDE);
  EXPECT_EQ(irq0.rises, before);
  advance(300);
  pit.run(clock.time);
  EXPECT_EQ(irq0.rises, before + 1);
}

TEST_F(PitTest, OneShots) {
  for (unsigned mode : {0u, 4u}) {
    program(0, mode, 100);
    const unsigned before = irq0.rises;
    const u64 due = tick + 101 + (mode == 4 ? 1 : 0);
    ASSERT_EQ(pit.next_deadline(), Pit::rate.time_of(due)) << mode;
    pit.run(Pit::rate.time_of(due) - 1);
    EXPECT_EQ(irq0.rises, before) << mode;
    advance(due - tick);
    pit.run(clock.time);
    EXPECT_EQ(irq0.rises, before + 1) << mode;
    EXPECT_FALSE(pit.next_deadline().has_value()) << mode;
    advance(1'000'000);
    pit.run(clock.time);
    EXPECT_EQ(irq0.rises, before + 1) << mode;
  }
}

TEST_F(PitTest, StateRoundTrip) {
  program(0, 2, 1000);
  advance(1 + 300);
  const u16 count = latched(0);
  const Pit::State saved = pit.state();
  test::FakeClock other_clock;
  other_clock.time = 5;  // less than the time the first one ran
  Pit other{other_clock, {}};
  other.restore(saved);
  out(other, control, 0);
  EXPECT_EQ(in(other, 0), count & 0xFF);
  EXPECT_EQ(in(other, 0), count >> 8);
  EXPECT_EQ(other.next_deadline(), 5 + Pit::rate.time_of(1 + 1000) - Pit::rate.time_of(1 + 300));
}

TEST_F(PitTest, Port61) {
  SystemControlB port{clock, pit};
  out(port, 0, 0x01);
  EXPECT_TRUE(pit.gate2());
  program(2, 0, 50);
  EXPECT_EQ(in(port, 0) & 0x2F, 0x01);
  advance(51);
  EXPECT_EQ(in(port, 0) & 0x2F, 0x21);
  out(port, 0, 0xFE);
  EXPECT_FALSE(pit.gate2());
  EXPECT_EQ(in(port, 0) & 0xCF, 0x0E);
}

TEST_F(PitTest, RefreshBitTogglesEvery18Clocks) {
  SystemControlB port{clock, pit};
  const u8 first = in(port, 0) & 0x10;
  advance(17);
  EXPECT_EQ(in(port, 0) & 0x10, first);
  advance(1);
  EXPECT_NE(in(port, 0) & 0x10, first);
  advance(18);
  EXPECT_EQ(in(port, 0) & 0x10, first);
}

}  // namespace
}  // namespace ring3
