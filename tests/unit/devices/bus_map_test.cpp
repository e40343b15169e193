#include "devices/bus_map.h"

#include "base/error.h"
#include "fakes.h"

#include <gtest/gtest.h>

#include <vector>

namespace ring3 {
namespace {

class Recorder : public IoDevice {
 public:
  struct Access {
    bool write;
    u32 offset;
    unsigned size;
    u32 value;
    bool operator==(const Access&) const = default;
  };
  std::vector<Access> log;
  u32 answer = 0;
  u32 read(u32 offset, unsigned size) override {
    log.push_back({false, offset, size, 0});
    return answer;
  }
  void write(u32 offset, unsigned size, u32 value) override { log.push_back({true, offset, size, value}); }
};

TEST(BusMap, UnknownPortsReadAsOnesAndAreCounted) {
  BusMap map;
  EXPECT_EQ(map.io_read(0x1234, 1), 0xFFu);
  EXPECT_EQ(map.io_read(0x1234, 2), 0xFFFFu);
  EXPECT_EQ(map.io_read(0xFFFF, 4), 0xFFFFFFFFu);
  map.io_write(0x80, 1, 5);
  EXPECT_EQ(map.unknown_ports().reads.at(0x1234), 2u);
  EXPECT_EQ(map.unknown_ports().writes.at(0x80), 1u);
}

TEST(BusMap, UnknownListIsBounded) {
  BusMap map;
  for (u32 port = 0; port < 0x10000; ++port) map.io_read(static_cast<u16>(port), 1);
  EXPECT_EQ(map.unknown_ports().reads.size(), BusMap::Unknown::listed_max);
  EXPECT_EQ(map.unknown_ports().unlisted, 0x10000u - BusMap::Unknown::listed_max);
}

TEST(BusMap, OffsetsAndWidthReachTheDevice) {
  BusMap map;
  Recorder device;
  map.add_ports(0x3F8, 8, device);
  map.add_ports(0x64, 1, device, 1);
  device.answer = 0xABCD;
  EXPECT_EQ(map.io_read(0x3FA, 2), 0xABCDu);
  map.io_write(0x64, 1, 0x1FE);
  EXPECT_EQ(device.log, (std::vector<Recorder::Access>{{false, 2, 2, 0}, {true, 1, 1, 0xFE}}));
}

TEST(BusMap, AccessPastTheEndIsSplitIntoBytes) {
  BusMap map;
  Recorder a, b;
  map.add_ports(0x60, 1, a);
  map.add_ports(0x61, 1, b);
  a.answer = 0x11;
  b.answer = 0x22;
  EXPECT_EQ(map.io_read(0x60, 4), 0xFFFF2211u);
  map.io_write(0x60, 2, 0x4433);
  EXPECT_EQ(a.log.back(), (Recorder::Access{true, 0, 1, 0x33}));
  EXPECT_EQ(b.log.back(), (Recorder::Access{true, 0, 1, 0x44}));
}

TEST(BusMap, SplitAtTheLastPortDoesNotWrap) {
  BusMap map;
  Recorder first, last;
  map.add_ports(0xFFFF, 1, last);
  map.add_ports(0, 1, first);
  last.answer = 0x55;
  EXPECT_EQ(map.io_read(0xFFFF, 4), 0xFFFFFF55u);
  EXPECT_TRUE(first.log.empty());
}

// A configuration address written to CF8h as a doubleword must not reach the reset register at CF9h.
TEST(BusMap, WideAccessThatBeginsNowhereReachesNobody) {
  BusMap map;
  Recorder device;
  map.add_ports(0xCF9, 1, device);
  map.io_write(0xCF8, 4, 0x80000600);
  EXPECT_EQ(map.io_read(0xCF8, 4), 0xFFFFFFFFu);
  EXPECT_TRUE(device.log.empty());
}

TEST(BusMap, OverlapsAreRefused) {
  BusMap map;
  Recorder device;
  map.add_ports(0x20, 2, device);
  EXPECT_THROW(map.add_ports(0x21, 1, device), InternalError);
  EXPECT_THROW(map.add_ports(0xFFFF, 2, device), InternalError);
  EXPECT_THROW(map.add_ports(0x30, 0, device), InternalError);
  map.add_memory(PhysAddr{0x1000}, 0x1000, device);
  EXPECT_THROW(map.add_memory(PhysAddr{0x1FFF}, 1, device), InternalError);
}

TEST(BusMap, Memory) {
  BusMap map;
  Recorder device;
  device.answer = 0x89ABCDEF;
  map.add_memory(PhysAddr{0xFED00000}, 0x400, device);
  EXPECT_EQ(map.mmio_read(PhysAddr{0xFED00008}, 8), 0x89ABCDEF89ABCDEFu);
  map.mmio_write(PhysAddr{0xFED00010}, 8, 0x1122334455667788);
  EXPECT_EQ(device.log[0], (Recorder::Access{false, 8, 4, 0}));
  EXPECT_EQ(device.log[1], (Recorder::Access{false, 12, 4, 0}));
  EXPECT_EQ(device.log[2], (Recorder::Access{true, 0x10, 4, 0x55667788}));
  EXPECT_EQ(device.log[3], (Recorder::Access{true, 0x14, 4, 0x11223344}));
  EXPECT_EQ(map.mmio_read(PhysAddr{0xFED003FF}, 2), 0xFFFFu);
  EXPECT_EQ(map.mmio_read(PhysAddr{0xFED00400}, 8), ~u64{0});
  EXPECT_EQ(map.mmio_read(PhysAddr{~u64{0} - 7}, 8), ~u64{0});
  EXPECT_EQ(map.unknown_memory().reads.at(0xFED00400), 1u);
}

}  // namespace
}  // namespace ring3
