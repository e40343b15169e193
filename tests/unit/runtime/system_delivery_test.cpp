// Events through gates: each check of SDM vol. 2, INT n ("Operation", protected mode) taken and passed; vol. 3, 6.13 (error codes), 6.15
// (double faults).
#include "unit/runtime/system_fixture.h"

namespace ring3::test {
namespace {

constexpr u32 interrupt32 = 0x8E, trap32 = 0x8F, interrupt16 = 0x86, trap16 = 0x87, task = 0x85, dpl3 = 0x60;
constexpr u32 handler = 0x7000;

class DeliveryTest : public SystemTest {
 protected:
  // The words on the current stack, from ESP up.
  std::vector<u32> frame(unsigned count) {
    std::vector<u32> words;
    for (unsigned i = 0; i < count; ++i) words.push_back(get32(s.segment(Seg::ss).base + s.gpr[esp] + 4 * i));
    return words;
  }
  using Words = std::vector<u32>;
  // int 30h
  Flow int30() { return run({0xCD, 0x30}); }
  void int30_faults(Vector vector, u32 error) { expect_fault({0xCD, 0x30}, vector, error); }
  Delivery deliver(Vector vector, u32 error) {
    v.raise(vector, error);
    return deliver_fault(v);
  }
};

TEST_F(DeliveryTest, InterruptGateInTheSameRing) {
  set_idt(0x30, make_gate(kernel_cs, handler, interrupt32));
  s.eflags = 0x243347;  // CF PF ZF TF IF IOPL=3 AC ID
  const u32 before = s.eflags;
  ASSERT_EQ(int30(), Flow::jumped);
  EXPECT_EQ(s.eip, handler);
  EXPECT_EQ(s.gpr[esp], kernel_stack - 12);
  EXPECT_EQ(frame(3), (Words{code_at + 2, kernel_cs, before}));
  EXPECT_EQ(s.eflags, before & ~(flag::tf | flag::if_ | flag::nt | flag::rf | flag::vm));
  EXPECT_EQ(s.segment(Seg::cs).selector, kernel_cs);
}

TEST_F(DeliveryTest, TrapGateKeepsInterruptsOn) {
  set_idt(0x30, make_gate(kernel_cs, handler, trap32));
  s.eflags = flag::fixed1 | flag::if_ | flag::nt;
  ASSERT_EQ(int30(), Flow::jumped);
  EXPECT_EQ(s.eflags, flag::fixed1 | flag::if_);
  EXPECT_EQ(frame(3)[2], flag::fixed1 | flag::if_ | flag::nt);
}

TEST_F(DeliveryTest, InnerRingTakesTheStackFromTheTss) {
  set_ring(3);
  set_idt(0x30, make_gate(kernel_cs | 3, handler, interrupt32 | dpl3));
  set_gdt(kernel_ss, kernel_data & ~(u64{1} << 40));
  set_gdt(kernel_cs, kernel_code & ~(u64{1} << 40));
  s.eflags = flag::fixed1 | flag::if_;
  const SegmentCache ds = s.segment(Seg::ds);
  ASSERT_EQ(int30(), Flow::jumped);
  EXPECT_EQ(s.cpl, 0);
  EXPECT_EQ(s.segment(Seg::cs), (SegmentCache{kernel_cs, 0xC09B, 0, 0xFFFFFFFF})) << "RPL becomes the new CPL";
  EXPECT_EQ(s.segment(Seg::ss), (SegmentCache{kernel_ss, 0xC093, 0, 0xFFFFFFFF}));
  EXPECT_EQ(s.gpr[esp], inner_stack - 20);
  EXPECT_EQ(frame(5), (Words{code_at + 2, user_cs, flag::fixed1 | flag::if_, user_stack, user_ss}));
  EXPECT_EQ(s.segment(Seg::ds), ds);
  EXPECT_EQ(access_byte(kernel_ss), 0x93);
  EXPECT_EQ(access_byte(kernel_cs), 0x9B);
}

TEST_F(DeliveryTest, InnerRingThroughA16BitTss) {
  set_ring(3);
  set_idt(0x30, make_gate(kernel_cs, handler, interrupt32 | dpl3));
  s.tr = {tss_selector, 0x0083, tss, 0x2B};
  put16(tss + 2, 0x8100);
  put16(tss + 4, kernel_ss);
  ASSERT_EQ(int30(), Flow::jumped);
  EXPECT_EQ(s.gpr[esp], 0x8100u - 20);
  s.tr.limit = 4;  // SS0 ends at byte 5
  set_ring(3);
  int30_faults(Vector::invalid_tss, tss_selector);
}

TEST_F(DeliveryTest, SixteenBitGatePushesWords) {
  set_idt(0x30, make_gate(kernel_cs, 0xABCD7000, trap16));
  s.eip = 0x12346000;
  s.eflags = flag::fixed1 | flag::ac;
  ASSERT_EQ(int30(), Flow::jumped);
  EXPECT_EQ(s.eip, 0x7000u) << "16 bits of offset";
  EXPECT_EQ(s.gpr[esp], kernel_stack - 6);
  EXPECT_EQ(get16(kernel_stack - 2), 2);
  EXPECT_EQ(get16(kernel_stack - 4), kernel_cs);
  EXPECT_EQ(get16(kernel_stack - 6), 0x6002);
  set_idt(13, make_gate(kernel_cs, handler, interrupt16));
  s.gpr[esp] = kernel_stack;
  ASSERT_EQ(deliver(Vector::general_protection, 0x12345678), Delivery::done);
  EXPECT_EQ(s.gpr[esp], kernel_stack - 8);
  EXPECT_EQ(get16(kernel_stack - 8), 0x5678);
}

TEST_F(DeliveryTest, SixteenBitStackWrapsAndKeepsTheUpperHalfOfEsp) {
  set_idt(0x30, make_gate(kernel_cs, handler, trap32));
  s.segment(Seg::ss) = {kernel_ss, 0x0093, 0x10000, 0xFFFF};
  s.gpr[esp] = 0xABCD0004;
  ASSERT_EQ(int30(), Flow::jumped);
  EXPECT_EQ(s.gpr[esp], 0xABCDFFF8u);
  EXPECT_EQ(get32(0x10000), flag::fixed1);
  EXPECT_EQ(get32(0x1FFFC), u32{kernel_cs});
  EXPECT_EQ(get32(0x1FFF8), code_at + 2);
}

TEST_F(DeliveryTest, ConformingHandlerKeepsTheRing) {
  set_ring(3);
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x9E, flags32));
  set_idt(0x30, make_gate(spare, handler, interrupt32 | dpl3));
  ASSERT_EQ(int30(), Flow::jumped);
  EXPECT_EQ(s.cpl, 3);
  EXPECT_EQ(s.segment(Seg::cs).selector, spare | 3);
  EXPECT_EQ(s.gpr[esp], user_stack - 12);
}

TEST_F(DeliveryTest, GateChecks) {
  s.idtr.limit = 0x30 * 8 + 6;
  int30_faults(Vector::general_protection, 0x30 * 8 + 2);
  s.idtr.limit = 0x30 * 8 + 7;
  for (const u32 type : {0x80u, 0x81u, 0x82u, 0x83u, 0x84u, 0x88u, 0x89u, 0x8Au, 0x8Bu, 0x8Cu, 0x8Du, 0x9Eu}) {
    set_idt(0x30, make_gate(kernel_cs, handler, type));
    int30_faults(Vector::general_protection, 0x30 * 8 + 2);
  }
  set_idt(0x30, make_gate(kernel_cs, handler, interrupt32 & ~0x80u));
  int30_faults(Vector::not_present, 0x30 * 8 + 2);
  set_ring(3);
  set_idt(0x30, make_gate(kernel_cs, handler, interrupt32 & ~0x80u));
  int30_faults(Vector::general_protection, 0x30 * 8 + 2);  // DPL before presence
  set_idt(3, make_gate(kernel_cs, handler, interrupt32));
  expect_fault({0xCC}, Vector::general_protection, 3 * 8 + 2);
}

TEST_F(DeliveryTest, HandlerSegmentChecks) {
  set_idt(0x30, make_gate(3, handler, interrupt32));
  int30_faults(Vector::general_protection, 0);
  set_idt(0x30, make_gate(beyond, handler, interrupt32));
  int30_faults(Vector::general_protection, beyond);
  set_idt(0x30, make_gate(kernel_ss | 1, handler, interrupt32));
  int30_faults(Vector::general_protection, kernel_ss);
  set_idt(0x30, make_gate(user_cs, handler, interrupt32));  // DPL > CPL
  int30_faults(Vector::general_protection, user_cs & 0xFFFC);
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x1B, flags32));
  set_idt(0x30, make_gate(spare, handler, interrupt32));
  int30_faults(Vector::not_present, spare);
  set_gdt(spare, make_segment(0, handler - 1, 0x9B, 4));
  int30_faults(Vector::general_protection, 0);  // target outside the limit
  set_gdt(spare, make_segment(0, handler, 0x9B, 4));
  EXPECT_EQ(int30(), Flow::jumped);
}

TEST_F(DeliveryTest, StackRoomInTheSameRing) {
  set_idt(0x30, make_gate(kernel_cs, handler, interrupt32));
  s.segment(Seg::ss) = {kernel_ss, 0x4097, 0, kernel_stack - 12};  // expand-down: one byte too few
  int30_faults(Vector::stack, 0);
  s.segment(Seg::ss).limit = kernel_stack - 13;
  EXPECT_EQ(int30(), Flow::jumped);
}

TEST_F(DeliveryTest, InnerStackChecks) {
  set_ring(3);
  set_idt(0x30, make_gate(kernel_cs, handler, interrupt32 | dpl3));
  const auto with_ss0 = [&](u16 selector, Vector vector, u32 error) {
    put32(tss + 8, selector);
    int30_faults(vector, error);
  };
  with_ss0(0, Vector::invalid_tss, 0);
  with_ss0(beyond, Vector::invalid_tss, beyond);
  with_ss0(kernel_ss | 1, Vector::invalid_tss, kernel_ss);            // RPL
  with_ss0(user_ss & 0xFFFC, Vector::invalid_tss, user_ss & 0xFFFC);  // DPL
  with_ss0(kernel_cs, Vector::invalid_tss, kernel_cs);                // type
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x91, flags32));
  with_ss0(spare, Vector::invalid_tss, spare);  // not writable
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x13, flags32));
  with_ss0(spare, Vector::stack, spare);  // absent
  set_gdt(spare, make_segment(0, inner_stack - 20, 0x97, 4));
  with_ss0(spare, Vector::stack, spare);  // no room
  set_gdt(spare, make_segment(0, inner_stack - 21, 0x97, 4));
  s.tr.limit = 8;  // SS0 ends at byte 9
  with_ss0(spare, Vector::invalid_tss, tss_selector);
  s.tr.limit = 9;
  EXPECT_EQ(int30(), Flow::jumped);
}

TEST_F(DeliveryTest, PageFaultOnTheInnerStackChangesNothing) {
  enable_paging(inner_stack);
  set_ring(3);
  set_idt(0x30, make_gate(kernel_cs, handler, interrupt32 | dpl3));
  put32(tss + 4, inner_stack + 8);  // two items on the absent page, the rest on the present one below
  int30_faults(Vector::page, 2);    // write by supervisor, not present
  EXPECT_EQ(v.fault.address & ~0xFFFu, inner_stack);
  EXPECT_EQ(get32(inner_stack - 4), 0u) << "nothing was pushed on the page that is there";
}

TEST_F(DeliveryTest, FaultPushesErrorCodeAndRf) {
  set_idt(13, make_gate(kernel_cs, handler, interrupt32));
  ASSERT_EQ(deliver(Vector::general_protection, 0x1234), Delivery::done);
  EXPECT_EQ(frame(4), (Words{0x1234, code_at, kernel_cs, flag::fixed1 | flag::rf}));
  EXPECT_EQ(s.eflags & flag::rf, 0u);
  set_ring(3);
  s.eip = code_at;
  ASSERT_EQ(deliver(Vector::general_protection, 0), Delivery::done);  // the gate's DPL 0 does not matter
  EXPECT_EQ(frame(6), (Words{0, code_at, user_cs, flag::fixed1 | flag::rf, user_stack, user_ss}));
}

TEST_F(DeliveryTest, InterruptAndDebugTrapDoNotPushRf) {
  set_idt(0x20, make_gate(kernel_cs, handler, interrupt32));
  set_idt(1, make_gate(kernel_cs, handler, interrupt32));
  s.halted = true;
  s.shadow = Shadow::sti;
  ASSERT_EQ(deliver_interrupt(v, 0x20), Delivery::done);
  EXPECT_EQ(frame(3), (Words{code_at, kernel_cs, flag::fixed1}));
  EXPECT_FALSE(s.halted);
  EXPECT_EQ(s.shadow, Shadow::none);
  s.dr[7] |= 1u << 13;
  v.raise(Vector::debug);
  ASSERT_EQ(deliver_fault(v), Delivery::done);
  EXPECT_EQ(frame(3)[2], flag::fixed1);
  EXPECT_EQ(s.dr[7], 0x400u) << "GD is cleared for the handler";
}

TEST_F(DeliveryTest, ErrorCodesOfNestedFaultsHaveExt) {
  set_idt(11, make_gate(kernel_cs, handler, interrupt32));
  set_idt(0x20, make_gate(kernel_cs, handler, interrupt32 & ~0x80u));
  ASSERT_EQ(deliver_interrupt(v, 0x20), Delivery::done);
  EXPECT_EQ(frame(1)[0], 0x20u * 8 + 3);  // IDT and EXT
  set_idt(0x20, make_gate(spare, handler, interrupt32));
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x1B, flags32));
  ASSERT_EQ(deliver_interrupt(v, 0x20), Delivery::done);
  EXPECT_EQ(frame(1)[0], u32{spare} + 1);
  set_idt(1, make_gate(spare, handler, interrupt32));
  expect_fault({0xF1}, Vector::not_present, spare + 1);  // INT1 counts as external
  expect_fault({0xCD, 0x01}, Vector::not_present, spare);
}

TEST_F(DeliveryTest, Int1IgnoresTheGatesDpl) {
  set_ring(3);
  set_idt(1, make_gate(kernel_cs, handler, interrupt32));
  expect_fault({0xCD, 0x01}, Vector::general_protection, 1 * 8 + 2);
  ASSERT_EQ(run({0xF1}), Flow::jumped);
  EXPECT_EQ(frame(1)[0], code_at + 1);
}

TEST_F(DeliveryTest, IntoAndInt3) {
  set_idt(4, make_gate(kernel_cs, handler, interrupt32));
  EXPECT_EQ(run({0xCE}), Flow::next);
  s.eflags |= flag::of;
  ASSERT_EQ(run({0xCE}), Flow::jumped);
  EXPECT_EQ(frame(1)[0], code_at + 1);
  set_idt(3, make_gate(kernel_cs, handler, trap32));
  ASSERT_EQ(run({0xCC}), Flow::jumped);
  EXPECT_EQ(frame(1)[0], handler + 1);
}

TEST_F(DeliveryTest, PageFaultLoadsCr2) {
  set_idt(14, make_gate(kernel_cs, handler, interrupt32));
  v.fault = {Vector::page, true, 6, 0xDEADB000};
  ASSERT_EQ(deliver_fault(v), Delivery::done);
  EXPECT_EQ(s.cr2, 0xDEADB000u);
  EXPECT_EQ(frame(1)[0], 6u);
}

// SDM vol. 3, table 6-5. Every gate but #DF's (and, where named, the second's) is absent, so that delivering `first` raises #NP.
TEST_F(DeliveryTest, DoubleFaultClasses) {
  struct Case {
    Vector first;
    bool doubles;  // with a contributory second fault
  };
  for (const Case& c : {Case{Vector::divide, true},
                        {Vector::debug, false},
                        {Vector::breakpoint, false},
                        {Vector::overflow, false},
                        {Vector::bound, false},
                        {Vector::invalid_opcode, false},
                        {Vector::device_not_available, false},
                        {Vector::invalid_tss, true},
                        {Vector::stack, true},
                        {Vector::general_protection, true},
                        {Vector::page, true},
                        {Vector::x87, false},
                        {Vector::alignment, false},
                        {Vector::simd, false}}) {
    set_idt(static_cast<u8>(c.first), make_gate(kernel_cs, handler, interrupt32 & ~0x80u));
    set_idt(11, make_gate(kernel_cs, handler + 0x100, interrupt32));
    set_idt(8, make_gate(kernel_cs, handler + 0x200, interrupt32));
    s.gpr[esp] = kernel_stack;
    s.eip = code_at;
    v.fault = {c.first, false, 0, 0};
    ASSERT_EQ(deliver_fault(v), Delivery::done);
    EXPECT_EQ(s.eip, c.doubles ? handler + 0x200 : handler + 0x100) << static_cast<int>(c.first);
    EXPECT_EQ(frame(2), c.doubles ? (Words{0, code_at}) : (Words{static_cast<u32>(c.first) * 8 + 3, code_at}));
  }
}

TEST_F(DeliveryTest, PageFaultAsSecond) {
  enable_paging(inner_stack);
  set_idt(13, make_gate(kernel_cs, handler, interrupt32));
  set_idt(14, make_gate(kernel_cs, handler + 0x100, interrupt32));
  set_idt(8, make_gate(kernel_cs, handler + 0x200, interrupt32));
  // #GP then #PF is handled serially, but the same stack faults again: #PF then #PF is a double fault, whose stack faults: shutdown.
  s.gpr[esp] = inner_stack + 0x100;
  EXPECT_EQ(deliver(Vector::general_protection, 0), Delivery::triple_fault);
  EXPECT_EQ(s.cr2 & ~0xFFFu, inner_stack);
  // The gates from #GP's on lie on an absent page: #GP, then #PF, then #PF again while that is delivered: #DF.
  s.gpr[esp] = kernel_stack;
  s.eip = code_at;
  s.idtr.base = inner_stack - 13 * 8 - 4;
  put64(s.idtr.base + 8 * 8, make_gate(kernel_cs, handler + 0x200, interrupt32));
  EXPECT_EQ(deliver(Vector::general_protection, 0), Delivery::done);
  EXPECT_EQ(s.eip, handler + 0x200);
}

TEST_F(DeliveryTest, GeneralProtectionThenPageFaultIsServed) {
  enable_paging(ldt);
  set_idt(13, make_gate(0x0C, handler, interrupt32));  // code segment in the LDT, whose page is absent
  set_idt(14, make_gate(kernel_cs, handler + 0x100, interrupt32));
  ASSERT_EQ(deliver(Vector::general_protection, 0x77), Delivery::done);
  EXPECT_EQ(s.eip, handler + 0x100);
  EXPECT_EQ(s.cr2, ldt + 8);
  EXPECT_EQ(frame(2), (Words{0, code_at})) << "#PF's error code: read, supervisor, not present";
  // #PF then #PF: double fault.
  set_idt(14, make_gate(0x0C, handler, interrupt32));
  set_idt(8, make_gate(kernel_cs, handler + 0x200, interrupt32));
  v.fault = {Vector::page, true, 2, 0x12345678};
  ASSERT_EQ(deliver_fault(v), Delivery::done);
  EXPECT_EQ(s.eip, handler + 0x200);
  EXPECT_EQ(s.cr2, ldt + 8);
}

TEST_F(DeliveryTest, TripleFault) {
  s.idtr.limit = 0;
  EXPECT_EQ(deliver(Vector::general_protection, 0), Delivery::triple_fault);
  v.raise(Vector::invalid_opcode);
  EXPECT_EQ(deliver_fault(v), Delivery::triple_fault);
  EXPECT_EQ(deliver_interrupt(v, 0x20), Delivery::triple_fault);
}

TEST_F(DeliveryTest, TaskGatesAreCheckedThenMissing) {
  const auto through = [&](u16 selector, u64 descriptor, Vector vector, u32 error) {
    set_idt(0x30, make_gate(selector, 0, task));
    set_idt(6, make_gate(selector, 0, task));
    set_gdt(0x40, descriptor);
    int30_faults(vector, error);
    // #UD becomes what its task gate makes of it, and that goes through a good gate.
    for (const u8 good : {u8{10}, u8{11}, u8{13}}) set_idt(good, make_gate(kernel_cs, handler + good, interrupt32));
    v.raise(Vector::invalid_opcode);
    const u32 top = s.gpr[esp];
    ASSERT_EQ(deliver_fault(v), Delivery::done);
    EXPECT_EQ(s.eip, handler + static_cast<u32>(vector));
    EXPECT_EQ(get32(top - 16), error + 1) << "EXT";
    s.gpr[esp] = top;
  };
  const u64 good = make_segment(tss, 0x67, 0x89, 0);
  through(0, good, Vector::general_protection, 0);
  through(3, good, Vector::general_protection, 0);
  through(0x44, good, Vector::general_protection, 0x44);  // in the LDT
  through(beyond, good, Vector::general_protection, beyond);
  for (const u32 type : {0x80u, 0x82u, 0x83u, 0x84u, 0x85u, 0x8Bu, 0x8Cu, 0x8Eu, 0x91u, 0x99u}) {
    through(0x43, make_segment(tss, 0x67, type, 0), Vector::general_protection, 0x40);
  }
  through(0x40, make_segment(tss, 0x67, 0x09, 0), Vector::not_present, 0x40);
  through(0x40, make_segment(tss, 0x66, 0x89, 0), Vector::invalid_tss, 0x40);
  through(0x40, make_segment(tss, 0x2A, 0x81, 0), Vector::invalid_tss, 0x40);
  for (const u64 passes : {good, make_segment(tss, 0x2B, 0x81, 0)}) {
    set_gdt(0x40, passes);
    EXPECT_EQ(int30(), Flow::missing);
    EXPECT_EQ(access_byte(0x40), passes >> 40 & 0xFF);
  }
}

TEST_F(DeliveryTest, OtherModesAreMissing) {
  set_gdt(0x40, make_segment(tss, 0x67, 0x89, 0));
  set_idt(13, make_gate(0x40, 0, task));
  EXPECT_EQ(deliver(Vector::general_protection, 0), Delivery::missing);
  EXPECT_FALSE(v.missing.empty());
  s.eflags |= flag::vm;
  EXPECT_EQ(deliver_interrupt(v, 0x20), Delivery::missing);
  s.eflags &= ~flag::vm;
  s.cr0 &= ~cr0::pe;
  EXPECT_EQ(deliver_interrupt(v, 0x20), Delivery::missing);
}

}  // namespace
}  // namespace ring3::test
