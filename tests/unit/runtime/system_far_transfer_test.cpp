// Far JMP and CALL: each check of SDM vol. 2 (protected mode) taken and passed; call gates: vol. 3, 5.8.3 to 5.8.5.
#include "unit/runtime/system_fixture.h"

namespace ring3::test {
namespace {

constexpr u32 call_gate32 = 0x8C, call_gate16 = 0x84, dpl3 = 0x60;

class FarTransferTest : public SystemTest {
 protected:
  Flow jump(u16 selector, u32 offset) { return run(direct(0xEA, selector, offset)); }
  Flow call(u16 selector, u32 offset) { return run(direct(0x9A, selector, offset)); }
  void both_fault(u16 selector, Vector vector, u32 error) {
    expect_fault(direct(0xEA, selector, 0x7000), vector, error);
    expect_fault(direct(0x9A, selector, 0x7000), vector, error);
  }
  static std::vector<u8> direct(u8 opcode, u16 selector, u32 offset) {
    return {opcode,
            static_cast<u8>(offset),
            static_cast<u8>(offset >> 8),
            static_cast<u8>(offset >> 16),
            static_cast<u8>(offset >> 24),
            static_cast<u8>(selector),
            static_cast<u8>(selector >> 8)};
  }
};

TEST_F(FarTransferTest, DirectJump) {
  set_gdt(spare, make_segment(0x1000, 0x7000, 0x9A, 4));
  ASSERT_EQ(jump(spare, 0x7000), Flow::jumped);
  EXPECT_EQ(s.eip, 0x7000u);
  EXPECT_EQ(s.segment(Seg::cs), (SegmentCache{spare, 0x409B, 0x1000, 0x7000}));
  EXPECT_EQ(access_byte(spare), 0x9B);
  EXPECT_EQ(s.gpr[esp], kernel_stack);
}

TEST_F(FarTransferTest, DirectCallPushesZeroExtendedCs) {
  put32(kernel_stack - 4, 0xEEEEEEEE);
  ASSERT_EQ(call(kernel_cs, 0x7000), Flow::jumped);
  EXPECT_EQ(s.gpr[esp], kernel_stack - 8);
  EXPECT_EQ(get32(kernel_stack - 4), u32{kernel_cs});
  EXPECT_EQ(get32(kernel_stack - 8), code_at + 7);
}

TEST_F(FarTransferTest, MemoryOperandsAndSixteenBits) {
  put32(0x10000, 0x00007000);
  put16(0x10004, kernel_cs);
  s.gpr[esi] = 0x10000;
  ASSERT_EQ(run({0xFF, 0x2E}), Flow::jumped);  // jmp far [esi]
  EXPECT_EQ(s.eip, 0x7000u);
  ASSERT_EQ(run({0xFF, 0x1E}), Flow::jumped);  // call far [esi]
  EXPECT_EQ(get32(kernel_stack - 8), 0x7002u);
  put16(0x10002, kernel_cs);
  s.gpr[esp] = kernel_stack;
  s.eip = 0x6000;
  ASSERT_EQ(run({0x66, 0xFF, 0x1E}), Flow::jumped);
  EXPECT_EQ(s.gpr[esp], kernel_stack - 4);
  EXPECT_EQ(get32(kernel_stack - 4), (u32{kernel_cs} << 16) | 0x6003);
}

TEST_F(FarTransferTest, SelectorChecks) {
  both_fault(0, Vector::general_protection, 0);
  both_fault(3, Vector::general_protection, 0);
  both_fault(beyond, Vector::general_protection, beyond);
  both_fault(kernel_ss, Vector::general_protection, kernel_ss);       // data
  both_fault(kernel_cs | 1, Vector::general_protection, kernel_cs);   // RPL > CPL
  both_fault(user_cs, Vector::general_protection, user_cs & 0xFFFC);  // DPL > CPL
  set_ring(3);
  both_fault(kernel_cs, Vector::general_protection, kernel_cs);  // DPL < CPL
  EXPECT_EQ(jump(user_cs & 0xFFFC, 0x7000), Flow::jumped);       // RPL 0 is no hindrance
  EXPECT_EQ(s.segment(Seg::cs).selector, user_cs);
}

TEST_F(FarTransferTest, ConformingCode) {
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x9F, flags32));
  set_ring(3);
  ASSERT_EQ(jump(spare, 0x7000), Flow::jumped);
  EXPECT_EQ(s.cpl, 3);
  EXPECT_EQ(s.segment(Seg::cs).selector, spare | 3);
  ASSERT_EQ(call(spare | 1, 0x7000), Flow::jumped);
  EXPECT_EQ(s.segment(Seg::cs).selector, spare | 3);
  set_gdt(spare, make_segment(0, 0xFFFFF, 0xFF, flags32));
  set_ring(0);
  both_fault(spare, Vector::general_protection, spare);  // DPL > CPL
}

TEST_F(FarTransferTest, PresenceAndLimit) {
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x1B, flags32));
  both_fault(spare, Vector::not_present, spare);
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x1F, flags32));
  both_fault(spare, Vector::not_present, spare);
  set_gdt(spare, make_segment(0, 0x6FFF, 0x9B, 4));
  both_fault(spare, Vector::general_protection, 0);
}

// The order is an Intel CPU's: the manual would compare EIP first.
TEST_F(FarTransferTest, CallPushesBeforeItComparesEip) {
  set_gdt(spare, make_segment(0, 0x6FFF, 0x9A, 4));
  put32(kernel_stack - 8, 0xEEEEEEEE);
  expect_fault(direct(0x9A, spare, 0x7000), Vector::general_protection, 0);
  EXPECT_EQ(get32(kernel_stack - 8), code_at + 7);
  EXPECT_EQ(access_byte(spare), 0x9A);
  enable_paging(kernel_stack - page_size);
  s.gpr[esp] = kernel_stack & ~page_mask;
  expect_fault(direct(0x9A, spare, 0x7000), Vector::page, 2);
}

TEST_F(FarTransferTest, CallNeedsStackForBothItems) {
  s.segment(Seg::ss) = {kernel_ss, 0x4097, 0, kernel_stack - 8};
  put32(kernel_stack - 4, 0xEEEEEEEE);
  expect_fault(direct(0x9A, kernel_cs, 0x7000), Vector::stack, 0);
  EXPECT_EQ(get32(kernel_stack - 4), u32{kernel_cs}) << "CS was pushed before EIP found no room";
  s.segment(Seg::ss).limit = kernel_stack - 9;
  EXPECT_EQ(call(kernel_cs, 0x7000), Flow::jumped);
}

TEST_F(FarTransferTest, GateChecks) {
  set_ring(3);
  set_gdt(spare, make_gate(kernel_cs, 0x7000, call_gate32));  // gate DPL 0 < CPL
  both_fault(spare, Vector::general_protection, spare);
  set_ring(0);
  both_fault(spare | 3, Vector::general_protection, spare);  // gate DPL < RPL
  set_gdt(spare, make_gate(kernel_cs, 0x7000, call_gate32 & ~0x80u));
  both_fault(spare, Vector::not_present, spare);
  set_gdt(spare, make_gate(3, 0x7000, call_gate32));
  both_fault(spare, Vector::general_protection, 0);
  set_gdt(spare, make_gate(beyond | 3, 0x7000, call_gate32));
  both_fault(spare, Vector::general_protection, beyond);
  set_gdt(spare, make_gate(kernel_ss, 0x7000, call_gate32));
  both_fault(spare, Vector::general_protection, kernel_ss);
  set_gdt(spare, make_gate(user_cs, 0x7000, call_gate32));  // more privileged than its target
  both_fault(spare, Vector::general_protection, user_cs & 0xFFFC);
  set_gdt(0x40, make_segment(0, 0xFFFFF, 0x1B, flags32));
  set_gdt(spare, make_gate(0x40, 0x7000, call_gate32));
  both_fault(spare, Vector::not_present, 0x40);
  set_gdt(0x40, make_segment(0, 0x6FFF, 0x9B, 4));
  both_fault(spare, Vector::general_protection, 0);
  for (const u32 type : {0x80u, 0x82u, 0x83u, 0x86u, 0x87u, 0x88u, 0x8Au, 0x8Bu, 0x8Du, 0x8Eu, 0x8Fu}) {
    set_gdt(spare, make_gate(kernel_cs, 0x7000, type));
    both_fault(spare, Vector::general_protection, spare);
  }
}

TEST_F(FarTransferTest, GateInTheSameRing) {
  set_gdt(spare, make_gate(kernel_cs | 3, 0x12345678, call_gate32, 3));
  ASSERT_EQ(jump(spare, 0xFFFFFFFF), Flow::jumped) << "the instruction's offset is ignored";
  EXPECT_EQ(s.eip, 0x12345678u);
  EXPECT_EQ(s.segment(Seg::cs).selector, kernel_cs);
  s.eip = code_at;
  ASSERT_EQ(call(spare, 0), Flow::jumped);
  EXPECT_EQ(s.gpr[esp], kernel_stack - 8) << "no parameters without a stack switch";
  set_gdt(spare, make_gate(kernel_cs, 0x12345678, call_gate16));
  s.eip = 0x6000;
  s.gpr[esp] = kernel_stack;
  ASSERT_EQ(call(spare, 0), Flow::jumped);
  EXPECT_EQ(s.eip, 0x5678u);
  EXPECT_EQ(s.gpr[esp], kernel_stack - 4);
  EXPECT_EQ(get32(kernel_stack - 4), (u32{kernel_cs} << 16) | 0x6007);
}

TEST_F(FarTransferTest, JumpThroughAGateCannotChangeTheRing) {
  set_ring(3);
  set_gdt(spare, make_gate(kernel_cs, 0x7000, call_gate32 | dpl3));
  expect_fault(direct(0xEA, spare, 0), Vector::general_protection, kernel_cs);
}

TEST_F(FarTransferTest, GateToTheInnerRingCopiesParameters) {
  set_ring(3);
  set_gdt(spare, make_gate(kernel_cs, 0x7000, call_gate32 | dpl3, 3));
  for (u32 i = 0; i < 4; ++i) put32(user_stack + 4 * i, 0xA0 + i);
  ASSERT_EQ(call(spare | 3, 0), Flow::jumped);
  EXPECT_EQ(s.cpl, 0);
  EXPECT_EQ(s.eip, 0x7000u);
  EXPECT_EQ(s.segment(Seg::cs).selector, kernel_cs);
  EXPECT_EQ(s.segment(Seg::ss).selector, kernel_ss);
  EXPECT_EQ(s.gpr[esp], inner_stack - 28);
  const u32 expected[] = {code_at + 7, user_cs, 0xA0, 0xA1, 0xA2, user_stack, user_ss};
  for (u32 i = 0; i < 7; ++i) EXPECT_EQ(get32(s.gpr[esp] + 4 * i), expected[i]) << i;
}

TEST_F(FarTransferTest, SixteenBitGateToTheInnerRing) {
  set_ring(3);
  set_gdt(spare, make_gate(kernel_cs, 0x7000, call_gate16 | dpl3, 1));
  put16(user_stack, 0xA0);
  ASSERT_EQ(call(spare | 3, 0), Flow::jumped);
  EXPECT_EQ(s.gpr[esp], inner_stack - 10);
  const u16 expected[] = {code_at + 7, user_cs, 0xA0, user_stack, user_ss};
  for (u32 i = 0; i < 5; ++i) EXPECT_EQ(get16(s.gpr[esp] + 2 * i), expected[i]) << i;
}

TEST_F(FarTransferTest, InnerStackChecks) {
  set_ring(3);
  set_gdt(spare, make_gate(kernel_cs, 0x7000, call_gate32 | dpl3, 2));
  const auto with_ss0 = [&](u16 selector, Vector vector, u32 error) {
    put32(tss + 8, selector);
    expect_fault(direct(0x9A, spare | 3, 0), vector, error);
  };
  with_ss0(0, Vector::invalid_tss, 0);
  with_ss0(beyond, Vector::invalid_tss, beyond);
  with_ss0(kernel_ss | 3, Vector::invalid_tss, kernel_ss);
  with_ss0(kernel_cs, Vector::invalid_tss, kernel_cs);
  set_gdt(0x40, make_segment(0, 0xFFFFF, 0x13, flags32));
  with_ss0(0x40, Vector::stack, 0x40);
  set_gdt(0x40, make_segment(0, inner_stack - 24, 0x97, 4));  // room for 16 bytes and two parameters needed
  with_ss0(0x40, Vector::stack, 0x40);
  set_gdt(0x40, make_segment(0, inner_stack - 25, 0x97, 4));
  s.tr.limit = 8;
  with_ss0(0x40, Vector::invalid_tss, tss_selector);
  s.tr.limit = 9;
  s.segment(Seg::ss).limit = user_stack + 6;  // the second parameter is outside the caller's stack
  with_ss0(0x40, Vector::stack, 0);
  s.segment(Seg::ss).limit = user_stack + 7;
  EXPECT_EQ(call(spare | 3, 0), Flow::jumped);
}

TEST_F(FarTransferTest, TaskSwitchesAreCheckedThenMissing) {
  set_gdt(spare, make_segment(tss, 0x67, 0x89, 0));
  EXPECT_EQ(jump(spare, 0), Flow::missing);
  both_fault(spare | 3, Vector::general_protection, spare);
  set_gdt(spare, make_segment(tss, 0x67, 0x09, 0));
  both_fault(spare, Vector::not_present, spare);
  set_gdt(spare, make_segment(tss, 0x66, 0x89, 0));
  both_fault(spare, Vector::invalid_tss, spare);
  set_gdt(spare, make_segment(tss, 0x67, 0x8B, 0));
  both_fault(spare, Vector::general_protection, spare);
  set_ldt(0x0C, make_segment(tss, 0x67, 0x89, 0));
  both_fault(0x0C, Vector::general_protection, 0x0C);  // a TSS in the LDT
  set_gdt(0x40, make_segment(tss, 0x67, 0x89, 0));
  set_gdt(spare, make_gate(0x40, 0, 0x05));
  both_fault(spare, Vector::not_present, spare);
  set_gdt(spare, make_gate(0x43, 0, 0x85));
  both_fault(spare | 1, Vector::general_protection, spare);
  EXPECT_EQ(call(spare, 0), Flow::missing);
  EXPECT_EQ(jump(spare, 0), Flow::missing);
  set_gdt(0x40, make_segment(tss, 0x67, 0x8B, 0));
  both_fault(spare, Vector::general_protection, 0x40);
  set_gdt(0x40, make_segment(tss, 0x67, 0x09, 0));
  both_fault(spare, Vector::not_present, 0x40);
  s.eflags |= flag::vm;
  EXPECT_EQ(jump(kernel_cs, 0), Flow::missing);
}

}  // namespace
}  // namespace ring3::test
