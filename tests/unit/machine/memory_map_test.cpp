#include "machine/memory_map.h"

#include "base/error.h"

#include <gtest/gtest.h>
#include <string_view>

namespace ring3 {
namespace {

constexpr u64 MiB = u64{1} << 20;

TEST(MemoryMap, IsAscendingAndLeavesTheVideoHoleOut) {
  const std::vector<MemoryRange> map = memory_map(64 * MiB);
  u64 at = 0;
  for (const MemoryRange& range : map) {
    EXPECT_GE(range.base, at);
    at = range.end();
    // The video memory window of the PC is never reported as memory of any kind.
    EXPECT_TRUE(range.end() <= 0xA0000 || range.base >= 0xC0000);
  }
  EXPECT_EQ(at, 64 * MiB);
  EXPECT_EQ(map.front().type, RangeType::usable);
  EXPECT_EQ(map.back().base, MiB);
}

TEST(Placement, RefusesOverlapsAndWhatIsNoMemory) {
  Placement p(16 * MiB);
  p.claim(MiB, 4096, "first");
  p.claim(MiB + 4096, 4096, "behind it");
  EXPECT_THROW(p.claim(MiB + 4095, 1, "inside"), UserError);
  EXPECT_THROW(p.claim(MiB - 1, 2, "over its start"), UserError);
  EXPECT_THROW(p.claim(MiB + 8191, 2, "over its end"), UserError);
  EXPECT_THROW(p.claim(0, 1, "vectors"), UserError);
  EXPECT_THROW(p.claim(0x9F000, 0x1000, "EBDA"), UserError);
  EXPECT_THROW(p.claim(16 * MiB - 1, 2, "past the end"), UserError);
  EXPECT_THROW(p.claim(~u64{0}, 2, "wraps"), UserError);
  EXPECT_THROW(p.claim(2 * MiB, ~u64{0}, "wraps"), UserError);
  EXPECT_NO_THROW(p.claim(16 * MiB - 1, 1, "the last byte"));
  EXPECT_NO_THROW(p.claim(~u64{0}, 0, "nothing"));
}

TEST(Placement, TakesTheLowestAndTheHighestPlace) {
  Placement p(16 * MiB);
  p.claim(MiB, MiB, "kernel");
  EXPECT_EQ(p.take_low(4096, MiB, 16 * MiB, 4096, "module"), 2 * MiB);
  EXPECT_EQ(p.take_low(1, MiB, 16 * MiB, 4096, "module"), 2 * MiB + 4096);
  EXPECT_EQ(p.take_high(4097, MiB, 16 * MiB, 4096, "initrd"), 16 * MiB - 8192);
  EXPECT_EQ(p.take_high(1, MiB, 8 * MiB, 4096, "initrd"), 8 * MiB - 4096);
  EXPECT_EQ(p.take_low(16, 0, 0x9FC00, 16, "low"), 0x1000u);
}

TEST(Placement, SaysWhenThereIsNoPlace) {
  Placement p(4 * MiB);
  p.claim(2 * MiB, 4096, "in the middle");
  EXPECT_THROW(static_cast<void>(p.take_low(2 * MiB, MiB, 4 * MiB, 4096, "big")), UserError);
  EXPECT_THROW(static_cast<void>(p.take_high(2 * MiB, MiB, 4 * MiB, 4096, "big")), UserError);
  EXPECT_THROW(static_cast<void>(p.take_high(1, MiB, MiB, 4096, "empty range")), UserError);
  EXPECT_THROW(static_cast<void>(p.take_high(1, 3 * MiB, MiB, 4096, "reversed range")), UserError);
  // The last gap is large enough only before alignment.
  EXPECT_THROW(static_cast<void>(p.take_low(MiB, 2 * MiB + 4096, 3 * MiB + 4096, MiB * 2, "aligned")), UserError);
}

// The advice must help: more memory lies above all that there is.
TEST(Placement, AdvisesMoreMemoryOnlyWhereItHelps) {
  const auto advises_more = [](auto&& action) {
    try {
      action();
    } catch (const UserError& error) {
      return std::string_view(error.what()).find("raise --memory") != std::string_view::npos;
    }
    ADD_FAILURE() << "nothing is wrong";
    return false;
  };
  Placement p(16 * MiB);
  p.claim(0x1000, 0x9FC00 - 0x1000, "a kernel in low memory");
  EXPECT_FALSE(advises_more([&] { static_cast<void>(p.take_low(1, 0, 0x9FC00, 1, "x")); }));
  EXPECT_FALSE(advises_more([&] { static_cast<void>(p.take_high(15 * MiB, MiB, 15 * MiB, 1, "x")); }));
  EXPECT_TRUE(advises_more([&] { static_cast<void>(p.take_low(16 * MiB, 0, 16 * MiB, 1, "x")); }));
  EXPECT_TRUE(advises_more([&] { static_cast<void>(p.take_high(16 * MiB, 0, 16 * MiB, 1, "x")); }));
  EXPECT_TRUE(advises_more([&] { p.claim(15 * MiB, 2 * MiB, "x"); }));
  EXPECT_TRUE(advises_more([&] { p.claim(maximum_ram - MiB, MiB, "x"); }));
  EXPECT_FALSE(advises_more([&] { p.claim(maximum_ram - MiB, MiB + 1, "x"); }));
  EXPECT_FALSE(advises_more([&] { p.claim(0xFFFF'F000, 0x2000, "x"); }));
}

}  // namespace
}  // namespace ring3
