// Accesses: page crossings, wrap-around, devices, code pages, physical memory.
#include "memory_fixture.h"

namespace ring3::test {
namespace {

TEST_F(MemoryTest, UnpagedLinearIsPhysical) {
  ASSERT_TRUE(write(0x123456, 0x11223344'55667788, 8));
  EXPECT_EQ(get64(0x123456), 0x11223344'55667788u);
  EXPECT_EQ(must_read(0x123456, 4, true), 0x55667788u);
  EXPECT_EQ(must_read(0x12345A, 2), 0x3344u);
}

TEST_F(MemoryTest, EverySizeAtEveryOffsetOfAPageEnd) {
  for (bool paged : {false, true}) {
    if (paged) {
      enable_paging(false);
      map(0x400000, 0x300000, W | U);  // two linear neighbours that are not physical neighbours
      map(0x401000, 0x500000, W | U);
    }
    const u32 base = paged ? 0x400000 : 0x300000;
    const u32 next = paged ? 0x500000 : 0x301000;
    for (unsigned size = 1; size <= 16; ++size) {
      for (u32 offset = 0xFF0; offset <= 0x1000; ++offset) {
        u8 in[16], out[16] = {};
        for (unsigned i = 0; i < size; ++i) in[i] = static_cast<u8>(offset + 7 * size + 13 * i + 1);
        ASSERT_TRUE(memory.write(base + offset, in, size, true, fault));
        ASSERT_TRUE(memory.read(base + offset, out, size, true, fault));
        ASSERT_EQ(std::memcmp(in, out, size), 0) << size << " at " << offset;
        for (unsigned i = 0; i < size; ++i) {
          const u32 at = offset + i;
          ASSERT_EQ(*ram.at({at < 0x1000 ? 0x300000 + at : next + at - 0x1000}), in[i]);
        }
      }
    }
  }
}

TEST_F(MemoryTest, CrossingWriteWithSecondPageAbsentChangesNothing) {
  for (bool pae_format : {false, true}) {
    enable_paging(pae_format);
    map(0x400000, 0x300000, W | U);
    put64(0x300FF8, 0xA5A5A5A5'A5A5A5A5);
    ASSERT_FALSE(write(0x400FFD, ~u64{0}, 8));
    expect_page_fault(0x401000, pf_error::write);
    EXPECT_EQ(get64(0x300FF8), 0xA5A5A5A5'A5A5A5A5u);
    EXPECT_EQ(get(pte_at(0x400000)) & (A | D), 0u);
    EXPECT_FALSE(memory.probe_write(0x400FFF, 2, true, fault));
    expect_page_fault(0x401000, pf_error::write | pf_error::user);
    EXPECT_EQ(get(pte_at(0x400000)) & (A | D), 0u);
    u64 out;
    ASSERT_FALSE(read(0x400FFF, out, 2));
    expect_page_fault(0x401000, 0);
    EXPECT_EQ(get(pte_at(0x400000)) & (A | D), 0u);
  }
}

TEST_F(MemoryTest, CrossingAccessReportsItsFirstByteWhenTheFirstPageFaults) {
  enable_paging(false);
  map(0x401000, 0x300000, W);
  u64 out;
  ASSERT_FALSE(read(0x400FFE, out, 4));
  expect_page_fault(0x400FFE, 0);
  ASSERT_FALSE(write(0x400FFE, 0, 4));
  expect_page_fault(0x400FFE, pf_error::write);
  EXPECT_EQ(get(pte_at(0x401000)) & (A | D), 0u);
}

TEST_F(MemoryTest, AccessesWrapAtFourGiB) {
  enable_paging(false);
  map(0xFFFFF000, 0x300000, W, 0x20000);
  map(0x00000000, 0x500000, W, 0x21000);
  ASSERT_TRUE(write(0xFFFFFFFE, 0x44332211, 4));
  EXPECT_EQ(get32(0x300FFC) >> 16, 0x2211u);
  EXPECT_EQ(get32(0x500000), 0x4433u);
  EXPECT_EQ(must_read(0xFFFFFFFE, 4), 0x44332211u);
  put(pte_at(0, 0x21000), 0);
  memory.flush_page(0);
  u64 out;
  ASSERT_FALSE(read(0xFFFFFFFF, out, 2));
  expect_page_fault(0, 0);
}

TEST_F(MemoryTest, DeviceAccessesAreSplitIntoAlignedParts) {
  using E = ByteBus::Entry;
  const u32 device = 0xFEC00000;
  ASSERT_TRUE(write(device + 1, 0x0807060504030201, 8));
  EXPECT_EQ(bus.log, (std::vector<E>{{device + 1, 1, true}, {device + 2, 2, true}, {device + 4, 4, true}, {device + 8, 1, true}}));
  bus.log.clear();
  EXPECT_EQ(must_read(device + 1, 8), 0x0807060504030201u);
  EXPECT_EQ(bus.log, (std::vector<E>{{device + 1, 1, false}, {device + 2, 2, false}, {device + 4, 4, false}, {device + 8, 1, false}}));
  for (unsigned size : {1u, 2u, 4u, 8u}) {
    bus.log.clear();
    ASSERT_TRUE(write(device + 8, 0, size));
    EXPECT_EQ(bus.log, (std::vector<E>{{device + 8, size, true}}));
  }
  bus.log.clear();
  u8 wide[16] = {};
  ASSERT_TRUE(memory.read(device, wide, 16, false, fault));
  EXPECT_EQ(bus.log, (std::vector<E>{{device, 8, false}, {device + 8, 8, false}}));
}

TEST_F(MemoryTest, DevicePagesAreNeverInTheTables) {
  const u64 context = memory.select_context(0);
  ASSERT_TRUE(write(0xFEC00000, 1, 4));
  EXPECT_EQ(must_read(0xFEC00000), 1u);
  EXPECT_EQ(read_slot(context, 0xFEC00000), 0u);
  EXPECT_EQ(write_slot(context, 0xFEC00000), 0u);
  EXPECT_EQ(memory.direct(0xFEC00000, Access::read, false), nullptr);
}

TEST_F(MemoryTest, TheLastRamPageEndsAtTheFirstDeviceByte) {
  const u64 context = memory.select_context(0);
  ASSERT_TRUE(write(ram_size - 2, 0x44332211, 4));
  EXPECT_EQ(*ram.at({ram_size - 2}), 0x11);
  EXPECT_EQ(*ram.at({ram_size - 1}), 0x22);
  EXPECT_EQ(bus.log, (std::vector<ByteBus::Entry>{{ram_size, 2, true}}));
  EXPECT_NE(read_slot(context, ram_size - 1), 0u);
  EXPECT_EQ(read_slot(context, ram_size), 0u);
}

TEST_F(MemoryTest, CrossingFromRamToAnAbsentPageDoesNotTouchTheDevice) {
  enable_paging(true);
  map(0x400000, 0x300000, W);
  put(pte_at(0x401000), (u64{0xF} << 32) | 0xFEC00000 | P | W);  // a device above 4 GiB
  map(0x403000, 0x301000, 0);
  ASSERT_TRUE(write(0x400FFE, 0x44332211, 4));
  EXPECT_EQ(bus.log, (std::vector<ByteBus::Entry>{{0xF'FEC00000, 2, true}}));
  bus.log.clear();
  ASSERT_FALSE(write(0x401FFE, 0, 4));
  expect_page_fault(0x402000, pf_error::write);
  u64 out;
  ASSERT_FALSE(read(0x401FFE, out, 4));
  EXPECT_TRUE(bus.log.empty());
}

TEST_F(MemoryTest, WritesToCodePagesAreStoredAndReported) {
  memory.watch_code({0x300123});
  EXPECT_TRUE(memory.is_code_page({0x300FFF}));
  EXPECT_FALSE(memory.is_code_page({0x301000}));
  ASSERT_TRUE(write(0x300FFE, 0x44332211, 4));
  EXPECT_EQ(get32(0x300FFE), 0x44332211u);
  EXPECT_EQ(watcher.written, (std::vector<std::pair<u64, u32>>{{0x300FFE, 2}}));
  EXPECT_EQ(memory.direct(0x300000, Access::write, false), nullptr);
  EXPECT_NE(memory.direct(0x300000, Access::read, false), nullptr);
  watcher.written.clear();
  const u8 bytes[0x2000] = {1};
  memory.write_physical({0x2FF000}, bytes, sizeof bytes);
  EXPECT_EQ(watcher.written, (std::vector<std::pair<u64, u32>>{{0x300000, 0x1000}}));
  watcher.written.clear();
  memory.unwatch_code({0x300000});
  ASSERT_TRUE(write(0x300000, 1));
  EXPECT_NE(memory.direct(0x300000, Access::write, false), nullptr);
  EXPECT_TRUE(watcher.written.empty());
}

TEST_F(MemoryTest, FlagsSetInAPageTableOnACodePageAreReported) {
  enable_paging(false);
  map(0x400000, 0x300000, W);
  memory.watch_code({table});
  EXPECT_EQ(must_read(0x400000), 0u);
  EXPECT_EQ(watcher.written, (std::vector<std::pair<u64, u32>>{{pte_at(0x400000), 1}}));
}

TEST_F(MemoryTest, PhysicalAccessesReachRamAndBus) {
  u32 value = 0x44332211;
  memory.write_physical({ram_size - 1}, &value, 4);
  EXPECT_EQ(*ram.at({ram_size - 1}), 0x11);
  EXPECT_EQ(bus.bytes[ram_size + 2], 0x44);
  u32 back = 0;
  memory.read_physical({ram_size - 1}, &back, 4);
  EXPECT_EQ(back, value);
  memory.read_physical({0xFEE00000}, &back, 4);
  EXPECT_EQ(back, ~0u);
}

TEST_F(MemoryTest, DirectIsOnlyWhatTheTlbHolds) {
  enable_paging(false);
  map(0x400000, 0x300000, W);
  EXPECT_EQ(memory.direct(0x400010, Access::read, false), nullptr);
  EXPECT_EQ(get(pte_at(0x400000)) & (A | D), 0u);
  EXPECT_EQ(must_read(0x400000), 0u);
  EXPECT_EQ(memory.direct(0x400010, Access::read, false), ram.at({0x300010}));
  EXPECT_EQ(memory.direct(0x400010, Access::write, false), nullptr);
  EXPECT_EQ(memory.direct(0x400010, Access::read, true), nullptr);
  ASSERT_TRUE(write(0x400000, 1));
  EXPECT_EQ(memory.direct(0x400010, Access::write, false), ram.at({0x300010}));
}

TEST_F(MemoryTest, FetchStopsAtAPageThatCannotBeFetched) {
  enable_paging(true);
  cpu.efer = efer::nxe;
  map(0x400000, 0x300000, U);
  put(pte_at(0x401000), 0x301000 | P | U | NX);
  std::memcpy(ram.at({0x300FFD}), "abc", 3);
  u8 out[15] = {};
  EXPECT_EQ(memory.fetch(0x400FFD, out, 15, true, fault), 3u);
  EXPECT_EQ(std::memcmp(out, "abc", 3), 0);
  EXPECT_EQ(get(pte_at(0x401000)) & A, 0u);
  EXPECT_EQ(memory.fetch(0x401000, out, 15, true, fault), 0u);
  expect_page_fault(0x401000, pf_error::present | pf_error::user | pf_error::fetch);
  put(pte_at(0x401000), 0x305000 | P | U);
  memory.flush_page(0x401000);
  *ram.at({0x305000}) = 'd';
  EXPECT_EQ(memory.fetch(0x400FFD, out, 15, true, fault), 15u);
  EXPECT_EQ(std::memcmp(out, "abcd", 4), 0);
  EXPECT_EQ(get(pte_at(0x401000)) & (A | D), A);
}

TEST_F(MemoryTest, A20GateHidesBit20FromTheCpuOnly) {
  put32(0x100000, 0x11111111);
  put32(0x000000, 0x22222222);
  EXPECT_EQ(must_read(0x100000), 0x11111111u);
  memory.set_a20(false);
  EXPECT_EQ(must_read(0x100000), 0x22222222u);
  EXPECT_EQ(must_read(0x300000), get32(0x200000));
  u32 value = 0;
  memory.read_physical({0x100000}, &value, 4);
  EXPECT_EQ(value, 0x11111111u);
  memory.set_a20(true);
  EXPECT_EQ(must_read(0x100000), 0x11111111u);
}

TEST_F(MemoryTest, A20GateAppliesToPageTablesToo) {
  enable_paging(false);
  map(0x400000, 0x300000, W, 0x120000);
  put32(pte_at(0x400000, 0x20000), 0x540000 | P);
  put32(0x440000, 0x77);
  put32(0x300000, 0x33);
  EXPECT_EQ(must_read(0x400000), 0x33u);
  memory.set_a20(false);
  EXPECT_EQ(must_read(0x400000), 0x77u);
}

}  // namespace
}  // namespace ring3::test
