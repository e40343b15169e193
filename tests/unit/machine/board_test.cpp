// The board as the CPU sees it: ports lead to the right devices, devices to the right interrupts, and requests to stop are kept.
#include "machine/board.h"

#include "base/duration.h"
#include "base/error.h"
#include "runtime/memory/ram.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <csignal>

namespace ring3 {
namespace {

class BoardTest : public testing::Test {
 protected:
  BoardTest() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) == 0) {
      in_ = Fd(fds[0]);
      typing_ = Fd(fds[1]);
    }
    if (::pipe2(fds, O_CLOEXEC) == 0) {
      screen_ = Fd(fds[0]);
      out_ = Fd(fds[1]);
    }
  }

  BoardConfig config() {
    BoardConfig c;
    c.console = {in_.get(), out_.get(), false};
    c.debug_exit = 0x501;
    return c;
  }
  std::unique_ptr<Board> board(const BoardConfig& c) {
    auto made = std::make_unique<Board>(c, ram_, trace_);
    made->power_on();
    return made;
  }
  // Both 8259s as a PC's firmware programs them: vectors 20h and 28h, everything masked but `irq`.
  static void unmask(Board& b, unsigned irq) {
    const u16 chips[] = {0x20, 0xA0};
    for (unsigned i = 0; i < 2; ++i) {
      b.io_write(chips[i], 1, 0x11);
      b.io_write(static_cast<u16>(chips[i] + 1), 1, 0x20 + 8 * i);
      b.io_write(static_cast<u16>(chips[i] + 1), 1, i == 0 ? 4 : 2);
      b.io_write(static_cast<u16>(chips[i] + 1), 1, 1);
    }
    const u32 mask = ~((1u << irq) | (irq >= 8 ? 4u : 0u));
    b.io_write(0x21, 1, mask & 0xFF);
    b.io_write(0xA1, 1, mask >> 8 & 0xFF);
  }

  GuestRam ram_{u64{4} << 20};
  TraceLog trace_;
  Fd in_, typing_, screen_, out_;
};

TEST_F(BoardTest, RequestsToStop) {
  auto b = board(config());
  EXPECT_FALSE(b->stop_requested());
  b->io_write(0x501, 1, 0x10);
  b->io_write(0xCF9, 1, 6);  // too late: the first request counts
  EXPECT_EQ(b->stop().cause, StopCause::debug_exit);
  EXPECT_EQ(b->stop().value, 0x21u);

  for (const auto& [port, value] : {std::pair<u16, u32>{0x64, 0xFE}, {0xCF9, 6}, {0x92, 3}}) {
    b->power_on();
    EXPECT_FALSE(b->stop_requested());
    b->io_write(port, 1, value);
    EXPECT_EQ(b->stop().cause, StopCause::reset) << port;
  }
  b->power_on();
  b->io_write(Board::acpi_pm + 4, 2, 0x3400);  // SLP_EN, SLP_TYP 5
  EXPECT_EQ(b->stop().cause, StopCause::power_off);
}

TEST_F(BoardTest, DoublewordAtCf8IsNoReset) {
  auto b = board(config());
  b->io_write(0xCF8, 4, 0x80000600);
  EXPECT_FALSE(b->stop_requested());
  EXPECT_EQ(b->io_read(0xCF8, 4), 0xFFFFFFFFu);
}

TEST_F(BoardTest, NothingReadsAsOnesAndIsCounted) {
  auto b = board(config());
  EXPECT_EQ(b->io_read(0x300, 1), 0xFFu);
  EXPECT_EQ(b->mmio_read(PhysAddr{0xFEE00000}, 4), 0xFFFFFFFFu);
  b->io_write(0x300, 1, 1);
  EXPECT_EQ(b->unknown_ports().reads.at(0x300), 1u);
  EXPECT_EQ(b->unknown_ports().writes.at(0x300), 1u);
  EXPECT_EQ(b->unknown_memory().reads.at(0xFEE00000), 1u);
  b->io_write(0x80, 1, 0x5A);
  EXPECT_EQ(b->io_read(0x80, 1), 0x5Au);
}

TEST_F(BoardTest, DebugExitMayNotHideADevice) {
  BoardConfig c = config();
  c.debug_exit = 0x3F6;  // its last two ports are COM1's
  EXPECT_THROW(board(c), UserError);
}

TEST_F(BoardTest, TimerInterruptEndsTheWait) {
  auto b = board(config());
  unmask(*b, 0);
  b->io_write(0x43, 1, 0x30);  // counter 0, mode 0: one interrupt after 1000 ticks of 838 ns
  b->io_write(0x40, 1, 1000 & 0xFF);
  b->io_write(0x40, 1, 1000 >> 8);
  const Nanoseconds deadline = b->next_deadline().value();
  for (int i = 0; i < 1000 && !b->interrupt_requested(); ++i) b->wait_for_event();
  ASSERT_TRUE(b->interrupt_requested());
  EXPECT_GE(monotonic_now(), deadline);
  EXPECT_EQ(b->acknowledge_interrupt(), 0x20);
}

TEST_F(BoardTest, TypingEndsTheWaitAndNothingIsLost) {
  auto b = board(config());
  unmask(*b, 4);
  b->io_write(0x3FC, 1, 0x08);  // OUT2 lets the interrupt through
  b->io_write(0x3F9, 1, 0x01);  // received data
  std::string data;
  for (int i = 0; i < 1000; ++i) data += static_cast<char>(i % 251);
  ASSERT_EQ(::write(typing_.get(), data.data(), data.size()), 1000);
  std::string got;
  while (got.size() < data.size()) {
    b->wait_for_event();
    ASSERT_TRUE(b->interrupt_requested());
    EXPECT_EQ(b->acknowledge_interrupt(), 0x24);
    while ((b->io_read(0x3FD, 1) & 1) != 0) got += static_cast<char>(b->io_read(0x3F8, 1));
    b->io_write(0x20, 1, 0x20);
  }
  EXPECT_EQ(got, data);
}

TEST_F(BoardTest, SerialAndDebugOutputReachTheHost) {
  auto b = board(config());
  b->io_write(0x3F8, 1, 'a');
  b->io_write(0xE9, 1, 'b');
  EXPECT_TRUE(b->drain_console(0));
  char text[8]{};
  EXPECT_EQ(::read(screen_.get(), text, sizeof text), 2);
  EXPECT_STREQ(text, "ab");
}

TEST_F(BoardTest, TimeoutEndsTheWait) {
  BoardConfig c = config();
  c.timeout = 1'000'000;
  auto b = board(c);
  while (!b->stop_requested()) b->wait_for_event();
  EXPECT_EQ(b->stop().cause, StopCause::timeout);
}

TEST_F(BoardTest, SignalEndsTheWait) {
  auto b = board(config());
  ASSERT_EQ(::kill(::getpid(), SIGTERM), 0);  // blocked: nobody dies of it
  while (!b->stop_requested()) b->wait_for_event();
  EXPECT_EQ(b->stop().cause, StopCause::signal);
  EXPECT_EQ(b->stop().value, static_cast<u32>(SIGTERM));
}

TEST_F(BoardTest, CoprocessorErrorIsIrq13UntilPortF0) {
  auto b = board(config());
  unmask(*b, 13);
  b->set_ferr(true);
  ASSERT_TRUE(b->interrupt_requested());
  EXPECT_EQ(b->acknowledge_interrupt(), 0x2D);
  b->io_write(0xF0, 1, 0);
  b->io_write(0xA0, 1, 0x20);
  b->io_write(0x20, 1, 0x20);
  EXPECT_FALSE(b->interrupt_requested());
  b->set_ferr(false);
  b->set_ferr(true);
  EXPECT_TRUE(b->interrupt_requested());
}

}  // namespace
}  // namespace ring3
