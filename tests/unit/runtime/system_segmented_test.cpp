// Accesses through descriptor caches: SDM vol. 3, 5.3 (limits), 5.4.1 and 5.5 (types), 6.15 (#AC).
#include "unit/runtime/system_fixture.h"

namespace ring3::test {
namespace {

class SegmentedTest : public SystemTest {
 protected:
  // 0: allowed; otherwise the vector of the fault, whose error code must be 0.
  int access(Seg seg, u32 offset, unsigned size, Access kind) {
    u8 bytes[16] = {};
    const bool ok = kind == Access::read ? v.load_bytes(seg, offset, bytes, size) : v.store_bytes(seg, offset, bytes, size);
    if (kind == Access::write) {
      const Fault stored = v.fault;
      EXPECT_EQ(v.probe_store(seg, offset, size), ok);
      if (!ok) {
        EXPECT_EQ(static_cast<int>(v.fault.vector), static_cast<int>(stored.vector));
      }
    }
    if (ok) return 0;
    EXPECT_TRUE(v.fault.has_error_code);
    EXPECT_EQ(v.fault.error_code, 0u);
    return static_cast<int>(v.fault.vector);
  }
  int read(Seg seg, u32 offset, unsigned size) { return access(seg, offset, size, Access::read); }
  int write(Seg seg, u32 offset, unsigned size) { return access(seg, offset, size, Access::write); }
  void use(Seg seg, u16 attributes, u32 base, u32 limit) { s.segment(seg) = {0x38, attributes, base, limit}; }
};

constexpr int gp = 13, ss = 12, ac = 17;

TEST_F(SegmentedTest, BaseIsAdded) {
  use(Seg::ds, 0x4093, 0x12340, 0xFFF);
  put32(0x12350, 0xCAFEBABE);
  u32 value = 0;
  ASSERT_TRUE(v.load(Seg::ds, 0x10, value));
  EXPECT_EQ(value, 0xCAFEBABE);
  ASSERT_TRUE(v.store(Seg::ds, 0x20, u16{0xBEEF}));
  EXPECT_EQ(get16(0x12360), 0xBEEF);
}

TEST_F(SegmentedTest, LimitCoversEveryByte) {
  use(Seg::ds, 0x4093, 0x10000, 0xFF);
  EXPECT_EQ(read(Seg::ds, 0xFF, 1), 0);
  EXPECT_EQ(read(Seg::ds, 0x100, 1), gp);
  EXPECT_EQ(read(Seg::ds, 0xFE, 2), 0);
  EXPECT_EQ(read(Seg::ds, 0xFF, 2), gp);
  EXPECT_EQ(read(Seg::ds, 0xFC, 4), 0);
  EXPECT_EQ(write(Seg::ds, 0xFD, 4), gp);
  EXPECT_EQ(write(Seg::ds, 0xF8, 8), 0);
  EXPECT_EQ(write(Seg::ds, 0xF9, 8), gp);
  EXPECT_EQ(read(Seg::ds, 0xFFFFFFFE, 4), gp) << "no wrap round 4 GiB below a limit";
}

TEST_F(SegmentedTest, StackSegmentRaisesStackFault) {
  use(Seg::ss, 0x4093, 0x10000, 0xFF);
  EXPECT_EQ(read(Seg::ss, 0xFC, 4), 0);
  EXPECT_EQ(read(Seg::ss, 0xFD, 4), ss);
  EXPECT_EQ(write(Seg::ss, 0x100, 1), ss);
}

TEST_F(SegmentedTest, ExpandDownIsValidAboveTheLimit) {
  use(Seg::ds, 0x4097, 0x10000, 0xFFF);  // B = 1: up to 4 GiB
  EXPECT_EQ(read(Seg::ds, 0xFFF, 1), gp);
  EXPECT_EQ(read(Seg::ds, 0x1000, 1), 0);
  EXPECT_EQ(read(Seg::ds, 0xFFFFFFFC, 4), 0);
  EXPECT_EQ(read(Seg::ds, 0xFFFFFFFD, 4), gp);
  use(Seg::ds, 0x0097, 0x10000, 0xFFF);  // B = 0: up to 64 KiB
  EXPECT_EQ(read(Seg::ds, 0xFFFC, 4), 0);
  EXPECT_EQ(read(Seg::ds, 0xFFFD, 4), gp);
  EXPECT_EQ(read(Seg::ds, 0x10000, 1), gp);
  use(Seg::ds, 0xC097, 0, 0xFFFFFFFF);  // limit at the top: nothing is valid
  EXPECT_EQ(read(Seg::ds, 0xFFFFFFFF, 1), gp);
  EXPECT_EQ(read(Seg::ds, 0, 1), gp);
}

TEST_F(SegmentedTest, Types) {
  use(Seg::ds, 0xC091, 0, 0xFFFFFFFF);  // read-only data
  EXPECT_EQ(read(Seg::ds, 0x10000, 4), 0);
  EXPECT_EQ(write(Seg::ds, 0x10000, 4), gp);
  use(Seg::ds, 0xC09B, 0, 0xFFFFFFFF);  // readable code
  EXPECT_EQ(read(Seg::ds, 0x10000, 4), 0);
  EXPECT_EQ(write(Seg::ds, 0x10000, 4), gp);
  EXPECT_EQ(read(Seg::cs, 0x10000, 4), 0);
  EXPECT_EQ(write(Seg::cs, 0x10000, 4), gp);
  use(Seg::cs, 0xC099, 0, 0xFFFFFFFF);  // execute-only code
  EXPECT_EQ(read(Seg::cs, 0x10000, 4), gp);
  EXPECT_EQ(write(Seg::cs, 0x10000, 4), gp);
}

TEST_F(SegmentedTest, NullSegmentFaults) {
  s.segment(Seg::es) = {3, 0, 0, 0};
  EXPECT_EQ(read(Seg::es, 0, 1), gp);
  EXPECT_EQ(write(Seg::es, 0, 1), gp);
  s.segment(Seg::ss) = {};
  EXPECT_EQ(read(Seg::ss, 0, 1), ss);
}

TEST_F(SegmentedTest, AlignmentCheckNeedsRing3AndBothBits) {
  set_ring(3);
  s.cr0 |= cr0::am;
  s.eflags |= flag::ac;
  EXPECT_EQ(read(Seg::ds, 0x10001, 4), ac);
  EXPECT_EQ(read(Seg::ds, 0x10002, 4), ac);
  EXPECT_EQ(read(Seg::ds, 0x10002, 2), 0);
  EXPECT_EQ(write(Seg::ds, 0x10001, 2), ac);
  EXPECT_EQ(write(Seg::ds, 0x10001, 1), 0);
  EXPECT_EQ(write(Seg::ds, 0x10004, 8), ac);
  EXPECT_EQ(write(Seg::ds, 0x10008, 10), 0);
  EXPECT_EQ(write(Seg::ds, 0x10004, 10), ac);
  s.segment(Seg::ds).base = 1;  // the linear address counts
  EXPECT_EQ(read(Seg::ds, 0x10003, 4), 0);
  EXPECT_EQ(read(Seg::ds, 0x10000, 4), ac);
  s.cr0 &= ~cr0::am;
  EXPECT_EQ(read(Seg::ds, 0x10000, 4), 0);
  s.cr0 |= cr0::am;
  s.eflags &= ~flag::ac;
  EXPECT_EQ(read(Seg::ds, 0x10000, 4), 0);
  s.eflags |= flag::ac;
  s.cpl = 2;
  EXPECT_EQ(read(Seg::ds, 0x10000, 4), 0);
}

TEST_F(SegmentedTest, PagingSeesTheCpl) {
  enable_paging(0x10000, 0x10003);  // present, writable, supervisor
  u32 value = 0;
  EXPECT_TRUE(v.load(Seg::ds, 0x10010, value));
  set_ring(3);
  EXPECT_FALSE(v.load(Seg::ds, 0x10010, value));
  EXPECT_EQ(v.fault.vector, Vector::page);
  EXPECT_EQ(v.fault.error_code, 5u);  // present, user, read
  EXPECT_EQ(v.fault.address, 0x10010u);
  EXPECT_FALSE(v.store(Seg::ds, 0x10010, value));
  EXPECT_EQ(v.fault.error_code, 7u);
  EXPECT_EQ(s.cr2, 0u) << "CR2 is loaded at delivery";
}

}  // namespace
}  // namespace ring3::test
