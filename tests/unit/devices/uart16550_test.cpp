// Expected values: National Semiconductor PC16550D data sheet.
#include "devices/uart16550.h"

#include "fakes.h"

#include <gtest/gtest.h>

namespace ring3 {
namespace {

using test::in;
using test::out;

enum : u32 { data = 0, ier = 1, iir = 2, fcr = 2, lcr = 3, mcr = 4, lsr = 5, msr = 6, scr = 7 };
constexpr Nanoseconds millisecond = 1'000'000;

class Uart : public ::testing::Test {
 protected:
  test::FakeClock clock;
  test::Wire irq;
  test::FakeSink sink;
  Uart16550 uart{clock, irq.line(), sink};

  void SetUp() override { out(uart, mcr, 0x0B); }  // DTR, RTS, OUT2
  void rest() {                                    // lets the pause after a FIFO reset go by
    clock.time += 100 * millisecond;
    uart.run(clock.time);
  }
  void fifo(u8 value) {
    out(uart, fcr, value);
    rest();
  }
  void receive(const std::string& text) {
    for (const char c : text) {
      ASSERT_TRUE(uart.can_receive());
      uart.receive(static_cast<u8>(c));
    }
  }
};

TEST_F(Uart, ResetValues) {
  test::Wire wire;
  Uart16550 fresh{clock, wire.line(), sink};
  EXPECT_EQ(in(fresh, ier), 0x00);
  EXPECT_EQ(in(fresh, iir), 0x01);
  EXPECT_EQ(in(fresh, lcr), 0x00);
  EXPECT_EQ(in(fresh, mcr), 0x00);
  EXPECT_EQ(in(fresh, lsr), 0x60);
  EXPECT_EQ(in(fresh, msr) & 0x0F, 0x00);
}

TEST_F(Uart, RegistersKeepWhatTheyCan) {
  out(uart, lcr, 0x80);
  out(uart, data, 0x34);
  out(uart, ier, 0x12);
  EXPECT_EQ(in(uart, data), 0x34);
  EXPECT_EQ(in(uart, ier), 0x12);
  out(uart, lcr, 0x03);
  EXPECT_EQ(in(uart, ier), 0x00);
  out(uart, ier, 0xFF);
  EXPECT_EQ(in(uart, ier), 0x0F);
  out(uart, mcr, 0xFF);
  EXPECT_EQ(in(uart, mcr), 0x1F);
  out(uart, scr, 0xA5);
  EXPECT_EQ(in(uart, scr), 0xA5);
  EXPECT_EQ(sink.text, "");
}

TEST_F(Uart, FifoIdentification) {
  EXPECT_EQ(in(uart, iir), 0x01);
  fifo(0x01);
  EXPECT_EQ(in(uart, iir), 0xC1);
  fifo(0xC0);  // without bit 0 nothing else is programmed
  EXPECT_EQ(in(uart, iir), 0x01);
}

TEST_F(Uart, Transmits) {
  out(uart, data, 'h');
  out(uart, data, 'i');
  EXPECT_EQ(sink.text, "hi");
  EXPECT_EQ(in(uart, lsr), 0x60);
}

TEST_F(Uart, ThreInterruptSemantics) {
  out(uart, ier, 0x02);
  EXPECT_TRUE(irq.level);          // enabling it while THR is empty interrupts
  EXPECT_EQ(in(uart, iir), 0x02);  // reading IIR as the source clears it
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(in(uart, iir), 0x01);
  out(uart, ier, 0x02);  // still enabled: nothing new
  EXPECT_FALSE(irq.level);
  out(uart, ier, 0x00);
  out(uart, ier, 0x02);  // enabled again
  EXPECT_TRUE(irq.level);
  const unsigned before = irq.rises;
  out(uart, data, 'x');  // writing clears it, the byte leaving sets it again: an edge
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(irq.rises, before + 1);
}

TEST_F(Uart, ThreIsNotClearedByReadingIirForAnotherSource) {
  out(uart, ier, 0x03);
  receive("a");
  EXPECT_EQ(in(uart, iir), 0x04);
  EXPECT_EQ(in(uart, data), 'a');
  EXPECT_EQ(in(uart, iir), 0x02);
}

TEST_F(Uart, AFullSinkKeepsThrBusyAndLosesNothing) {
  fifo(0x01);
  sink.room = 3;
  out(uart, ier, 0x02);
  in(uart, iir);
  for (char c = 'a'; c < 'a' + 10; ++c) out(uart, data, static_cast<u8>(c));
  EXPECT_EQ(sink.text, "abc");
  EXPECT_TRUE(uart.output_pending());
  EXPECT_EQ(in(uart, lsr), 0x00);
  EXPECT_FALSE(irq.level);
  sink.room = 2;
  uart.output_ready();
  EXPECT_EQ(sink.text, "abcde");
  EXPECT_FALSE(irq.level);
  sink.room = 100;
  uart.output_ready();
  EXPECT_EQ(sink.text, "abcdefghij");
  EXPECT_EQ(in(uart, lsr), 0x60);
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(in(uart, iir), 0xC2);
}

TEST_F(Uart, EnablingThreWhileBusyWaits) {
  sink.room = 0;
  out(uart, data, 'x');
  out(uart, ier, 0x02);
  EXPECT_FALSE(irq.level);
  sink.room = 1;
  uart.output_ready();
  EXPECT_TRUE(irq.level);
}

TEST_F(Uart, ResettingTheTransmitFifoKeepsWhatIsOnItsWay) {
  fifo(0x01);
  sink.room = 0;
  out(uart, data, 'x');
  fifo(0x07);
  sink.room = 1;
  uart.output_ready();
  EXPECT_EQ(sink.text, "x");
}

TEST_F(Uart, ReceivesOneByteWithoutFifo) {
  out(uart, ier, 0x01);
  receive("a");
  EXPECT_FALSE(uart.can_receive());
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(in(uart, lsr), 0x61);
  EXPECT_EQ(in(uart, data), 'a');
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(in(uart, lsr), 0x60);
  EXPECT_TRUE(uart.can_receive());
}

TEST_F(Uart, FifoTakesSixteen) {
  fifo(0x01);
  receive("0123456789abcdef");
  EXPECT_FALSE(uart.can_receive());
  for (const char c : std::string("0123456789abcdef")) EXPECT_EQ(in(uart, data), c);
  EXPECT_EQ(in(uart, lsr), 0x60);
}

TEST_F(Uart, TriggerLevels) {
  const std::pair<u8, unsigned> levels[] = {{0x01, 1}, {0x41, 4}, {0x81, 8}, {0xC1, 14}};
  for (const auto& [value, level] : levels) {
    fifo(static_cast<u8>(value | 2));
    out(uart, ier, 0x01);
    for (unsigned i = 1; i <= level; ++i) {
      EXPECT_FALSE(irq.level) << level;
      receive("x");
    }
    EXPECT_TRUE(irq.level) << level;
    EXPECT_EQ(in(uart, iir), 0xC4) << level;
    in(uart, data);
    EXPECT_FALSE(irq.level) << level;  // dropped below the trigger level
    while (in(uart, lsr) & 1) in(uart, data);
    out(uart, ier, 0);
  }
}

TEST_F(Uart, CharacterTimeout) {
  out(uart, lcr, 0x83);
  out(uart, data, 12);  // 9600 baud, 8N1: 10 bits, 4 characters take 4.1667 ms
  out(uart, ier, 0);
  out(uart, lcr, 0x03);
  fifo(0x81);
  out(uart, ier, 0x01);
  receive("ab");
  EXPECT_FALSE(irq.level);
  const auto deadline = uart.next_deadline();
  ASSERT_TRUE(deadline.has_value());
  EXPECT_NEAR(static_cast<double>(*deadline - clock.time), 4e9 * 10 / 9600, 10);
  uart.run(*deadline - 1);
  EXPECT_FALSE(irq.level);
  clock.time = *deadline;
  uart.run(clock.time);
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(in(uart, iir), 0xCC);
  EXPECT_EQ(in(uart, iir), 0xCC);  // only reading a byte clears it
  EXPECT_EQ(in(uart, data), 'a');
  EXPECT_FALSE(irq.level);
  ASSERT_TRUE(uart.next_deadline().has_value());  // one byte is left: the timer runs anew
  clock.time = *uart.next_deadline();
  uart.run(clock.time);
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(in(uart, data), 'b');
  EXPECT_FALSE(uart.next_deadline().has_value());
}

TEST_F(Uart, EveryByteRestartsTheTimeout) {
  fifo(0x81);
  out(uart, ier, 0x01);
  receive("a");
  const Nanoseconds first = *uart.next_deadline();
  clock.time += millisecond;
  receive("b");
  EXPECT_EQ(*uart.next_deadline(), first + millisecond);
}

TEST_F(Uart, Out2GatesTheInterrupt) {
  out(uart, mcr, 0x03);
  out(uart, ier, 0x02);
  EXPECT_FALSE(irq.level);
  out(uart, mcr, 0x0B);
  EXPECT_TRUE(irq.level);
  out(uart, mcr, 0x1B);  // loopback forces OUT2 inactive
  EXPECT_FALSE(irq.level);
}

TEST_F(Uart, ModemLinesOfAConnectedPeer) { EXPECT_EQ(in(uart, msr), 0xB0); }

TEST_F(Uart, LoopbackModemLines) {
  out(uart, mcr, 0x10);
  EXPECT_EQ(in(uart, msr), 0x0B);  // CTS, DSR and DCD fell
  out(uart, mcr, 0x1A);            // RTS and OUT2
  EXPECT_EQ(in(uart, msr), 0x90 | 0x09);
  out(uart, mcr, 0x15);                   // DTR and OUT1
  EXPECT_EQ(in(uart, msr), 0x60 | 0x0B);  // RI rising is no event
  out(uart, mcr, 0x11);
  EXPECT_EQ(in(uart, msr), 0x20 | 0x04);  // its trailing edge is
  EXPECT_EQ(in(uart, msr), 0x20);
}

TEST_F(Uart, ModemStatusInterrupt) {
  out(uart, ier, 0x08);
  EXPECT_EQ(in(uart, iir), 0x01);
  out(uart, mcr, 0x18);
  EXPECT_EQ(in(uart, iir), 0x00);
  in(uart, msr);
  EXPECT_EQ(in(uart, iir), 0x01);
}

TEST_F(Uart, LoopbackData) {
  out(uart, mcr, 0x10);
  EXPECT_FALSE(uart.can_receive());
  out(uart, data, 0x5A);
  EXPECT_EQ(sink.text, "");
  EXPECT_EQ(in(uart, lsr), 0x61);
  EXPECT_EQ(in(uart, data), 0x5A);
}

TEST_F(Uart, LoopbackOverrun) {
  out(uart, mcr, 0x10);
  out(uart, ier, 0x04);
  out(uart, data, 1);
  out(uart, data, 2);  // no FIFO: the first is overwritten
  EXPECT_EQ(in(uart, iir), 0x06);
  EXPECT_EQ(in(uart, lsr), 0x63);
  EXPECT_EQ(in(uart, lsr), 0x61);
  EXPECT_EQ(in(uart, data), 2);
  fifo(0x01);
  for (u8 i = 0; i < 17; ++i) out(uart, data, i);  // FIFO: the last is lost
  EXPECT_EQ(in(uart, lsr), 0x63);
  for (u8 i = 0; i < 16; ++i) EXPECT_EQ(in(uart, data), i);
  EXPECT_EQ(in(uart, lsr), 0x60);
}

TEST_F(Uart, TypeAheadSurvivesADriverOpeningThePort) {
  fifo(0x01);
  receive("hello");
  // As drivers do: reset the FIFOs, read everything once, then enable interrupts.
  out(uart, fcr, 0x01);
  out(uart, fcr, 0x07);
  out(uart, fcr, 0x00);
  out(uart, fcr, 0x01);
  EXPECT_EQ(in(uart, lsr), 0x60);
  in(uart, data);
  in(uart, iir);
  in(uart, msr);
  EXPECT_FALSE(uart.can_receive());
  out(uart, ier, 0x05);
  for (const char c : std::string("hello")) {
    EXPECT_TRUE(irq.level);
    EXPECT_EQ(in(uart, data), c);
  }
  EXPECT_EQ(in(uart, lsr), 0x60);
  EXPECT_TRUE(uart.can_receive());
}

TEST_F(Uart, TypeAheadReachesAPollingGuestAfterThePause) {
  fifo(0x01);
  receive("hi");
  out(uart, fcr, 0x03);
  EXPECT_EQ(in(uart, lsr), 0x60);
  const auto deadline = uart.next_deadline();
  ASSERT_TRUE(deadline.has_value());
  clock.time = *deadline;
  EXPECT_EQ(in(uart, lsr), 0x61);
  EXPECT_EQ(in(uart, data), 'h');
  EXPECT_EQ(in(uart, data), 'i');
}

TEST_F(Uart, LoopbackTestBytesDoNotComeBack) {
  fifo(0x01);
  out(uart, mcr, 0x10);
  out(uart, data, 1);
  out(uart, fcr, 0x03);
  out(uart, mcr, 0x0B);
  rest();
  EXPECT_EQ(in(uart, lsr), 0x60);
}

}  // namespace
}  // namespace ring3
