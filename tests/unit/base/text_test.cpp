// Sizes, durations and file errors as users meet them.
#include "base/duration.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/size.h"

#include <gtest/gtest.h>

namespace ring3 {
namespace {

TEST(Size, UnitsArePowersOf1024) {
  EXPECT_EQ(parse_size("4096", "--x"), 4096u);
  EXPECT_EQ(parse_size("640K", "--x"), 655360u);
  EXPECT_EQ(parse_size("256M", "--x"), 268435456u);
  EXPECT_EQ(parse_size("256MiB", "--x"), 268435456u);
  EXPECT_EQ(parse_size("3g", "--x"), 3221225472u);
  EXPECT_EQ(parse_size("18446744073709551615", "--x"), 18446744073709551615u);
}

TEST(Size, RefusesWhatIsNoSize) {
  for (const char* text : {"", "M", "-1", "+1", " 1", "1 M", "1.5M", "1T", "1MM", "0x10", "18446744073709551616", "17179869184G", "1MB "})
    EXPECT_THROW(static_cast<void>(parse_size(text, "--x")), UserError) << text;
}

TEST(Size, FormatsExactlyOrWithOneDecimal) {
  EXPECT_EQ(format_size(0), "0 bytes");
  EXPECT_EQ(format_size(1023), "1023 bytes");
  EXPECT_EQ(format_size(1024), "1 KiB");
  EXPECT_EQ(format_size(1536), "1.5 KiB");
  EXPECT_EQ(format_size(u64{3} << 30), "3 GiB");
  EXPECT_EQ(format_size(u64{256} << 20), "256 MiB");
}

TEST(Duration, Units) {
  EXPECT_EQ(parse_duration("60s", "--x"), 60'000'000'000u);
  EXPECT_EQ(parse_duration("2m", "--x"), 120'000'000'000u);
  EXPECT_EQ(parse_duration("500ms", "--x"), 500'000'000u);
  EXPECT_EQ(parse_duration("1h", "--x"), 3'600'000'000'000u);
  EXPECT_EQ(parse_duration("1.5", "--x"), 1'500'000'000u);
}

TEST(Duration, RefusesWhatIsNoDuration) {
  for (const char* text : {"", "s", "0", "0s", "-1s", "1d", "inf", "nan", "1e3s", "1001h", "1 s"})
    EXPECT_THROW(static_cast<void>(parse_duration(text, "--x")), UserError) << text;
}

TEST(File, NamesStayOnOneLine) { EXPECT_EQ(in_quotes("a\nb\x7F"), "'a?b?'"); }

TEST(File, LimitIsChecked) {
  EXPECT_THROW(static_cast<void>(read_file("/proc/self/exe", "thing", 10, "mend it")), UserError);
  EXPECT_THROW(static_cast<void>(read_file("/dev/zero", "thing", 10, "mend it")), UserError);
}

TEST(Trace, OnlyTheNamedOnesAreOn) {
  const TraceLog log("io,irq", "/dev/null");
  EXPECT_TRUE(log.on(Trace::io));
  EXPECT_TRUE(log.on(Trace::irq));
  EXPECT_FALSE(log.on(Trace::mmio));
  EXPECT_FALSE(TraceLog().on(Trace::io));
  EXPECT_TRUE(TraceLog("all", "").on(Trace::mmio));
  EXPECT_TRUE(TraceLog("faults,blocks,exits,invalidate", "").on(Trace::invalidate));
  EXPECT_THROW(TraceLog("io,,irq", ""), UserError);
}

}  // namespace
}  // namespace ring3
