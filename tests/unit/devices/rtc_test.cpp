// Expected values: Motorola MC146818AS data sheet; dates by the calendar.
#include "devices/rtc.h"

#include "devices/civil_time.h"
#include "fakes.h"

#include <gtest/gtest.h>

namespace ring3 {
namespace {

using test::in;
using test::out;

constexpr Nanoseconds second = 1'000'000'000;
constexpr i64 leap_day_evening = 1709251199;  // 2024-02-29 23:59:59 UTC, a Thursday

class RtcTest : public ::testing::Test {
 protected:
  test::FakeClock clock;
  test::Wire irq8;
  Rtc rtc{clock, irq8.line(), leap_day_evening* static_cast<i64>(second) + 250'000'000, u64{256} << 20};

  u8 get(u8 index) {
    out(rtc, 0, index);
    return in(rtc, 1);
  }
  void set(u8 index, u8 value) {
    out(rtc, 0, index);
    out(rtc, 1, value);
  }
  void advance(Nanoseconds by) {
    clock.time += by;
    rtc.run(clock.time);
  }
  std::vector<u8> date() { return {get(0x32), get(9), get(8), get(7), get(6), get(4), get(2), get(0)}; }
  using Bytes = std::vector<u8>;
};

TEST(CivilTime, KnownDays) {
  EXPECT_EQ(days_from_civil({1970, 1, 1}), 0);
  EXPECT_EQ(days_from_civil({2000, 3, 1}), 11017);
  EXPECT_EQ(days_from_civil({2024, 2, 29}), 19782);
  EXPECT_EQ(weekday_from_days(19782), 5u);
  for (i64 day = -1000; day < 100000; day += 13) {
    const CivilDate date = civil_from_days(day);
    ASSERT_EQ(days_from_civil(date), day);
  }
}

TEST_F(RtcTest, ShowsUtcInBcd) { EXPECT_EQ(date(), (Bytes{0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x59})); }

TEST_F(RtcTest, RollsOver) {
  advance(750'000'000 - 1);
  EXPECT_EQ(get(0), 0x59);
  advance(1);
  EXPECT_EQ(date(), (Bytes{0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00}));
  advance(86400 * 366 * second);
  EXPECT_EQ(date(), (Bytes{0x20, 0x25, 0x03, 0x02, 0x01, 0x00, 0x00, 0x00}));
}

TEST_F(RtcTest, DataModes) {
  set(0x0B, 0x06);  // binary, 24 h
  EXPECT_EQ(date(), (Bytes{20, 24, 2, 29, 5, 23, 59, 59}));
  set(0x0B, 0x04);  // binary, 12 h
  EXPECT_EQ(get(4), 0x80 | 11);
  set(0x0B, 0x00);  // BCD, 12 h
  EXPECT_EQ(get(4), 0x80 | 0x11);
  advance(second);
  EXPECT_EQ(get(4), 0x12);  // 12 AM
  advance(12 * 3600 * second);
  EXPECT_EQ(get(4), 0x92);  // 12 PM
}

TEST_F(RtcTest, SetProtocol) {
  set(0x0B, 0x82);
  set(0x32, 0x19);
  set(9, 0x99);
  set(8, 0x12);
  set(7, 0x31);
  set(6, 0x06);
  set(4, 0x23);
  set(2, 0x59);
  set(0, 0x58);
  advance(10 * second);  // nothing moves
  EXPECT_EQ(get(0), 0x58);
  set(0x0B, 0x02);
  advance(2 * second);
  EXPECT_EQ(date(), (Bytes{0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00}));
}

TEST_F(RtcTest, DividerReleaseGivesHalfASecond) {
  set(0x0A, 0x70);
  advance(10 * second);
  EXPECT_EQ(get(0), 0x59);
  set(0x0A, 0x26);
  advance(second / 2 - 1);
  EXPECT_EQ(get(0), 0x59);
  advance(1);
  EXPECT_EQ(get(0), 0x00);
}

TEST_F(RtcTest, UpdateInProgress) {
  EXPECT_EQ(get(0x0A), 0x26);
  advance(750'000'000 - 2'228'001);
  EXPECT_EQ(get(0x0A), 0x26);
  advance(1);
  EXPECT_EQ(get(0x0A), 0xA6);
  set(0x0B, 0x82);
  EXPECT_EQ(get(0x0A), 0x26);  // SET aborts the update
  set(0x0B, 0x02);
  advance(2'228'000);
  EXPECT_EQ(get(0x0A), 0x26);
}

TEST_F(RtcTest, UpdateEndedInterrupt) {
  set(1, 0x30);  // else the alarm bytes, all zero, match the midnight to come
  get(0x0C);
  EXPECT_FALSE(rtc.next_deadline().has_value());
  set(0x0B, 0x12);
  ASSERT_EQ(rtc.next_deadline(), 750'000'000u);
  advance(750'000'000);
  EXPECT_TRUE(irq8.level);
  EXPECT_FALSE(rtc.next_deadline().has_value());
  EXPECT_EQ(get(0x0C), 0xD0);  // the periodic flag runs whether enabled or not
  EXPECT_FALSE(irq8.level);
  EXPECT_EQ(get(0x0C), 0x00);
  EXPECT_EQ(rtc.next_deadline(), 1'750'000'000u);
  set(0x0B, 0x92);
  EXPECT_EQ(get(0x0B), 0x82);  // SET clears UIE
}

TEST_F(RtcTest, PeriodicInterrupt) {
  get(0x0C);
  set(0x0A, 0x26);  // 1024 Hz
  set(0x0B, 0x42);
  for (unsigned i = 1; i <= 50; ++i) {
    const auto deadline = rtc.next_deadline();
    ASSERT_EQ(deadline, Nanoseconds{(u64{i} * second + 1023) / 1024});
    clock.time = *deadline;
    rtc.run(clock.time);
    EXPECT_EQ(irq8.rises, i);
    EXPECT_EQ(get(0x0C), 0xC0);
  }
  advance(10 * second);  // a long pause: one interrupt
  EXPECT_EQ(irq8.rises, 51u);
}

TEST_F(RtcTest, PeriodicRates) {
  // Data sheet, table 5: 122.070 us for 3 up to 500 ms for 15; 3.90625 and 7.8125 ms for 1 and 2.
  set(0x0B, 0x42);
  for (u8 select = 1; select < 16; ++select) {
    clock.time = (clock.time / second + 1) * second;
    set(0x0A, static_cast<u8>(0x20 | select));
    get(0x0C);
    const u64 hz = select == 1 ? 256 : select == 2 ? 128 : 65536u >> select;
    EXPECT_EQ(rtc.next_deadline(), clock.time + (second + hz - 1) / hz) << unsigned{select};
  }
  set(0x0A, 0x20);
  EXPECT_FALSE(rtc.next_deadline().has_value());
}

TEST_F(RtcTest, Alarm) {
  set(1, 0x10);
  set(3, 0x00);
  set(5, 0x00);
  get(0x0C);
  set(0x0B, 0x22);
  while (clock.time < 750'000'000 + 10 * second) {
    EXPECT_FALSE(irq8.level);
    ASSERT_TRUE(rtc.next_deadline().has_value());
    clock.time = *rtc.next_deadline();
    rtc.run(clock.time);
  }
  EXPECT_TRUE(irq8.level);
  EXPECT_EQ(get(0), 0x10);
  EXPECT_EQ(get(0x0C) & 0xA0, 0xA0);
  set(1, 0xC0);  // every second
  advance(second);
  EXPECT_TRUE(irq8.level);
}

TEST_F(RtcTest, AlarmInsideALongPauseIsNotMissed) {
  set(1, 0x30);
  set(3, 0x02);
  set(5, 0x01);
  get(0x0C);
  set(0x0B, 0x22);
  advance(5 * 3600 * second);
  EXPECT_TRUE(irq8.level);
}

TEST_F(RtcTest, MemorySizes) {
  EXPECT_EQ(get(0x15) | get(0x16) << 8, 640);
  EXPECT_EQ(get(0x17) | get(0x18) << 8, 0xFFFF);  // 255 MiB is more than fits
  EXPECT_EQ(get(0x30) | get(0x31) << 8, 0xFFFF);
  EXPECT_EQ(get(0x34) | get(0x35) << 8, 240 * 16);  // 64 KiB units above 16 MiB
  Rtc small{clock, {}, 0, u64{8} << 20};
  const auto byte = [&small](u8 index) {
    out(small, 0, index);
    return in(small, 1);
  };
  EXPECT_EQ(byte(0x30) | byte(0x31) << 8, 7 * 1024);
  EXPECT_EQ(byte(0x34) | byte(0x35) << 8, 0);
  u32 sum = 0;
  for (u8 i = 0x10; i <= 0x2D; ++i) sum += byte(i);
  EXPECT_EQ(u32{byte(0x2E)} << 8 | byte(0x2F), sum);
}

TEST_F(RtcTest, NmiMaskAndPlainBytes) {
  EXPECT_FALSE(rtc.nmi_masked());
  set(0x8F, 0x0A);
  EXPECT_TRUE(rtc.nmi_masked());
  EXPECT_EQ(rtc.shutdown_status(), 0x0A);
  EXPECT_EQ(get(0x0F), 0x0A);
  EXPECT_FALSE(rtc.nmi_masked());
  set(0x0D, 0x00);
  EXPECT_EQ(get(0x0D), 0x80);  // read-only: the battery is good
}

TEST_F(RtcTest, NonsenseDatesAreBroughtIntoRange) {
  for (u8 index = 0; index < 10; ++index) set(index, 0xFF);
  set(0x32, 0xFF);
  advance(second);
  EXPECT_LE(get(8), 0x12);
  EXPECT_LE(get(7), 0x31);
  EXPECT_LE(get(0), 0x59);
}

}  // namespace
}  // namespace ring3
