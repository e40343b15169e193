// IRET and RETF: each check of SDM vol. 2 (protected mode) taken and passed.
#include "unit/runtime/system_fixture.h"

namespace ring3::test {
namespace {

class ReturnTest : public SystemTest {
 protected:
  void frame(std::initializer_list<u32> words) {
    u32 at = s.gpr[esp];
    for (const u32 word : words) {
      put32(at, word);
      at += 4;
    }
  }
  Flow iret() { return run({0xCF}); }
  Flow retf() { return run({0xCB}); }
  // Both instructions with the same CS:EIP and, for outer rings, SS:ESP.
  void both_fault(u16 cs, Vector vector, u32 error, u32 eip = 0x7000, u16 ss = user_ss) {
    frame({eip, cs, flag::fixed1, 0x9100, ss});
    expect_fault({0xCF}, vector, error);
    frame({eip, cs, 0x9100, ss});
    expect_fault({0xCB}, vector, error);
  }
};

constexpr u32 all_flags = 0x3F7FD7 & ~flag::vm;  // every defined flag but VM (VIF and VIP too)

TEST_F(ReturnTest, IretInTheSameRingLoadsAllFlags) {
  frame({0x7000, 0xFFFF0000u | kernel_cs, all_flags});
  ASSERT_EQ(iret(), Flow::jumped);
  EXPECT_EQ(s.eip, 0x7000u);
  EXPECT_EQ(s.segment(Seg::cs).selector, kernel_cs);
  EXPECT_EQ(s.gpr[esp], kernel_stack + 12);
  EXPECT_EQ(s.eflags, all_flags & ~(flag::vif | flag::vip)) << "no VME: VIF and VIP do not exist";
}

TEST_F(ReturnTest, IretFlagsDependOnCplAndIopl) {
  set_ring(3);
  s.eflags = flag::fixed1 | flag::if_;
  frame({0x7000, user_cs, all_flags & ~flag::if_});
  ASSERT_EQ(iret(), Flow::jumped);
  EXPECT_EQ(s.eflags, (all_flags & ~(flag::vif | flag::vip | flag::iopl)) | flag::if_) << "IF and IOPL stay";
  s.gpr[esp] = user_stack;
  s.eflags = flag::fixed1 | flag::if_ | flag::iopl;
  frame({0x7000, user_cs, flag::fixed1});
  ASSERT_EQ(iret(), Flow::jumped);
  EXPECT_EQ(s.eflags, flag::fixed1 | flag::iopl) << "IOPL 3 lets IF change, not IOPL";
  s.gpr[esp] = user_stack;
  s.eflags = flag::fixed1 | flag::iopl;
  frame({0x7000, user_cs, flag::fixed1 | flag::vm});
  ASSERT_EQ(iret(), Flow::jumped) << "VM is ignored outside ring 0";
  EXPECT_EQ(s.eflags, flag::fixed1 | flag::iopl);
}

TEST_F(ReturnTest, SixteenBitIret) {
  s.eflags = flag::fixed1 | flag::ac | flag::id;
  put16(kernel_stack, 0x7000);
  put16(kernel_stack + 2, kernel_cs);
  put16(kernel_stack + 4, flag::cf | flag::if_);
  ASSERT_EQ(run({0x66, 0xCF}), Flow::jumped);
  EXPECT_EQ(s.eip, 0x7000u);
  EXPECT_EQ(s.gpr[esp], kernel_stack + 6);
  EXPECT_EQ(s.eflags, flag::fixed1 | flag::ac | flag::id | flag::cf | flag::if_) << "the upper half stays";
}

TEST_F(ReturnTest, IretToTheOuterRing) {
  s.segment(Seg::es) = {kernel_cs, 0xC09F, 0, 0xFFFFFFFF};  // conforming code may stay
  s.segment(Seg::fs) = {user_ss, 0xC0F3, 0, 0xFFFFFFFF};    // ring-3 data may stay
  s.segment(Seg::gs) = {kernel_cs, 0xC09B, 0, 0xFFFFFFFF};  // ring-0 code may not
  set_gdt(user_cs, user_code & ~(u64{1} << 40));
  set_gdt(user_ss, user_data & ~(u64{1} << 40));
  s.nmi_masked = true;
  frame({0x7000, user_cs, flag::fixed1 | flag::if_, 0x12349100, user_ss});
  ASSERT_EQ(iret(), Flow::jumped);
  EXPECT_EQ(s.cpl, 3);
  EXPECT_EQ(s.eip, 0x7000u);
  EXPECT_EQ(s.gpr[esp], 0x12349100u);
  EXPECT_EQ(s.eflags, flag::fixed1 | flag::if_);
  EXPECT_EQ(s.segment(Seg::cs), (SegmentCache{user_cs, 0xC0FB, 0, 0xFFFFFFFF}));
  EXPECT_EQ(s.segment(Seg::ss), (SegmentCache{user_ss, 0xC0F3, 0, 0xFFFFFFFF}));
  EXPECT_EQ(s.segment(Seg::ds).selector, 0);
  EXPECT_FALSE(s.segment(Seg::ds).usable());
  EXPECT_TRUE(s.segment(Seg::es).usable());
  EXPECT_TRUE(s.segment(Seg::fs).usable());
  EXPECT_EQ(s.segment(Seg::gs).selector, 0);
  EXPECT_FALSE(s.segment(Seg::gs).usable());
  EXPECT_EQ(access_byte(user_cs), 0xFB);
  EXPECT_EQ(access_byte(user_ss), 0xF3);
  EXPECT_FALSE(s.nmi_masked);
}

TEST_F(ReturnTest, A16BitOuterStackKeepsTheUpperHalfOfEsp) {
  set_gdt(spare, make_segment(0x20000, 0xFFFF, 0xF3, 0));
  s.gpr[esp] = 0x000A8000;
  frame({0x7000, user_cs, flag::fixed1, 0x12349100, spare | 3});
  ASSERT_EQ(iret(), Flow::jumped);
  EXPECT_EQ(s.gpr[esp], 0x000A9100u);
}

TEST_F(ReturnTest, CodeSegmentChecks) {
  both_fault(3, Vector::general_protection, 0);
  both_fault(beyond, Vector::general_protection, beyond);
  both_fault(kernel_ss, Vector::general_protection, kernel_ss);                // data
  both_fault(user_cs & 0xFFFC, Vector::general_protection, user_cs & 0xFFFC);  // non-conforming, DPL != RPL
  both_fault(kernel_cs | 3, Vector::general_protection, kernel_cs);
  set_gdt(spare, make_segment(0, 0xFFFFF, 0xFE, flags32));  // conforming with DPL 3 > RPL 0
  both_fault(spare, Vector::general_protection, spare);
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x1B, flags32));
  both_fault(spare, Vector::not_present, spare);
  set_gdt(spare, make_segment(0, 0x6FFF, 0x9B, 4));
  both_fault(spare, Vector::general_protection, 0);
  frame({0x6FFF, spare, flag::fixed1});
  EXPECT_EQ(iret(), Flow::jumped);
  set_ring(3);
  both_fault(kernel_cs, Vector::general_protection, kernel_cs);  // RPL < CPL
}

TEST_F(ReturnTest, ConformingCodeOfALowerLevel) {
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x9E, flags32));  // conforming, DPL 0 <= RPL 3
  frame({0x7000, spare | 3, flag::fixed1, 0x9100, user_ss});
  ASSERT_EQ(iret(), Flow::jumped);
  EXPECT_EQ(s.cpl, 3);
}

TEST_F(ReturnTest, OuterStackChecks) {
  both_fault(user_cs, Vector::general_protection, 0, 0x7000, 3);
  both_fault(user_cs, Vector::general_protection, beyond, 0x7000, beyond | 3);
  both_fault(user_cs, Vector::general_protection, user_ss & 0xFFFC, 0x7000, user_ss & 0xFFFC);  // RPL
  both_fault(user_cs, Vector::general_protection, kernel_ss, 0x7000, kernel_ss | 3);            // DPL
  both_fault(user_cs, Vector::general_protection, user_cs & 0xFFFC, 0x7000, user_cs);           // type
  set_gdt(spare, make_segment(0, 0xFFFFF, 0xF1, flags32));
  both_fault(user_cs, Vector::general_protection, spare, 0x7000, spare | 3);  // not writable
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x73, flags32));
  both_fault(user_cs, Vector::stack, spare, 0x7000, spare | 3);
  set_gdt(user_cs, make_segment(0, 0x6FFF, 0xFB, 4));
  both_fault(user_cs, Vector::general_protection, 0);
}

TEST_F(ReturnTest, FrameOutsideTheStackSegment) {
  frame({0x7000, user_cs, flag::fixed1, 0x9100, user_ss});
  for (const u32 inside : {3u, 7u, 11u, 15u, 18u}) {
    s.segment(Seg::ss).limit = kernel_stack + inside;
    expect_fault({0xCF}, Vector::stack, 0);
  }
  s.segment(Seg::ss).limit = kernel_stack + 19;
  EXPECT_EQ(iret(), Flow::jumped);
}

TEST_F(ReturnTest, OtherReturnsAreMissing) {
  frame({0x7000, kernel_cs, flag::fixed1 | flag::vm, 0x9100, user_ss});
  EXPECT_EQ(iret(), Flow::missing);
  s.eflags = flag::fixed1 | flag::vm;
  EXPECT_EQ(iret(), Flow::missing);
  EXPECT_EQ(retf(), Flow::missing);
  s.eflags = flag::fixed1;
  s.cr0 = cr0::et;
  EXPECT_EQ(iret(), Flow::missing);
}

TEST_F(ReturnTest, NestedTasksAreCheckedThenMissing) {
  s.eflags |= flag::nt;
  const auto back_to = [&](u16 link, u64 descriptor, Vector vector, u32 error) {
    put16(tss, link);
    set_gdt(spare, descriptor);
    expect_fault({0xCF}, vector, error);
  };
  const u64 busy = make_segment(tss, 0x67, 0x8B, 0);
  back_to(0, busy, Vector::invalid_tss, 0);
  back_to(spare | 4, busy, Vector::invalid_tss, spare | 4);
  back_to(beyond, busy, Vector::invalid_tss, beyond);
  for (const u32 type : {0x80u, 0x81u, 0x82u, 0x89u, 0x8Cu, 0x9Bu}) {
    back_to(spare | 3, make_segment(tss, 0x67, type, 0), Vector::invalid_tss, spare);
  }
  back_to(spare, make_segment(tss, 0x67, 0x0B, 0), Vector::not_present, spare);
  back_to(spare, make_segment(tss, 0x66, 0x8B, 0), Vector::invalid_tss, spare);
  set_gdt(spare, busy);
  EXPECT_EQ(iret(), Flow::missing);
  s.tr.limit = 0;
  expect_fault({0xCF}, Vector::invalid_tss, tss_selector);
}

TEST_F(ReturnTest, RetfInTheSameRing) {
  frame({0x7000, kernel_cs});
  s.eflags |= flag::if_ | flag::cf;
  ASSERT_EQ(retf(), Flow::jumped);
  EXPECT_EQ(s.eip, 0x7000u);
  EXPECT_EQ(s.gpr[esp], kernel_stack + 8);
  EXPECT_EQ(s.eflags, flag::fixed1 | flag::if_ | flag::cf);
  s.gpr[esp] = kernel_stack;
  ASSERT_EQ(run({0xCA, 0x10, 0x80}), Flow::jumped);  // retf 8010h: unsigned
  EXPECT_EQ(s.gpr[esp], kernel_stack + 8 + 0x8010);
  s.gpr[esp] = kernel_stack;
  put32(kernel_stack, 0x7100u | (u32{kernel_cs} << 16));
  ASSERT_EQ(run({0x66, 0xCB}), Flow::jumped);
  EXPECT_EQ(s.eip, 0x7100u);
  EXPECT_EQ(s.gpr[esp], kernel_stack + 4);
}

TEST_F(ReturnTest, RetfToTheOuterRingReleasesBothStacks) {
  frame({0x7000, user_cs, 0xAAAA, 0xBBBB, 0x9100, user_ss});
  ASSERT_EQ(run({0xCA, 0x08, 0x00}), Flow::jumped);
  EXPECT_EQ(s.cpl, 3);
  EXPECT_EQ(s.gpr[esp], 0x9108u);
  EXPECT_EQ(s.segment(Seg::ss).selector, user_ss);
  EXPECT_FALSE(s.segment(Seg::ds).usable());
}

}  // namespace
}  // namespace ring3::test
