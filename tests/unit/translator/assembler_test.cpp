// The short ways against AsmJit's encoder.
#include "translator/assembler.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace ring3 {
namespace {

using namespace asmjit;

constexpr u64 base = 0x7F00'0000'1000;

template <typename A>
std::vector<u8> assemble(const std::function<void(A&)>& emit) {
  CodeHolder holder;
  holder.init(Environment::host(), base);
  A a(&holder);
  emit(a);
  return {a.bufferData(), a.bufferPtr()};
}

// `emit` is called with both assemblers.
template <typename Emit>
void expect_same(const Emit& emit) {
  EXPECT_EQ(assemble<Assembler>([&](Assembler& a) { emit(a); }), assemble<x86::Assembler>([&](x86::Assembler& a) { emit(a); }));
}

TEST(Assembler, Registers) {
  expect_same([](auto& a) {
    for (u32 to = 0; to < 16; ++to) {
      for (u32 from = 0; from < 16; ++from) {
        a.mov(x86::gpd(to), x86::gpd(from));
        a.mov(x86::gpq(to), x86::gpq(from));
        a.mov(x86::gpw(to), x86::gpw(from));
        a.mov(x86::gpb(to), x86::gpb(from));
        for (const u32 count : {2u, 32u}) {
          a.rorx(x86::gpd(to), x86::gpd(from), count);
          a.rorx(x86::gpq(to), x86::gpq(from), count);
        }
        for (u32 count = 0; count < 16; ++count) {
          a.shrx(x86::gpd(to), x86::gpd(from), x86::gpd(count));
          a.shrx(x86::gpq(to), x86::gpq(from), x86::gpq(count));
        }
      }
      for (const i64 value : {i64{0}, i64{1}, i64{0x7FFFFFFF}, i64{0xFFFFFFFF}}) {
        a.mov(x86::gpd(to), value);
        a.mov(x86::gpq(to), value);
      }
      a.mov(x86::gpd(to), static_cast<i32>(-5));
      a.mov(x86::gpq(to), Imm(0x7F0012345678));
    }
  });
}

TEST(Assembler, Memory) {
  std::vector<x86::Mem> operands;
  for (u32 b = 0; b < 16; ++b) {
    for (const i32 displacement : {0, 1, 127, 128, -128, -129, 0x800000}) {
      operands.push_back(x86::ptr(x86::gpq(b), displacement));
      for (u32 index = 0; index < 16; ++index) {
        if (index == 4) continue;  // rsp is none
        for (u32 shift = 0; shift < 4; ++shift) operands.push_back(x86::ptr(x86::gpq(b), x86::gpq(index), shift, displacement));
      }
    }
  }
  for (u32 index = 0; index < 16; ++index) {
    if (index != 4) operands.push_back(x86::ptr(u64{0}, x86::gpq(index), 2));
  }
  for (const x86::Mem& operand : operands) {
    x86::Mem word = operand;
    word.setSize(4);
    expect_same([&](auto& a) {
      for (u32 reg = 0; reg < 16; reg += 3) {
        for (const x86::Gp& gp : {x86::Gp(x86::gpd(reg)), x86::Gp(x86::gpq(reg)), x86::Gp(x86::gpw(reg))}) {
          a.lea(gp, operand);
          a.mov(gp, operand);
          a.mov(operand, gp);
        }
        a.mov(x86::gpb(reg), operand);
        a.mov(operand, x86::gpb(reg));
      }
      a.mov(word, 0x12345678);
      a.mov(word, -1);
    });
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Assembler, JumpsAndBytes) {
  for (const i64 distance : {-0x1000, -128, -124, -123, 0, 100, 127, 129, 130, 131, 132, 133, 134, 0x1000, 0x7FFFFFF0}) {
    expect_same([&](auto& a) {
      a.jmp(Imm(base + distance));
      a.jmp(x86::r9);
    });
  }
  // More than the buffer holds at first.
  expect_same([](auto& a) {
    for (u32 i = 0; i < 100'000; ++i) {
      a.embedUInt32(i);
      a.embed("123", i % 4);
      a.mov(x86::r8d, x86::r9d);
    }
  });
}

TEST(Assembler, TheHolderKnowsTheSize) {
  CodeHolder holder;
  holder.init(Environment::host(), base);
  Assembler a(&holder);
  a.mov(x86::r8d, 5);
  a.mov(x86::r8d, 5);
  EXPECT_EQ(holder.codeSize(), 12u);
}

}  // namespace
}  // namespace ring3
