// Expected values: Intel 8259A data sheet.
#include "devices/pic.h"

#include "fakes.h"

#include <gtest/gtest.h>

namespace ring3 {
namespace {

using test::in;
using test::out;

class Pic : public ::testing::Test {
 protected:
  test::Wire intr;
  PicPair pic{intr.line()};
  IoDevice& master = pic.master_ports();
  IoDevice& slave = pic.slave_ports();

  // ICW1-ICW4 as a PC's software writes them: edge, cascade, vectors 20h and 28h, 8086 mode.
  void initialise(u8 master_icw4 = 0x01, u8 slave_icw4 = 0x01) {
    out(master, 0, 0x11);
    out(master, 1, 0x20);
    out(master, 1, 0x04);
    out(master, 1, master_icw4);
    out(slave, 0, 0x11);
    out(slave, 1, 0x28);
    out(slave, 1, 0x02);
    out(slave, 1, slave_icw4);
    EXPECT_EQ(in(master, 1), 0);  // ICW1 clears the mask
  }
  void pulse(unsigned irq) {
    pic.set_irq(irq, false);
    pic.set_irq(irq, true);
  }
  u8 master_isr() {
    out(master, 0, 0x0B);
    return in(master, 0);
  }
  u8 master_irr() {
    out(master, 0, 0x0A);
    return in(master, 0);
  }
  u8 slave_isr() {
    out(slave, 0, 0x0B);
    return in(slave, 0);
  }
};

TEST_F(Pic, EverythingIsMaskedBeforeInitialisation) {
  for (unsigned irq = 0; irq < 16; ++irq) pulse(irq);
  EXPECT_FALSE(pic.interrupt_requested());
}

TEST_F(Pic, NoRequestWhileIcwsAreMissing) {
  initialise();
  out(master, 0, 0x11);
  pulse(1);
  EXPECT_FALSE(pic.interrupt_requested());
  out(master, 1, 0x20);
  out(master, 1, 0x04);
  EXPECT_FALSE(pic.interrupt_requested());
  out(master, 1, 0x01);
  EXPECT_TRUE(pic.interrupt_requested());
}

TEST_F(Pic, SingleModeSkipsIcw3AndWithoutIc4SkipsIcw4) {
  out(master, 0, 0x12);  // single, no ICW4
  out(master, 1, 0x40);
  out(master, 1, 0x55);  // OCW1 already
  EXPECT_EQ(in(master, 1), 0x55);
}

TEST_F(Pic, FullyNested) {
  initialise();
  pulse(4);
  ASSERT_TRUE(intr.level);
  EXPECT_EQ(pic.acknowledge(), 0x24);
  EXPECT_EQ(master_isr(), 0x10);
  EXPECT_FALSE(intr.level);
  pulse(5);
  EXPECT_FALSE(intr.level);  // lower priority waits
  pulse(1);
  ASSERT_TRUE(intr.level);  // higher interrupts
  EXPECT_EQ(pic.acknowledge(), 0x21);
  EXPECT_EQ(master_isr(), 0x12);
  out(master, 0, 0x20);  // non-specific EOI ends the highest
  EXPECT_EQ(master_isr(), 0x10);
  EXPECT_FALSE(intr.level);
  out(master, 0, 0x64);  // specific EOI of 4
  EXPECT_EQ(master_isr(), 0x00);
  ASSERT_TRUE(intr.level);
  EXPECT_EQ(pic.acknowledge(), 0x25);
}

TEST_F(Pic, EdgeIsLatchedOnce) {
  initialise();
  pic.set_irq(3, true);
  EXPECT_EQ(pic.acknowledge(), 0x23);
  out(master, 0, 0x20);
  EXPECT_FALSE(intr.level);  // still high, but no new edge
  pulse(3);
  EXPECT_TRUE(intr.level);
}

TEST_F(Pic, EdgeDuringServiceIsDeliveredAfterEoi) {
  initialise();
  pulse(0);
  pic.acknowledge();
  pulse(0);
  EXPECT_FALSE(intr.level);
  EXPECT_EQ(master_irr() & 1, 1);
  out(master, 0, 0x20);
  EXPECT_TRUE(intr.level);
  EXPECT_EQ(pic.acknowledge(), 0x20);
}

TEST_F(Pic, MaskHoldsTheRequestBack) {
  initialise();
  out(master, 1, 0x10);
  pulse(4);
  EXPECT_FALSE(intr.level);
  EXPECT_EQ(master_irr(), 0x10);  // IRR is not affected by the mask
  out(master, 1, 0x00);
  EXPECT_TRUE(intr.level);
}

TEST_F(Pic, SpuriousMaster) {
  initialise();
  pic.set_irq(4, true);
  pic.set_irq(4, false);  // gone before INTA
  EXPECT_EQ(pic.acknowledge(), 0x27);
  EXPECT_EQ(master_isr(), 0);
}

// When a slave's request goes away before INTA its INT output falls, so the master has no request left either and answers with its own IR7.
TEST_F(Pic, WithdrawnSlaveRequestIsSpuriousAtTheMaster) {
  initialise();
  pic.set_irq(10, true);
  out(slave, 1, 0xFF);
  EXPECT_FALSE(intr.level);
  EXPECT_EQ(pic.acknowledge(), 0x27);
  EXPECT_EQ(master_isr(), 0);
}

TEST_F(Pic, Cascade) {
  initialise();
  pulse(12);
  ASSERT_TRUE(intr.level);
  EXPECT_EQ(pic.acknowledge(), 0x2C);
  EXPECT_EQ(master_isr(), 0x04);
  EXPECT_EQ(slave_isr(), 0x10);
  // A higher slave request waits for the master in normal nesting...
  pulse(8);
  EXPECT_FALSE(intr.level);
  out(slave, 0, 0x20);
  out(master, 0, 0x20);
  ASSERT_TRUE(intr.level);
  EXPECT_EQ(pic.acknowledge(), 0x28);
}

TEST_F(Pic, SpecialFullyNestedLetsAHigherSlaveRequestThrough) {
  initialise(0x11);
  pulse(12);
  EXPECT_EQ(pic.acknowledge(), 0x2C);
  pulse(3);
  EXPECT_FALSE(intr.level);  // lower than the cascade in service
  pulse(8);
  ASSERT_TRUE(intr.level);
  EXPECT_EQ(pic.acknowledge(), 0x28);
  EXPECT_EQ(slave_isr(), 0x11);
}

TEST_F(Pic, TwoSlaveRequestsAfterOneAnother) {
  initialise(0x03, 0x03);  // automatic EOI in both: nothing else separates the two
  pulse(9);
  pulse(14);
  EXPECT_EQ(pic.acknowledge(), 0x29);
  ASSERT_TRUE(intr.level);
  EXPECT_EQ(pic.acknowledge(), 0x2E);
  EXPECT_FALSE(intr.level);
}

TEST_F(Pic, CascadePriorityIsBetweenIrq1AndIrq3) {
  initialise();
  pulse(3);
  pulse(15);
  pulse(1);
  EXPECT_EQ(pic.acknowledge(), 0x21);
  out(master, 0, 0x20);
  EXPECT_EQ(pic.acknowledge(), 0x2F);
  out(slave, 0, 0x20);
  out(master, 0, 0x20);
  EXPECT_EQ(pic.acknowledge(), 0x23);
}

TEST_F(Pic, AutomaticEoi) {
  initialise(0x03);
  pulse(6);
  EXPECT_EQ(pic.acknowledge(), 0x26);
  EXPECT_EQ(master_isr(), 0);
  pulse(7);
  EXPECT_TRUE(intr.level);
}

TEST_F(Pic, RotateOnAutomaticEoi) {
  initialise(0x03);
  out(master, 0, 0x80);  // rotate in automatic EOI mode (set)
  pulse(1);
  pulse(3);
  EXPECT_EQ(pic.acknowledge(), 0x21);  // now 1 is lowest
  pulse(1);
  EXPECT_EQ(pic.acknowledge(), 0x23);
  out(master, 0, 0x00);  // clear
  EXPECT_EQ(pic.acknowledge(), 0x21);
  pulse(4);  // 3 stays lowest: 4 is highest
  pulse(3);
  EXPECT_EQ(pic.acknowledge(), 0x24);
}

// Data sheet, "Automatic rotation": with IS4 the highest in service, a rotate makes 4 the lowest and 5 the highest.
TEST_F(Pic, RotateOnNonSpecificEoi) {
  initialise();
  pulse(4);
  pic.acknowledge();
  out(master, 0, 0xA0);
  EXPECT_EQ(master_isr(), 0);
  pulse(4);
  pulse(0);
  pulse(5);
  EXPECT_EQ(pic.acknowledge(), 0x25);
  out(master, 0, 0x20);
  EXPECT_EQ(pic.acknowledge(), 0x20);
  out(master, 0, 0x20);
  EXPECT_EQ(pic.acknowledge(), 0x24);
}

TEST_F(Pic, RotateOnSpecificEoiAndSetPriority) {
  initialise();
  out(master, 0, 0xC0 | 5);  // set priority: 5 lowest, 6 highest
  pulse(0);
  pulse(6);
  EXPECT_EQ(pic.acknowledge(), 0x26);
  out(master, 0, 0xE0 | 6);  // ends 6 and makes it lowest: 7, 0, 1...
  EXPECT_EQ(master_isr(), 0);
  pulse(6);
  EXPECT_EQ(pic.acknowledge(), 0x20);
  out(master, 0, 0x40);  // no operation
  EXPECT_EQ(master_isr(), 1);
}

TEST_F(Pic, SpecialMaskMode) {
  initialise();
  pulse(2 + 1);
  EXPECT_EQ(pic.acknowledge(), 0x23);
  pulse(5);
  EXPECT_FALSE(intr.level);
  out(master, 1, 0x08);  // mask the level in service
  EXPECT_FALSE(intr.level);
  out(master, 0, 0x68);  // ESMM, SMM
  ASSERT_TRUE(intr.level);
  EXPECT_EQ(pic.acknowledge(), 0x25);
  out(master, 0, 0x20);  // non-specific EOI leaves the masked level alone
  EXPECT_EQ(master_isr(), 0x08);
  out(master, 0, 0x20);
  EXPECT_EQ(master_isr(), 0x08);
  out(master, 0, 0x48);  // leave special mask mode
  out(master, 0, 0x20);
  EXPECT_EQ(master_isr(), 0);
}

TEST_F(Pic, Poll) {
  initialise();
  out(master, 0, 0x0C);
  EXPECT_EQ(in(master, 0), 0x00);
  pulse(5);
  out(master, 0, 0x0C);
  EXPECT_EQ(in(master, 0), 0x85);
  EXPECT_FALSE(intr.level);
  EXPECT_EQ(master_isr(), 0x20);
}

TEST_F(Pic, LevelTriggeredByElcr) {
  initialise();
  out(pic.elcr_ports(), 0, 0xFF);
  out(pic.elcr_ports(), 1, 0xFF);
  EXPECT_EQ(in(pic.elcr_ports(), 0), 0xF8);  // 0, 1 and 2 are always edge
  EXPECT_EQ(in(pic.elcr_ports(), 1), 0xDE);  // 8 and 13 too
  pic.set_irq(11, true);
  EXPECT_EQ(pic.acknowledge(), 0x2B);
  out(slave, 0, 0x20);
  out(master, 0, 0x20);
  ASSERT_TRUE(intr.level);  // still asserted
  EXPECT_EQ(pic.acknowledge(), 0x2B);
  pic.set_irq(11, false);
  out(slave, 0, 0x20);
  out(master, 0, 0x20);
  EXPECT_FALSE(intr.level);
}

TEST_F(Pic, LevelTriggeredByIcw1) {
  out(master, 0, 0x1B);  // LTIM, single
  out(master, 1, 0x20);
  out(master, 1, 0x01);
  pic.set_irq(0, true);
  EXPECT_EQ(pic.acknowledge(), 0x20);
  out(master, 0, 0x20);
  EXPECT_TRUE(intr.level);
}

TEST_F(Pic, Icw1ForgetsEdges) {
  initialise();
  pic.set_irq(4, true);
  initialise();
  EXPECT_EQ(master_irr(), 0);
  EXPECT_FALSE(intr.level);
  pulse(4);
  EXPECT_TRUE(intr.level);
}

TEST_F(Pic, StateRoundTrip) {
  initialise();
  pulse(4);
  pic.acknowledge();
  pulse(14);
  const PicPair::State saved = pic.state();
  test::Wire other_intr;
  PicPair other{other_intr.line()};
  other.restore(saved);
  EXPECT_TRUE(other_intr.level);
  EXPECT_EQ(other.acknowledge(), 0x2E);
}

}  // namespace
}  // namespace ring3
