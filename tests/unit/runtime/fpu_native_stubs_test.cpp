// Single instructions on the host's FPU: operands reach the right registers, the host's own state survives, exceptions do not trap.
#include "frontend/decoder.h"
#include "runtime/interp/native_stubs.h"

#include <gtest/gtest.h>

#include <bit>
#include <cfenv>
#include <cstring>
#include <initializer_list>
#include <vector>

namespace ring3 {
namespace {

Insn decode(std::initializer_list<u8> bytes) {
  const std::vector<u8> v(bytes);
  Insn insn;
  EXPECT_EQ(Decoder().decode(v, true, insn), DecodeStatus::ok);
  return insn;
}

std::array<u8, 16> floats(float a, float b, float c, float d) {
  return std::bit_cast<std::array<u8, 16>>(std::array<float, 4>{a, b, c, d});
}

// 80-bit encodings (SDM vol. 1, 4.2.2).
constexpr std::array<u8, 16> one{0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F};
constexpr std::array<u8, 16> two{0, 0, 0, 0, 0, 0, 0, 0x80, 0x00, 0x40};

class NativeStubsTest : public ::testing::Test {
 protected:
  NativeStubs stubs;
  FxImage image;
};

TEST_F(NativeStubsTest, RunsOnTheNamedXmmRegisters) {
  image.xmm[3] = floats(1, 2, 3, 4);
  image.xmm[6] = floats(10, 20, 30, 40);
  stubs.run(decode({0x0F, 0x58, 0xDE}), image);  // addps xmm3, xmm6
  EXPECT_EQ(image.xmm[3], floats(11, 22, 33, 44));
  EXPECT_EQ(image.xmm[6], floats(10, 20, 30, 40));
}

TEST_F(NativeStubsTest, TakesMemoryOperandsFromTheBounceBuffer) {
  const auto source = floats(8, 7, 6, 5);
  std::memcpy(stubs.frame().memory.data(), source.data(), 16);
  image.xmm[7] = floats(1, 1, 1, 1);
  stubs.run(decode({0x0F, 0x5C, 0xBC, 0x8B, 1, 2, 3, 4}), image);  // subps xmm7, [ebx+ecx*4+disp32]
  EXPECT_EQ(image.xmm[7], floats(-7, -6, -5, -4));
}

TEST_F(NativeStubsTest, MapsEveryGeneralRegisterToTheFrame) {
  for (u8 reg = 0; reg < 8; ++reg) {
    stubs.frame().eax = static_cast<u32>(-5);
    stubs.run(decode({0xF3, 0x0F, 0x2A, static_cast<u8>(0xC8 | reg)}), image);  // cvtsi2ss xmm1, reg
    EXPECT_EQ(image.xmm[1], floats(-5, 0, 0, 0));
    stubs.frame().eax = 0;
    stubs.run(decode({0xF3, 0x0F, 0x2D, static_cast<u8>(0xC1 | reg << 3)}), image);  // cvtss2si reg, xmm1
    EXPECT_EQ(stubs.frame().eax, static_cast<u32>(-5));
  }
}

TEST_F(NativeStubsTest, CarriesFlagsBothWays) {
  image.xmm[0] = floats(1, 0, 0, 0);
  image.xmm[1] = floats(2, 0, 0, 0);
  stubs.frame().flags = flag::status;
  stubs.run(decode({0x0F, 0x2F, 0xC1}), image);  // comiss xmm0, xmm1: less
  EXPECT_EQ(stubs.frame().flags & flag::status, flag::cf);

  image.ftw = 0xC0;
  image.fsw = 6u << 11;
  image.st[0] = one;
  image.st[1] = two;
  stubs.frame().flags = flag::zf;
  stubs.run(decode({0xDA, 0xC9}), image);  // fcmove st0, st1
  EXPECT_EQ(image.st[0], two);
}

TEST_F(NativeStubsTest, PushesOnTheX87Stack) {
  stubs.run(decode({0xD9, 0xE8}), image);  // fld1
  EXPECT_EQ(image.st[0], one);
  EXPECT_EQ(image.ftw, 0x80);
  EXPECT_EQ((image.fsw >> 11) & 7, 7);
}

TEST_F(NativeStubsTest, UnmaskedX87ExceptionBecomesPendingWithoutTrap) {
  image.fcw = 0x37B;  // zero divide unmasked
  image.ftw = 0xC0;
  image.fsw = 6u << 11;
  image.st[0] = {};
  image.st[1] = one;
  stubs.run(decode({0xDE, 0xF9}), image);  // fdivp st1, st0
  EXPECT_EQ(image.fsw & 0x84, 0x84);       // ES and ZE
  EXPECT_EQ(image.ftw, 0xC0);              // nothing popped
  stubs.run(decode({0xDB, 0xE2}), image);  // fnclex runs with the exception pending
  EXPECT_EQ(image.fsw & 0x80FF, 0);
}

TEST_F(NativeStubsTest, LeavesTheHostFpuAsItWas) {
  ASSERT_EQ(std::fesetround(FE_TOWARDZERO), 0);
  image.mxcsr = 0x1F80 | 0x2000;
  image.fcw = 0x27F;
  image.xmm[0] = floats(1, 1, 1, 1);
  image.xmm[1] = floats(3, 3, 3, 3);
  stubs.run(decode({0x0F, 0x5E, 0xC1}), image);  // divps: inexact
  EXPECT_NE(image.mxcsr & 0x20, 0U);
  u32 host = 0;
  asm volatile("stmxcsr %0" : "=m"(host));
  EXPECT_EQ(host & 0x6000U, 0x6000U);
  ASSERT_EQ(std::fesetround(FE_TONEAREST), 0);
  stubs.run(decode({0xD9, 0xE8}), image);
  u16 fcw = 0;
  asm volatile("fnstcw %0" : "=m"(fcw));
  EXPECT_EQ(fcw, 0x37F);
}

TEST_F(NativeStubsTest, StartsAgainWhenTheArenaIsFull) {
  for (unsigned round = 0; round < 2; ++round) {
    for (unsigned registers = 0xC0; registers <= 0xFF; ++registers) {
      for (unsigned imm = 0; imm < 256; ++imm) {
        stubs.run(decode({0x66, 0x0F, 0x70, static_cast<u8>(registers), static_cast<u8>(imm)}), image);  // pshufd
      }
    }
  }
  EXPECT_GT(stubs.generations(), 1U);
  image.xmm[1] = floats(1, 2, 3, 4);
  stubs.run(decode({0x66, 0x0F, 0x70, 0xC1, 0x1B}), image);
  EXPECT_EQ(image.xmm[0], floats(4, 3, 2, 1));
}

TEST_F(NativeStubsTest, WritesEnvironmentOfBothSizes) {
  image.ftw = 0x80;
  image.fsw = 7u << 11;
  image.st[0] = one;
  stubs.frame().memory.fill(0xEE);
  stubs.run(decode({0xD9, 0x30}), image);  // fnstenv [eax], 28 bytes
  EXPECT_EQ(stubs.frame().memory[8], 0xFF);
  EXPECT_EQ(stubs.frame().memory[9], 0x3F);  // full tag word: register 7 valid
  EXPECT_EQ(stubs.frame().memory[28], 0xEE);
  stubs.frame().memory.fill(0xEE);
  stubs.run(decode({0x66, 0xD9, 0x30}), image);
  EXPECT_EQ(stubs.frame().memory[5], 0x3F);
  EXPECT_EQ(stubs.frame().memory[14], 0xEE);
}

}  // namespace
}  // namespace ring3
