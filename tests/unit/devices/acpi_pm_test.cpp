// Expected values: ACPI specification 6.4, chapter 4.8.
#include "devices/acpi_pm.h"

#include "fakes.h"

#include <gtest/gtest.h>

namespace ring3 {
namespace {

constexpr u32 status = 0, enable = 2, control = 4, timer = 8;

class AcpiTest : public ::testing::Test {
 protected:
  test::FakeClock clock;
  test::Wire sci;
  unsigned power_offs = 0;

  AcpiPm make(unsigned bits, bool enabled = false) {
    AcpiPm::Config config;
    config.timer_bits = bits;
    config.starts_enabled = enabled;
    return AcpiPm{clock, config, sci.line(), [this] { ++power_offs; }};
  }
};

TEST_F(AcpiTest, TimerCountsAt3579545Hz) {
  AcpiPm pm = make(32);
  EXPECT_EQ(pm.read(timer, 4), 0u);
  clock.time = 1'000'000'000;
  EXPECT_EQ(pm.read(timer, 4), 3579545u);
  clock.time = u64{1200} * 1'000'000'000;  // past 2^32 ticks
  EXPECT_EQ(pm.read(timer, 4), static_cast<u32>(u64{3579545} * 1200));
  EXPECT_EQ(pm.read(timer + 1, 2), static_cast<u32>(u64{3579545} * 1200) >> 8 & 0xFFFF);
}

TEST_F(AcpiTest, A24BitTimerReadsZeroAbove) {
  AcpiPm pm = make(24);
  clock.time = u64{5} * 1'000'000'000;
  EXPECT_EQ(pm.read(timer, 4), (3579545u * 5) & 0xFFFFFF);
}

TEST_F(AcpiTest, TimerStatusAndSci) {
  AcpiPm pm = make(24, true);
  EXPECT_FALSE(pm.next_deadline().has_value());
  pm.write(enable, 2, 1);
  const Nanoseconds half = AcpiPm::rate.time_of(1u << 23);
  ASSERT_EQ(pm.next_deadline(), half);
  clock.time = half - 1;
  pm.run(clock.time);
  EXPECT_FALSE(sci.level);
  clock.time = half;
  pm.run(clock.time);
  EXPECT_TRUE(sci.level);
  EXPECT_EQ(pm.read(status, 2), 1u);
  pm.write(status, 2, 0);  // clearing takes a 1
  EXPECT_TRUE(sci.level);
  pm.write(status, 2, 1);
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(pm.next_deadline(), AcpiPm::rate.time_of(2u << 23));
}

TEST_F(AcpiTest, NoSciUnlessEnabled) {
  AcpiPm pm = make(24);
  pm.write(enable, 2, 1);
  clock.time = u64{3} * 1'000'000'000;
  pm.run(clock.time);
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(pm.read(status, 2), 1u);
  test::out(pm.smi_ports(), 0, 0xF1);
  EXPECT_TRUE(sci.level);
  EXPECT_EQ(pm.read(control, 2) & 1, 1u);
  test::out(pm.smi_ports(), 0, 0xF0);
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(pm.read(control, 2) & 1, 0u);
}

TEST_F(AcpiTest, PowerOff) {
  AcpiPm pm = make(32, true);
  pm.write(control, 2, 5u << 10);
  EXPECT_EQ(power_offs, 0u);
  pm.write(control, 2, 1u << 10 | 1u << 13);  // S1 is not offered
  EXPECT_EQ(power_offs, 0u);
  pm.write(control, 2, 5u << 10 | 1u << 13);
  EXPECT_EQ(power_offs, 1u);
  EXPECT_EQ(pm.read(control, 2), 5u << 10 | 1u);  // SLP_EN reads 0, SCI_EN is kept
  pm.write(control + 1, 1, (5u << 10 | 1u << 13) >> 8);
  EXPECT_EQ(power_offs, 2u);
}

TEST_F(AcpiTest, EnableKeepsDefinedBitsOnly) {
  AcpiPm pm = make(32);
  pm.write(enable, 2, 0xFFFF);
  EXPECT_EQ(pm.read(enable, 2), 0x0721u);
}

}  // namespace
}  // namespace ring3
