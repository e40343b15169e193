// String and port instructions (SDM vol. 2, REP and the instructions themselves; vol. 1, 18.5 for port permissions).
#include "interp_fixture.h"
#include "runtime/interp/repeat.h"

namespace ring3::test {
namespace {

class InterpString : public InterpTest {
 protected:
  void fill(u32 at, u32 size) {
    for (u32 i = 0; i < size; ++i) *ram.at({at + i}) = static_cast<u8>(i * 7 + (i >> 8));
  }
  [[nodiscard]] bool same(u32 a, u32 b, u32 size) const { return std::memcmp(ram.at({a}), ram.at({b}), size) == 0; }
  // Repeats a REP instruction until it is done; counts the times it yielded.
  int run_through(std::initializer_list<int> bytes) {
    int yields = 0;
    while (run(bytes) == Flow::again) ++yields;
    return yields;
  }
};

TEST_F(InterpString, SingleMovesInBothDirections) {
  fill(data_at, 8);
  cpu.gpr[esi] = data_at;
  cpu.gpr[edi] = data_at + 0x100;
  cpu.gpr[ecx] = 0;
  ASSERT_EQ(run({0xA5}), Flow::next);
  EXPECT_EQ(cpu.gpr[esi], data_at + 4);
  EXPECT_EQ(cpu.gpr[edi], data_at + 0x104);
  cpu.eflags |= flag::df;
  ASSERT_EQ(run({0x66, 0xA5}), Flow::next);
  EXPECT_EQ(cpu.gpr[esi], data_at + 2);
  EXPECT_EQ(cpu.gpr[edi], data_at + 0x102);
  EXPECT_TRUE(same(data_at, data_at + 0x100, 6));
  EXPECT_EQ(cpu.gpr[ecx], 0u) << "without REP the counter is not looked at";
}

TEST_F(InterpString, RepWithCountZeroDoesNothing) {
  cpu.gpr[esi] = cpu.gpr[edi] = 0xFFFFFFF0;
  cpu.segment(Seg::es).limit = 0;
  ASSERT_EQ(run({0xF3, 0xA4}), Flow::next);
  EXPECT_EQ(cpu.gpr[edi], 0xFFFFFFF0u);
}

TEST_F(InterpString, LongForwardMoveYieldsAndCompletes) {
  const u32 count = 20'000;
  fill(data_at, count);
  cpu.gpr[esi] = data_at + 1;  // misaligned, so that elements straddle page ends
  cpu.gpr[edi] = 0x80002;
  cpu.gpr[ecx] = count / 4;
  EXPECT_EQ(run_through({0xF3, 0xA5}), static_cast<int>(count / 4 / interp::repeat_budget));
  EXPECT_TRUE(same(data_at + 1, 0x80002, count));
  EXPECT_EQ(cpu.gpr[ecx], 0u);
  EXPECT_EQ(cpu.gpr[esi], data_at + 1 + count);
}

TEST_F(InterpString, OverlapPropagatesForwardByElement) {
  fill(data_at, 4);
  cpu.gpr[eax] = 0;
  memory.read_physical({data_at}, &cpu.gpr[eax], 4);
  u32 first = 0;
  // Touch the page once, so that the direct path is open.
  ASSERT_TRUE(v.store(Seg::ds, data_at + 0x800, first));
  cpu.gpr[esi] = data_at;
  cpu.gpr[edi] = data_at + 1;
  cpu.gpr[ecx] = 64;
  ASSERT_EQ(run({0xF3, 0xA4}), Flow::next);
  for (u32 i = 0; i <= 64; ++i) ASSERT_EQ(get(data_at + i, 1), get(data_at, 1)) << i;
}

TEST_F(InterpString, BackwardMoveOverOverlap) {
  fill(data_at, 100);
  std::vector<u8> before(100);
  std::memcpy(before.data(), ram.at({data_at}), 100);
  cpu.eflags |= flag::df;
  cpu.gpr[esi] = data_at + 99;
  cpu.gpr[edi] = data_at + 109;
  cpu.gpr[ecx] = 100;
  ASSERT_EQ(run({0xF3, 0xA4}), Flow::next);
  EXPECT_EQ(std::memcmp(ram.at({data_at + 10}), before.data(), 100), 0);
  EXPECT_EQ(cpu.gpr[esi], data_at - 1);
}

TEST_F(InterpString, FaultInTheMiddleKeepsWhatWasDone) {
  enable_paging();
  set_page(0x82000, 0);
  fill(data_at, 0x3000);
  cpu.gpr[esi] = data_at;
  cpu.gpr[edi] = 0x81000 - 6;  // the last element straddles into the absent page
  cpu.gpr[ecx] = 0x1000;
  expect_page_fault(run({0xF3, 0xA5}), 0x82000, pf_error::write);
  const u32 done = (0x1000 + 6) / 4;
  EXPECT_EQ(cpu.gpr[ecx], 0x1000 - done);
  EXPECT_EQ(cpu.gpr[edi], 0x81000u - 6 + done * 4);
  EXPECT_EQ(cpu.gpr[esi], data_at + done * 4);
  EXPECT_TRUE(same(data_at, 0x81000 - 6, done * 4));
  set_page(0x82000, 0x82007);
  EXPECT_EQ(run({0xF3, 0xA5}), Flow::next);
  EXPECT_TRUE(same(data_at, 0x81000 - 6, 0x3000));
}

TEST_F(InterpString, SegmentLimitInTheMiddle) {
  cpu.segment(Seg::es) = {0x18, 0x4093, 0x50000, 0x1003};
  cpu.gpr[edi] = 0xFF0;
  cpu.gpr[ecx] = 100;
  cpu.gpr[eax] = 0x55AA55AA;
  expect_fault(run({0xF3, 0xAB}), Vector::general_protection);
  EXPECT_EQ(cpu.gpr[ecx], 95u);
  EXPECT_EQ(cpu.gpr[edi], 0x1004u);
  EXPECT_EQ(get(0x51000), 0x55AA55AAu);
  EXPECT_EQ(get(0x51004), 0u);
}

TEST_F(InterpString, AddressSize16WrapsAndKeepsUpperHalves) {
  cpu.segment(Seg::es) = {0x18, 0x0093, 0x50000, 0xFFFF};
  cpu.gpr[edi] = 0x1234FFFE;
  cpu.gpr[ecx] = 0xABCD0004;
  cpu.gpr[eax] = 0x77;
  ASSERT_EQ(run({0x67, 0xF3, 0xAA}), Flow::next);
  EXPECT_EQ(cpu.gpr[edi], 0x12340002u);
  EXPECT_EQ(cpu.gpr[ecx], 0xABCD0000u);
  EXPECT_EQ(get(0x5FFFE, 2), 0x7777u);
  EXPECT_EQ(get(0x50000, 2), 0x7777u);
}

TEST_F(InterpString, OverrideMovesTheSourceOnly) {
  cpu.segment(Seg::fs) = {0x18, 0x4093, 0x60000, 0xFFFF};
  put(0x60010, 0xCAFE);
  cpu.gpr[esi] = 0x10;
  cpu.gpr[edi] = data_at;
  ASSERT_EQ(run({0x64, 0xA5}), Flow::next);
  EXPECT_EQ(get(data_at), 0xCAFEu);
  cpu.gpr[esi] = 0x10;
  ASSERT_EQ(run({0x64, 0xAD}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0xCAFEu);
}

TEST_F(InterpString, RepeCmpsStopsAtTheDifference) {
  std::memcpy(ram.at({data_at}), "abcdeXgh", 8);
  std::memcpy(ram.at({data_at + 0x100}), "abcdefgh", 8);
  cpu.gpr[esi] = data_at;
  cpu.gpr[edi] = data_at + 0x100;
  cpu.gpr[ecx] = 8;
  ASSERT_EQ(run({0xF3, 0xA6}), Flow::next);
  EXPECT_EQ(cpu.gpr[ecx], 2u);
  EXPECT_EQ(cpu.gpr[esi], data_at + 6);
  EXPECT_EQ(status() & (flag::zf | flag::cf), flag::cf) << "58h < 66h";
}

TEST_F(InterpString, RepneScasFindsTheByte) {
  std::memcpy(ram.at({data_at}), "hello", 6);
  cpu.gpr[edi] = data_at;
  cpu.gpr[ecx] = ~0u;
  cpu.gpr[eax] = 0;
  ASSERT_EQ(run({0xF2, 0xAE}), Flow::next);
  EXPECT_EQ(~cpu.gpr[ecx] - 1, 5u) << "strlen";
  EXPECT_EQ(status() & flag::zf, flag::zf);
}

TEST_F(InterpString, FaultRestoresTheFlagsOfCmps) {
  enable_paging();
  set_page(data_at + 0x1000, 0);
  std::memset(ram.at({data_at}), 0, 0x1000);
  cpu.gpr[edi] = data_at + 0xFF0;
  cpu.gpr[eax] = 0;
  cpu.gpr[ecx] = 0x40;
  set_status(flag::cf | flag::sf | flag::of);
  expect_page_fault(run({0xF3, 0xAE}), data_at + 0x1000, 0);
  EXPECT_EQ(cpu.gpr[ecx], 0x30u);
  EXPECT_EQ(status(), flag::cf | flag::sf | flag::of);
}

TEST_F(InterpString, PortsInAndOut) {
  bus.answers = {0x11223344, 0x55};
  cpu.gpr[edx] = 0xABCD03F8;
  ASSERT_EQ(run({0xED}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0x11223344u);
  ASSERT_EQ(run({0xE4, 0x64}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0x11223355u);
  ASSERT_EQ(run({0x66, 0xE7, 0x80}), Flow::next);
  const std::vector<PortBus::Access> reads = {{0x3F8, 4, 0}, {0x64, 1, 0}};
  const std::vector<PortBus::Access> writes = {{0x80, 2, 0x3355}};
  EXPECT_EQ(bus.reads, reads);
  EXPECT_EQ(bus.writes, writes);
}

TEST_F(InterpString, StringPorts) {
  std::memcpy(ram.at({data_at}), "xyz", 3);
  cpu.gpr[edx] = 0xE9;
  cpu.gpr[esi] = data_at;
  cpu.gpr[ecx] = 3;
  ASSERT_EQ(run({0xF3, 0x6E}), Flow::next);
  const std::vector<PortBus::Access> writes = {{0xE9, 1, 'x'}, {0xE9, 1, 'y'}, {0xE9, 1, 'z'}};
  EXPECT_EQ(bus.writes, writes);
  bus.answers = {1, 2};
  cpu.gpr[edi] = data_at;
  cpu.gpr[ecx] = 2;
  ASSERT_EQ(run({0xF3, 0x66, 0x6D}), Flow::next);
  EXPECT_EQ(get(data_at), 0x00020001u);
}

TEST_F(InterpString, InsDoesNotReadThePortWhenItCannotStore) {
  enable_paging();
  set_page(data_at, data_at | 1);
  cpu.gpr[edi] = data_at;
  expect_page_fault(run({0x6C}), data_at, pf_error::present | pf_error::write);
  EXPECT_TRUE(bus.reads.empty());
}

TEST_F(InterpString, PortPermissionBitmap) {
  user_mode(0);
  cpu.gpr[edx] = 0x3F8;
  expect_fault(run({0xEC}), Vector::general_protection);
  EXPECT_EQ(v.fault.error_code, 0u);

  const u32 tss = 0x50000;
  cpu.tr = {0x28, 0x008B, tss, 0x68 + 0x80};  // bitmap for ports 0 to 3FFh and its closing byte
  put(tss + 102, 0x68, 2);
  std::memset(ram.at({tss + 0x68}), 0, 0x80);
  *ram.at({tss + 0x68 + 0x80}) = 0xFF;
  EXPECT_EQ(run({0xEC}), Flow::next);
  *ram.at({tss + 0x68 + 0x7F}) = 0x02;  // port 3F9h
  EXPECT_EQ(run({0xEC}), Flow::next);
  expect_fault(run({0x66, 0xED}), Vector::general_protection);  // two bytes need both bits
  cpu.gpr[edx] = 0x3FF;
  expect_fault(run({0x66, 0xED}), Vector::general_protection);  // runs into the closing byte
  cpu.gpr[edx] = 0x400;
  expect_fault(run({0xEC}), Vector::general_protection);  // beyond the limit
  cpu.tr.attributes = 0x0083;                             // a 16-bit TSS has no bitmap
  cpu.gpr[edx] = 0x100;
  expect_fault(run({0xEC}), Vector::general_protection);
  user_mode(3);
  EXPECT_EQ(run({0xEC}), Flow::next);
}

// The word at offset 102 must lie within the TSS, whatever it would say (SDM vol. 1, 19.5.2).
TEST_F(InterpString, PortPermissionBitmapNeedsItsBaseAddress) {
  user_mode(0);
  const u32 tss = 0x50000;
  std::memset(ram.at({tss}), 0, 0x100);  // the bitmap overlaps the TSS: every port is open
  cpu.gpr[edx] = 0x80;
  cpu.tr = {0x28, 0x008B, tss, 102};
  expect_fault(run({0xEC}), Vector::general_protection);
  cpu.tr.limit = 103;
  EXPECT_EQ(run({0xEC}), Flow::next);
}

}  // namespace
}  // namespace ring3::test
