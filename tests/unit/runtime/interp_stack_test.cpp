// Stack, flag and near control instructions (SDM vol. 2).
#include "interp_fixture.h"

namespace ring3::test {
namespace {

class InterpStack : public InterpTest {
 protected:
  // A 16-bit stack segment, so that SP alone points.
  void small_stack() { cpu.segment(Seg::ss) = {0x18, 0x0093, 0, 0xFFFF}; }
};

TEST_F(InterpStack, PushEspPushesTheOldValue) {
  ASSERT_EQ(run({0x54}), Flow::next);
  EXPECT_EQ(cpu.gpr[esp], stack_at - 4);
  EXPECT_EQ(get(stack_at - 4), stack_at);
  // push dword [esp]: the address is taken before the decrement
  ASSERT_EQ(run({0xFF, 0x34, 0x24}), Flow::next);
  EXPECT_EQ(get(stack_at - 8), stack_at);
}

TEST_F(InterpStack, PopSeesTheIncrementedPointer) {
  put(stack_at, 0x1111);
  put(stack_at + 4, 0);
  ASSERT_EQ(run({0x8F, 0x04, 0x24}), Flow::next);  // pop dword [esp]
  EXPECT_EQ(get(stack_at + 4), 0x1111u);
  EXPECT_EQ(cpu.gpr[esp], stack_at + 4);
  ASSERT_EQ(run({0x5C}), Flow::next);  // pop esp
  EXPECT_EQ(cpu.gpr[esp], 0x1111u);
  cpu.gpr[esp] = stack_at;
  put(stack_at, 0xBEEF, 2);
  ASSERT_EQ(run({0x66, 0x5C}), Flow::next);  // pop sp: upper half from the incremented pointer
  EXPECT_EQ(cpu.gpr[esp], 0x3BEEFu);
}

TEST_F(InterpStack, PopThatCannotStoreLeavesThePointer) {
  enable_paging();
  set_page(data_at, 0);
  cpu.gpr[ebx] = data_at;
  expect_page_fault(run({0x8F, 0x03}), data_at, pf_error::write);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
}

TEST_F(InterpStack, PushThatCannotStoreLeavesThePointer) {
  enable_paging();
  set_page(stack_at - 0x1000, 0);
  expect_page_fault(run({0x50}), stack_at - 4, pf_error::write);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
  expect_page_fault(run({0x60}), stack_at - 4, pf_error::write);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
}

TEST_F(InterpStack, OperandSizeAndStackSizeAreIndependent) {
  ASSERT_EQ(run({0x66, 0x6A, 0xFF}), Flow::next);
  EXPECT_EQ(cpu.gpr[esp], stack_at - 2);
  EXPECT_EQ(get(stack_at - 2, 2), 0xFFFFu);
  small_stack();
  cpu.gpr[esp] = 0xABCD0002;
  ASSERT_EQ(run({0x66, 0x50}), Flow::next);
  EXPECT_EQ(cpu.gpr[esp], 0xABCD0000u);
  ASSERT_EQ(run({0x66, 0x50}), Flow::next) << "SP wraps round 64 KiB";
  EXPECT_EQ(cpu.gpr[esp], 0xABCDFFFEu);
}

TEST_F(InterpStack, StackLimitFaultsWithStackVector) {
  small_stack();
  cpu.segment(Seg::ss).limit = 0x0FFF;
  cpu.gpr[esp] = 0x1002;
  expect_fault(run({0x50}), Vector::stack);  // bytes FFEh to 1001h
  EXPECT_TRUE(v.fault.has_error_code);
  EXPECT_EQ(v.fault.error_code, 0u);
  EXPECT_EQ(cpu.gpr[esp], 0x1002u);
}

TEST_F(InterpStack, PushaAndPopa) {
  cpu.gpr = {0xA0, 0xA1, 0xA2, 0xA3, stack_at, 0xA5, 0xA6, 0xA7};
  ASSERT_EQ(run({0x60}), Flow::next);
  EXPECT_EQ(cpu.gpr[esp], stack_at - 32);
  EXPECT_EQ(get(stack_at - 4), 0xA0u);
  EXPECT_EQ(get(stack_at - 20), stack_at);
  EXPECT_EQ(get(stack_at - 32), 0xA7u);
  const auto saved = cpu.gpr;
  cpu.gpr = {0, 0, 0, 0, saved[esp], 0, 0, 0};
  put(stack_at - 20, 0xDEAD);
  ASSERT_EQ(run({0x61}), Flow::next);
  EXPECT_EQ(cpu.gpr[esp], stack_at) << "POPA skips ESP's image";
  EXPECT_EQ(cpu.gpr[edi], 0xA7u);
  EXPECT_EQ(cpu.gpr[eax], 0xA0u);
}

TEST_F(InterpStack, EnterCopiesTheDisplay) {
  // Three levels: old EBP, two entries of the outer display, the new frame's own address (SDM vol. 2, ENTER).
  const u32 outer = stack_at + 0x100;
  cpu.gpr[ebp] = outer;
  put(outer - 4, 0x111);
  put(outer - 8, 0x222);
  ASSERT_EQ(run({0xC8, 0x10, 0x00, 3}), Flow::next);
  EXPECT_EQ(get(stack_at - 4), outer);
  EXPECT_EQ(get(stack_at - 8), 0x111u);
  EXPECT_EQ(get(stack_at - 12), 0x222u);
  EXPECT_EQ(get(stack_at - 16), stack_at - 4);
  EXPECT_EQ(cpu.gpr[ebp], stack_at - 4);
  EXPECT_EQ(cpu.gpr[esp], stack_at - 16 - 16);
  ASSERT_EQ(run({0xC9}), Flow::next);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
  EXPECT_EQ(cpu.gpr[ebp], outer);
}

TEST_F(InterpStack, EnterLevelOneAndLevelModulo32) {
  cpu.gpr[ebp] = 0x7777;
  ASSERT_EQ(run({0xC8, 0, 0, 33}), Flow::next);
  EXPECT_EQ(get(stack_at - 8), stack_at - 4);
  EXPECT_EQ(cpu.gpr[esp], stack_at - 8);
}

TEST_F(InterpStack, EnterFaultsWhereItsFinalPointerCannotBeWritten) {
  enable_paging();
  set_page(stack_at - 0x2000, 0);
  cpu.gpr[ebp] = 0x7777;
  expect_page_fault(run({0xC8, 0x00, 0x10, 0}), stack_at - 4 - 0x1000, pf_error::write);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
  EXPECT_EQ(cpu.gpr[ebp], 0x7777u);
}

TEST_F(InterpStack, LeaveThatCannotLoadLeavesEverything) {
  enable_paging();
  set_page(data_at, 0);
  cpu.gpr[ebp] = data_at;
  expect_page_fault(run({0xC9}), data_at, 0);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
  EXPECT_EQ(cpu.gpr[ebp], data_at);
}

TEST_F(InterpStack, PushfHidesRfAndVm) {
  cpu.eflags = flag::fixed1 | flag::rf | flag::ac | flag::if_ | flag::cf;
  ASSERT_EQ(run({0x9C}), Flow::next);
  EXPECT_EQ(get(stack_at - 4), flag::fixed1 | flag::ac | flag::if_ | flag::cf);
}

TEST_F(InterpStack, PopfRules) {
  constexpr u32 everything = 0xFFFFFFFF;
  constexpr u32 always = flag::status | flag::tf | flag::df | flag::nt | flag::ac | flag::id;
  struct Case {
    u8 cpl;
    u32 iopl;
    u32 before, image, after;
  };
  const Case cases[] = {
      // CPL 0: all but VM, VIF, VIP; RF is cleared.
      {0, 0, flag::rf, everything, always | flag::if_ | flag::iopl},
      {0, 3, flag::if_ | flag::vif | flag::vip, 0, flag::vif | flag::vip},
      // CPL <= IOPL: IF yes, IOPL no.
      {3, 3, 0, everything, always | flag::if_ | flag::iopl},
      {1, 2, flag::if_, 0, 2u << 12},
      // CPL > IOPL: neither, and no fault.
      {3, 0, flag::if_, everything & ~flag::if_, always | flag::if_},
      {3, 1, 0, everything, always | (1u << 12)},
  };
  for (const Case& c : cases) {
    cpu.cpl = c.cpl;
    cpu.gpr[esp] = stack_at;
    cpu.eflags = c.before | flag::fixed1 | (c.iopl << 12);
    put(stack_at, c.image);
    ASSERT_EQ(run({0x9D}), Flow::next);
    EXPECT_EQ(cpu.eflags, c.after | flag::fixed1) << int{c.cpl} << ' ' << c.iopl << std::hex << ' ' << c.image;
    EXPECT_EQ(cpu.shadow, Shadow::none);
  }
  // The 16-bit form leaves AC and ID.
  cpu.cpl = 0;
  cpu.gpr[esp] = stack_at;
  cpu.eflags = flag::fixed1 | flag::id;
  put(stack_at, flag::cf | flag::ac);
  ASSERT_EQ(run({0x66, 0x9D}), Flow::next);
  EXPECT_EQ(cpu.eflags, flag::fixed1 | flag::id | flag::cf);
}

TEST_F(InterpStack, CliAndStiObeyIopl) {
  ASSERT_EQ(run({0xFB}), Flow::next);
  EXPECT_EQ(cpu.eflags & flag::if_, flag::if_);
  EXPECT_EQ(cpu.shadow, Shadow::sti);
  cpu.shadow = Shadow::none;
  ASSERT_EQ(run({0xFB}), Flow::next);
  EXPECT_EQ(cpu.shadow, Shadow::none) << "interrupts were on already";
  user_mode(2);
  expect_fault(run({0xFA}), Vector::general_protection);
  EXPECT_EQ(v.fault.error_code, 0u);
  expect_fault(run({0xFB}), Vector::general_protection);
  user_mode(3);
  ASSERT_EQ(run({0xFA}), Flow::next);
  EXPECT_EQ(cpu.eflags & flag::if_, 0u);
}

TEST_F(InterpStack, FlagsThroughAh) {
  set_status(flag::cf | flag::zf | flag::of);
  ASSERT_EQ(run({0x9F}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0x4300u) << "bit 1 reads as 1";
  cpu.gpr[eax] = 0x8000;
  ASSERT_EQ(run({0x9E}), Flow::next);
  EXPECT_EQ(status(), flag::sf | flag::of) << "SAHF leaves OF";
  ASSERT_EQ(run({0xF9}), Flow::next);
  ASSERT_EQ(run({0xD6}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0x80FFu) << "SALC";
}

TEST_F(InterpStack, CallAndRet) {
  ASSERT_EQ(run({0xE8, 0xFB, 0x0F, 0, 0}), Flow::jumped);
  EXPECT_EQ(cpu.eip, code_at + 0x1000);
  EXPECT_EQ(get(stack_at - 4), code_at + 5);
  cpu.gpr[esp] -= 8;
  put(cpu.gpr[esp], code_at);
  ASSERT_EQ(run({0xC2, 0x08, 0x00}), Flow::jumped);
  EXPECT_EQ(cpu.eip, code_at);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
}

TEST_F(InterpStack, SixteenBitNearTransfersTruncateEip) {
  cpu.eip = 0x1FFFE;
  ASSERT_EQ(run({0x66, 0xE9, 0x00, 0x00}), Flow::jumped);  // 20002h
  EXPECT_EQ(cpu.eip, 0x0002u);
  ASSERT_EQ(run({0x66, 0xE8, 0x00, 0x10}), Flow::jumped);
  EXPECT_EQ(cpu.eip, 0x1006u);
  EXPECT_EQ(cpu.gpr[esp], stack_at - 2);
  EXPECT_EQ(get(stack_at - 2, 2), 0x0006u);
}

TEST_F(InterpStack, TransfersBeyondTheLimitChangeNothing) {
  cpu.segment(Seg::cs).limit = 0x10FFF;
  expect_fault(run({0xE8, 0x00, 0x10, 0, 0}), Vector::general_protection);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
  EXPECT_EQ(cpu.eip, code_at);
  put(stack_at, 0x11000);
  expect_fault(run({0xC3}), Vector::general_protection);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
  cpu.gpr[ecx] = 5;
  cpu.eip = 0x10FFE;
  expect_fault(run({0xE2, 0x20}), Vector::general_protection);
  EXPECT_EQ(cpu.gpr[ecx], 5u);
}

TEST_F(InterpStack, ConditionsOfAllSixteenKinds) {
  for (u32 n = 0; n < 64; ++n) {
    const u32 f = ((n & 1) ? flag::cf : 0) | ((n & 2) ? flag::pf : 0) | ((n & 4) ? flag::zf : 0) | ((n & 8) ? flag::sf : 0) |
                  ((n & 16) ? flag::of : 0) | ((n & 32) ? flag::af : 0);
    const bool c = n & 1, p = n & 2, z = n & 4, s = n & 8, o = n & 16;
    const bool expected[8] = {o, c, z, c || z, s, p, s != o, z || s != o};
    set_status(f);
    for (int code = 0; code < 16; ++code) {
      const bool want = expected[code / 2] != (code % 2 != 0);
      cpu.eip = code_at;
      EXPECT_EQ(run({0x70 + code, 0x10}), want ? Flow::jumped : Flow::next) << code << ' ' << n;
      EXPECT_EQ(cpu.eip, want ? code_at + 0x12 : code_at + 2);
      ASSERT_EQ(run({0x0F, 0x90 + code, 0xC0}), Flow::next);
      EXPECT_EQ(cpu.gpr[eax], want ? 1u : 0u);
      cpu.gpr[ecx] = 1;
      cpu.gpr[edx] = 2;
      ASSERT_EQ(run({0x0F, 0x40 + code, 0xCA}), Flow::next);
      EXPECT_EQ(cpu.gpr[ecx], want ? 2u : 1u);
    }
  }
}

TEST_F(InterpStack, LoopFormsAndAddressSize) {
  cpu.gpr[ecx] = 0x10001;
  EXPECT_EQ(run({0x67, 0xE2, 0x10}), Flow::next) << "CX counts with a 16-bit address size";
  EXPECT_EQ(cpu.gpr[ecx], 0x10000u);
  EXPECT_EQ(run({0x67, 0xE3, 0x10}), Flow::jumped);
  EXPECT_EQ(run({0xE3, 0x10}), Flow::next);
  cpu.gpr[ecx] = 2;
  set_status(flag::zf);
  EXPECT_EQ(run({0xE0, 0x10}), Flow::next);  // LOOPNE with ZF
  EXPECT_EQ(cpu.gpr[ecx], 1u);
  cpu.gpr[ecx] = 0;
  EXPECT_EQ(run({0xE1, 0x10}), Flow::jumped);  // LOOPE: 0 becomes FFFFFFFFh
  EXPECT_EQ(cpu.gpr[ecx], 0xFFFFFFFFu);
}

TEST_F(InterpStack, Bound) {
  put(data_at, 0xFFFFFFFE);
  put(data_at + 4, 5);
  cpu.gpr[ebx] = data_at;
  for (const u32 inside : {0xFFFFFFFEu, 0u, 5u}) {
    cpu.gpr[eax] = inside;
    EXPECT_EQ(run({0x62, 0x03}), Flow::next);
  }
  for (const u32 outside : {0xFFFFFFFDu, 6u}) {
    cpu.gpr[eax] = outside;
    expect_fault(run({0x62, 0x03}), Vector::bound);
  }
}

TEST_F(InterpStack, MovesAndConversions) {
  cpu.gpr[eax] = 0x1234F680;
  ASSERT_EQ(run({0x0F, 0xBE, 0xC8}), Flow::next);  // movsx ecx, al
  EXPECT_EQ(cpu.gpr[ecx], 0xFFFFFF80u);
  ASSERT_EQ(run({0x66, 0x0F, 0xB6, 0xCC}), Flow::next);  // movzx cx, ah
  EXPECT_EQ(cpu.gpr[ecx], 0xFFFF00F6u);
  ASSERT_EQ(run({0x98}), Flow::next);  // cwde
  EXPECT_EQ(cpu.gpr[eax], 0xFFFFF680u);
  ASSERT_EQ(run({0x99}), Flow::next);  // cdq
  EXPECT_EQ(cpu.gpr[edx], 0xFFFFFFFFu);
  cpu.gpr[eax] = 0x11223344;
  ASSERT_EQ(run({0x0F, 0xC8}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0x44332211u);
  cpu.gpr[ebx] = data_at;
  put(data_at + 0x11, 0x5A, 1);
  ASSERT_EQ(run({0xD7}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0x4433225Au);
  ASSERT_EQ(run({0x87, 0x03}), Flow::next);  // xchg [ebx], eax
  EXPECT_EQ(get(data_at), 0x4433225Au);
  EXPECT_EQ(cpu.gpr[eax], 0u);
  ASSERT_EQ(run({0x67, 0x8D, 0x40, 0xFF}), Flow::next);  // lea eax, [bx+si-1]: 16-bit address, 32-bit register
  EXPECT_EQ(cpu.gpr[eax], 0xFFFFu);
  ASSERT_EQ(run({0x0F, 0x38, 0xF0, 0x0B}), Flow::next);  // movbe ecx, [ebx]
  EXPECT_EQ(cpu.gpr[ecx], 0x5A223344u);
}

}  // namespace
}  // namespace ring3::test
