// Hostile guests: random register traffic at random times. What the values mean is tested elsewhere; here the invariants have to hold after
// every operation, and the sanitizers (preset asan) watch. Seeds are fixed: a failure repeats.
#include "devices/acpi_pm.h"
#include "devices/i8042.h"
#include "devices/pic.h"
#include "devices/pit.h"
#include "devices/reset_control.h"
#include "devices/rtc.h"
#include "devices/system_control.h"
#include "devices/uart16550.h"
#include "fakes.h"

#include <gtest/gtest.h>

#include <random>

namespace ring3 {
namespace {

constexpr unsigned operations = 200'000;

class Traffic {
 public:
  explicit Traffic(u32 seed) : random_(seed) {}
  u32 next(u32 below) { return static_cast<u32>(random_() % below); }
  // Mostly small steps, now and then a long pause of the process.
  Nanoseconds pause() {
    switch (next(16)) {
      case 0: return random_() % 20'000'000'000;
      case 1:
      case 2: return random_() % 50'000'000;
      default: return random_() % 5'000;
    }
  }
  // One access at a random offset; values lean to few bits and to repeated bytes, which hit commands more often.
  void access(IoDevice& device, u32 ports) {
    const unsigned size = 1u << next(3);
    const u32 offset = size <= ports ? next(ports - size + 1) : 0;
    const unsigned legal = size <= ports ? size : 1;
    if (next(3) == 0)
      device.read(offset, legal);
    else
      device.write(offset, legal, next(2) ? static_cast<u32>(random_()) : u32{1} << next(8));
  }

 private:
  std::mt19937_64 random_;
};

void check_timer(Timer& timer, test::FakeClock& clock) {
  timer.run(clock.time);
  const auto deadline = timer.next_deadline();
  if (deadline) {
    ASSERT_GT(*deadline, clock.time);
    // Nothing in these chips is slower than an alarm's next second, except the PM timer (20 minutes to its next flag).
    ASSERT_LT(*deadline - clock.time, u64{1300} * 1'000'000'000);
  }
  timer.run(clock.time);  // again: harmless, and nothing new is due
  ASSERT_EQ(timer.next_deadline(), deadline);
}

class RandomTraffic : public ::testing::TestWithParam<u32> {};

TEST_P(RandomTraffic, Pic) {
  Traffic traffic{GetParam()};
  test::Wire intr;
  PicPair pic{intr.line()};
  for (unsigned i = 0; i < operations; ++i) {
    switch (traffic.next(6)) {
      case 0: pic.set_irq(traffic.next(18), traffic.next(2)); break;
      case 1: traffic.access(pic.master_ports(), 2); break;
      case 2: traffic.access(pic.slave_ports(), 2); break;
      case 3: traffic.access(pic.elcr_ports(), 2); break;
      default: {
        const bool requested = pic.interrupt_requested();
        const PicPair::State before = pic.state();
        const u8 vector = pic.acknowledge();
        const u8 master_base = before.master.vector_base;
        if (!requested) {
          ASSERT_EQ(vector, master_base + 7);
          ASSERT_EQ(pic.state().master.isr, before.master.isr);
        } else {
          ASSERT_TRUE((vector & 0xF8) == master_base || (vector & 0xF8) == before.slave.vector_base);
        }
      }
    }
    const PicPair::State state = pic.state();
    ASSERT_EQ(intr.level, pic.interrupt_requested());
    ASSERT_EQ(state.master.latched & ~state.master.lines, 0);  // an edge is latched only while its line is high
    ASSERT_EQ(state.slave.latched & ~state.slave.lines, 0);
    ASSERT_LT(state.master.lowest, 8);
    ASSERT_EQ(state.master.elcr & 0x07, 0);
    ASSERT_EQ(state.slave.elcr & 0x21, 0);
  }
}

TEST_P(RandomTraffic, PitAndSystemControl) {
  Traffic traffic{GetParam()};
  test::FakeClock clock;
  test::Wire irq0;
  Pit pit{clock, irq0.line()};
  SystemControlB port61{clock, pit};
  for (unsigned i = 0; i < operations; ++i) {
    clock.time += traffic.pause();
    const unsigned rises = irq0.rises;
    if (traffic.next(4) == 0)
      traffic.access(port61, 1);
    else
      traffic.access(pit, 4);
    // At most one for the time that went by and one per byte of the access that changed OUT.
    ASSERT_LE(irq0.rises, rises + 5);
    ASSERT_NO_FATAL_FAILURE(check_timer(pit, clock));
    for (unsigned counter = 0; counter < 3; ++counter) {
      const PitCounter::State state = pit.state().counters[counter];
      ASSERT_LE(state.mode, 5);
      ASSERT_GE(state.period, 1u);
      ASSERT_LE(state.period, 0x10000u);
      ASSERT_TRUE(state.programmed || !pit.out(counter));
    }
  }
}

// The deadlines of counter 0 against a brute-force look at OUT, clock by clock.
TEST_P(RandomTraffic, PitDeadlinesAreTheRisesOfOut) {
  Traffic traffic{GetParam()};
  PitCounter counter;
  u64 tick = 1000;
  for (unsigned i = 0; i < 20'000; ++i) {
    switch (traffic.next(4)) {
      case 0: counter.write_control(tick, static_cast<u8>(1 + traffic.next(3)), static_cast<u8>(traffic.next(6)), traffic.next(2)); break;
      case 1: counter.set_gate(tick, traffic.next(3) != 0); break;
      default: counter.write_count_byte(tick, static_cast<u8>(traffic.next(6)));
    }
    PitCounter watched = counter;  // watching must not disturb
    const auto rise = counter.next_rise(tick);
    const u64 end = tick + 40;
    std::optional<u64> seen;
    bool before = watched.out(tick);
    for (u64 t = tick + 1; t <= end && !seen; ++t) {
      watched.advance(t);
      const bool now = watched.out(t);
      if (now && !before) seen = t;
      before = now;
    }
    const auto expected = rise && *rise <= end ? rise : std::nullopt;
    ASSERT_EQ(seen, expected) << "mode " << unsigned{counter.state().mode} << " period " << counter.state().period;
    tick += traffic.next(30);
    counter.advance(tick);
  }
}

TEST_P(RandomTraffic, Rtc) {
  Traffic traffic{GetParam()};
  test::FakeClock clock;
  test::Wire irq8;
  Rtc rtc{clock, irq8.line(), 1'700'000'000'123'456'789, u64{1} << 30};
  for (unsigned i = 0; i < operations; ++i) {
    clock.time += traffic.pause();
    if (traffic.next(2)) test::out(rtc, 0, traffic.next(2) ? traffic.next(14) : traffic.next(256));
    traffic.access(rtc, 2);
    ASSERT_NO_FATAL_FAILURE(check_timer(rtc, clock));
    const Rtc::State& state = rtc.state();
    ASSERT_EQ(irq8.level, (state.cmos[0x0C] & 0x80) != 0);
    ASSERT_EQ(irq8.level, (state.cmos[0x0C] & state.cmos[0x0B] & 0x70) != 0);
    ASSERT_GE(state.seconds, 0);
    ASSERT_LT(state.weekday_shift, 7);
    ASSERT_LE(clock.time - state.updated_at, 1'500'000'000u);
  }
}

TEST_P(RandomTraffic, Keyboard) {
  Traffic traffic{GetParam()};
  test::Wire irq1;
  A20Gate a20{{}};
  unsigned resets = 0;
  I8042 device{irq1.line(), a20, [&resets] { ++resets; }};
  for (unsigned i = 0; i < operations; ++i) {
    if (traffic.next(8) == 0) {
      const u8 sequence[] = {0xE0, 0xF0, static_cast<u8>(traffic.next(256))};
      device.key(std::span<const u8>(sequence).subspan(traffic.next(3)));
    } else {
      traffic.access(device, 2);
    }
    const I8042::State& state = device.state();
    ASSERT_LE(state.keyboard.count, I8042::ByteQueue::capacity);
    ASSERT_EQ((test::in(device, 1) & 1) != 0, state.output_full);
    ASSERT_TRUE(!irq1.level || state.output_full);
    ASSERT_EQ(a20.enabled(), (state.output_port & 2) != 0);
  }
  EXPECT_GT(resets, 0u);
  // Whatever happened, the queue drains and the controller answers.
  test::out(device, 1, 0xAD);
  for (unsigned i = 0; i < 4; ++i) test::in(device, 0);
  test::out(device, 1, 0xAA);
  EXPECT_EQ(test::in(device, 0), 0x55);
}

TEST_P(RandomTraffic, Uart) {
  Traffic traffic{GetParam()};
  test::FakeClock clock;
  test::Wire irq;
  test::FakeSink sink;
  Uart16550 uart{clock, irq.line(), sink};
  std::size_t sent = 0;
  for (unsigned i = 0; i < operations; ++i) {
    clock.time += traffic.pause();
    sink.room = traffic.next(4);
    switch (traffic.next(4)) {
      case 0:
        if (uart.can_receive()) uart.receive(static_cast<u8>(i));
        break;
      case 1: uart.output_ready(); break;
      default: traffic.access(uart, 8);
    }
    ASSERT_NO_FATAL_FAILURE(check_timer(uart, clock));
    const Uart16550::State& state = uart.state();
    ASSERT_LE(state.receive.count + (state.looped ? 0 : state.on_wire.count), Uart16550::fifo_size);
    ASSERT_LE(state.transmit.count, Uart16550::fifo_size);
    ASSERT_TRUE(!uart.can_receive() || state.on_wire.empty());
    ASSERT_TRUE(!irq.level || (state.ier & 0x0F) != 0);
    ASSERT_GE(sink.text.size(), sent);
    sent = sink.text.size();
  }
  EXPECT_GT(sent, 0u);
}

// What comes in on the wire is read in order and complete, however often the guest resets its FIFO, as long as it reads what LSR announces.
TEST_P(RandomTraffic, UartLosesNoInput) {
  Traffic traffic{GetParam()};
  test::FakeClock clock;
  test::FakeSink sink;
  Uart16550 uart{clock, {}, sink};
  u8 next_in = 0;
  u8 next_out = 0;
  for (unsigned i = 0; i < operations; ++i) {
    clock.time += traffic.pause();
    switch (traffic.next(8)) {
      case 0: test::out(uart, 2, traffic.next(256)); break;
      case 1: test::out(uart, 1, traffic.next(16)); break;
      case 2:
      case 3:
        uart.run(clock.time);
        if (uart.can_receive()) uart.receive(next_in++);
        break;
      default:
        if (test::in(uart, 5) & 1) {
          ASSERT_EQ(test::in(uart, 0), next_out++) << i;
        }
    }
  }
}

TEST_P(RandomTraffic, AcpiAndResetControl) {
  Traffic traffic{GetParam()};
  test::FakeClock clock;
  test::Wire sci;
  unsigned events = 0;
  AcpiPm::Config config;
  config.timer_bits = GetParam() % 2 ? 24 : 32;
  AcpiPm pm{clock, config, sci.line(), [&events] { ++events; }};
  ResetControl reset{[&events] { ++events; }};
  for (unsigned i = 0; i < operations; ++i) {
    clock.time += traffic.pause();
    switch (traffic.next(4)) {
      case 0: traffic.access(reset, 1); break;
      case 1: test::out(pm.smi_ports(), traffic.next(2), traffic.next(2) ? 0xF0 + traffic.next(2) : traffic.next(256)); break;
      default: traffic.access(pm, AcpiPm::port_count);
    }
    ASSERT_NO_FATAL_FAILURE(check_timer(pm, clock));
    const AcpiPm::State& state = pm.state();
    ASSERT_EQ(sci.level, (state.control & 1) && (state.status & state.enable));
  }
  EXPECT_GT(events, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomTraffic, ::testing::Values(1u, 2u, 3u));

}  // namespace
}  // namespace ring3
