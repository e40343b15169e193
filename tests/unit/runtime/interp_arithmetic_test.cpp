// Results and defined flags by SDM vol. 2; expected values worked out by hand from the manual's definitions.
#include "interp_fixture.h"

namespace ring3::test {
namespace {

using flag::af;
using flag::cf;
using flag::of;
using flag::pf;
using flag::sf;
using flag::zf;

class InterpArithmetic : public InterpTest {};

TEST_F(InterpArithmetic, AddAndSubtractSetAllFlags) {
  struct Case {
    int opcode;  // op EAX, ECX
    u32 a, b, flags_in, result, flags_out;
  };
  const Case cases[] = {
      {0x01, 0xFFFFFFFF, 1, 0, 0, cf | pf | af | zf},
      {0x01, 0x7FFFFFFF, 1, 0, 0x80000000, pf | af | sf | of},
      {0x01, 0x12, 0x21, cf, 0x33, pf},
      {0x11, 0xFFFFFFFF, 0, cf, 0, cf | pf | af | zf},           // ADC
      {0x11, 0x7FFFFFFF, 0x80000000, cf, 0, cf | pf | af | zf},  // operands of unlike signs never overflow
      {0x29, 0, 1, 0, 0xFFFFFFFF, cf | pf | af | sf},            // SUB
      {0x29, 0x80000000, 1, 0, 0x7FFFFFFF, pf | af | of},
      {0x19, 5, 5, cf, 0xFFFFFFFF, cf | pf | af | sf},  // SBB
      {0x39, 5, 5, cf, 5, pf | zf},                     // CMP keeps the destination
      {0x09, 0xF0, 0x0F, cf | of, 0xFF, pf},            // OR clears CF and OF
  };
  for (const Case& c : cases) {
    cpu.gpr[eax] = c.a;
    cpu.gpr[ecx] = c.b;
    set_status(c.flags_in);
    ASSERT_EQ(run({c.opcode, 0xC8}), Flow::next);
    EXPECT_EQ(cpu.gpr[eax], c.result) << std::hex << c.opcode << ' ' << c.a << ' ' << c.b;
    EXPECT_EQ(status(), c.flags_out) << std::hex << c.opcode << ' ' << c.a << ' ' << c.b;
  }
}

TEST_F(InterpArithmetic, IncAndDecKeepCarry) {
  set_status(cf);
  cpu.gpr[ebx] = 0x7FFFFFFF;
  ASSERT_EQ(run({0x43}), Flow::next);
  EXPECT_EQ(cpu.gpr[ebx], 0x80000000u);
  EXPECT_EQ(status(), cf | pf | af | sf | of);
  set_status(0);
  cpu.gpr[ebx] = 0x10000;
  ASSERT_EQ(run({0x66, 0x4B}), Flow::next);
  EXPECT_EQ(cpu.gpr[ebx], 0x1FFFFu) << "DEC BX leaves the upper half";
  EXPECT_EQ(status(), pf | af | sf);
}

TEST_F(InterpArithmetic, HighByteRegisters) {
  cpu.gpr[eax] = 0x1234FF80;
  ASSERT_EQ(run({0x00, 0xE0}), Flow::next);  // add al, ah
  EXPECT_EQ(cpu.gpr[eax], 0x1234FF7Fu);
  EXPECT_EQ(status(), cf | of);
}

TEST_F(InterpArithmetic, ReadOnlyDestinationFaultsAsAWriteAndKeepsFlags) {
  enable_paging();
  set_page(data_at, data_at | 1);
  set_status(of | cf);
  cpu.gpr[ebx] = data_at;
  put(data_at, 41);
  expect_page_fault(run({0x83, 0x03, 1}), data_at, pf_error::present | pf_error::write);
  EXPECT_EQ(status(), of | cf);
  EXPECT_EQ(get(data_at), 41u);
  // CMPXCHG writes even when the comparison fails, and the accumulator stays at a fault.
  cpu.gpr[eax] = 7;
  expect_page_fault(run({0x0F, 0xB1, 0x0B}), data_at, pf_error::present | pf_error::write);
  EXPECT_EQ(cpu.gpr[eax], 7u);
  // CMP reads only.
  EXPECT_EQ(run({0x83, 0x3B, 41}), Flow::next);
  EXPECT_EQ(status(), pf | zf);
}

TEST_F(InterpArithmetic, MisalignedReadModifyWriteAcrossPages) {
  enable_paging();
  cpu.gpr[ebx] = data_at + 0xFFE;
  put(data_at + 0xFFE, 0x0001FFFF);
  ASSERT_EQ(run({0xFF, 0x03}), Flow::next);
  EXPECT_EQ(get(data_at + 0xFFE), 0x00020000u);
  set_page(data_at + 0x1000, (data_at + 0x1000) | 1);
  expect_page_fault(run({0xFF, 0x03}), data_at + 0x1000, pf_error::present | pf_error::write);
  EXPECT_EQ(get(data_at + 0xFFE), 0x00020000u);
}

TEST_F(InterpArithmetic, CompareExchange) {
  cpu.gpr[eax] = 5;
  cpu.gpr[ecx] = 9;
  cpu.gpr[ebx] = data_at;
  put(data_at, 5);
  ASSERT_EQ(run({0xF0, 0x0F, 0xB1, 0x0B}), Flow::next);
  EXPECT_EQ(get(data_at), 9u);
  EXPECT_EQ(status() & zf, zf);
  ASSERT_EQ(run({0xF0, 0x0F, 0xB1, 0x0B}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 9u);
  EXPECT_EQ(status() & zf, 0u);
  // EAX as destination: the accumulator equals it, so it takes the source.
  ASSERT_EQ(run({0x0F, 0xB1, 0xC8}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 9u);
}

TEST_F(InterpArithmetic, CompareExchange8Bytes) {
  cpu.gpr = {1, 4, 2, 3, stack_at, 0, data_at, 0};  // EDX:EAX = 2:1, ECX:EBX = 4:3
  put(data_at, 1);
  put(data_at + 4, 2);
  set_status(cf | sf);
  ASSERT_EQ(run({0x0F, 0xC7, 0x0E}), Flow::next);
  EXPECT_EQ(get(data_at), 3u);
  EXPECT_EQ(get(data_at + 4), 4u);
  EXPECT_EQ(status(), cf | sf | zf);
  ASSERT_EQ(run({0x0F, 0xC7, 0x0E}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 3u);
  EXPECT_EQ(cpu.gpr[edx], 4u);
  EXPECT_EQ(status(), cf | sf);
}

TEST_F(InterpArithmetic, ExchangeAdd) {
  cpu.gpr[eax] = 3;
  ASSERT_EQ(run({0x0F, 0xC1, 0xC0}), Flow::next);  // xadd eax, eax
  EXPECT_EQ(cpu.gpr[eax], 6u);
  cpu.gpr[ecx] = 10;
  ASSERT_EQ(run({0x0F, 0xC1, 0xC8}), Flow::next);  // xadd eax, ecx
  EXPECT_EQ(cpu.gpr[eax], 16u);
  EXPECT_EQ(cpu.gpr[ecx], 6u);
}

TEST_F(InterpArithmetic, ShiftsByBoundaryCounts) {
  struct Case {
    int modrm;  // D3 /n EAX, CL
    u8 count;
    u32 value, flags_in, result, flags_out, defined;
  };
  const u32 no_af = cf | pf | zf | sf | of;
  const u32 no_of = cf | pf | zf | sf;
  const Case cases[] = {
      {0xE0, 0, 0x80000001, cf | of | zf, 0x80000001, cf | of | zf, flag::status},   // SHL by 0: nothing changes
      {0xE0, 32, 0x80000001, cf | of | zf, 0x80000001, cf | of | zf, flag::status},  // the count is taken modulo 32
      {0xE0, 1, 0x80000001, 0, 2, cf | of, no_af},
      {0xE0, 1, 0xC0000000, 0, 0x80000000, cf | pf | sf, no_af},
      {0xE0, 31, 3, 0, 0x80000000, cf | pf | sf, no_of},
      {0xE8, 1, 0x80000001, 0, 0x40000000, cf | pf | of, no_af},  // SHR: OF is the old sign
      {0xE8, 31, 0xC0000000, 0, 1, cf, no_of},
      {0xF8, 1, 0x80000001, of, 0xC0000000, cf | pf | sf, no_af},  // SAR: OF cleared
      {0xF8, 31, 0x80000000, 0, 0xFFFFFFFF, pf | sf, no_of},
      {0xC0, 1, 0x80000000, zf | sf, 1, cf | of | zf | sf, flag::status},  // ROL changes CF and OF only
      {0xC8, 1, 1, zf, 0x80000000, cf | of | zf, flag::status},            // ROR: OF = top two bits differ
      {0xD0, 1, 0x80000000, 0, 0, cf | of, flag::status},                  // RCL
      {0xD8, 1, 0, cf, 0x80000000, of, flag::status},                      // RCR: OF = top two bits differ, CF = bit 0
  };
  for (const Case& c : cases) {
    cpu.gpr[eax] = c.value;
    cpu.gpr[ecx] = c.count;
    set_status(c.flags_in);
    ASSERT_EQ(run({0xD3, c.modrm}), Flow::next);
    EXPECT_EQ(cpu.gpr[eax], c.result) << std::hex << c.modrm << " by " << int{c.count};
    EXPECT_EQ(status() & c.defined, c.flags_out & c.defined) << std::hex << c.modrm << " by " << int{c.count};
  }
}

TEST_F(InterpArithmetic, ShortRotatesThroughCarryWrapAtTheirWidth) {
  cpu.gpr[eax] = 0xA5;
  cpu.gpr[ecx] = 9;  // RCL of a byte and CF: nine positions are a full turn
  set_status(cf);
  ASSERT_EQ(run({0xD2, 0xD0}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0xA5u);
  EXPECT_EQ(status() & cf, cf);
  cpu.gpr[eax] = 0x8001;
  cpu.gpr[ecx] = 17;
  ASSERT_EQ(run({0x66, 0xD3, 0xD8}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0x8001u);
}

// Undefined for counts above 1 (SDM vol. 2), but both engines must agree, and one of them is this host's CPU.
TEST_F(InterpArithmetic, OverflowAfterRotatesIsTheHosts) {
  const auto overflow = [](u64 rflags) { return static_cast<u32>(rflags) & of; };
  for (const u32 value : {0u, 1u, 0x80000001u, 0x12345678u, 0xDEADBEEFu, 0xFFFFFFFFu}) {
    for (const u32 flags_in : {0u, of}) {
      u64 by_immediate = flags_in;
      u64 by_cl = flags_in;
      u32 a = value;
      u32 b = value;
      static u32 c;  // not on the stack, which PUSHF moves
      c = value;
      asm("push %[f]\n\tpopf\n\troll $7, %[a]\n\tpushf\n\tpop %[f]" : [f] "+r"(by_immediate), [a] "+r"(a) : : "cc", "memory");
      asm("push %[f]\n\tpopf\n\troll %%cl, %[a]\n\tpushf\n\tpop %[f]" : [f] "+r"(by_cl), [a] "+r"(b) : "c"(7) : "cc", "memory");
      cpu.gpr[eax] = value;
      set_status(flags_in);
      ASSERT_EQ(run({0xC1, 0xC0, 7}), Flow::next);
      EXPECT_EQ(cpu.gpr[eax], a);
      EXPECT_EQ(status() & of, overflow(by_immediate)) << std::hex << value << " immediate, OF was " << flags_in;

      u64 in_memory = flags_in;
      asm("push %[f]\n\tpopf\n\troll $7, %[a]\n\tpushf\n\tpop %[f]" : [f] "+r"(in_memory), [a] "+m"(c) : : "cc", "memory");
      put(data_at, value);
      cpu.gpr[ebx] = data_at;
      set_status(flags_in);
      ASSERT_EQ(run({0xC1, 0x03, 7}), Flow::next);
      EXPECT_EQ(status() & of, overflow(in_memory)) << std::hex << value << " memory, OF was " << flags_in;

      cpu.gpr[eax] = value;
      cpu.gpr[ecx] = 7;
      set_status(flags_in);
      ASSERT_EQ(run({0xD3, 0xC0}), Flow::next);
      EXPECT_EQ(cpu.gpr[eax], b);
      EXPECT_EQ(status() & of, overflow(by_cl)) << std::hex << value << " CL, OF was " << flags_in;
    }
  }
  cpu.gpr[eax] = 0x40000000;
  set_status(0);
  ASSERT_EQ(run({0xC1, 0xC0, 1}), Flow::next);
  EXPECT_EQ(status() & of, of) << "by 1 it is defined, whatever the encoding";
  ASSERT_EQ(run({0xC1, 0xC8, 33}), Flow::next);
  EXPECT_EQ(status() & of, of) << "counts are masked";
}

TEST_F(InterpArithmetic, DoubleShift) {
  cpu.gpr[eax] = 0x80000001;
  cpu.gpr[edx] = 0xF0000000;
  ASSERT_EQ(run({0x0F, 0xA4, 0xD0, 4}), Flow::next);  // shld eax, edx, 4
  EXPECT_EQ(cpu.gpr[eax], 0x1Fu);
  EXPECT_EQ(status() & (cf | zf | sf), 0u) << "CF is the last bit shifted out, bit 28";
  cpu.gpr[ecx] = 32;
  set_status(cf | zf);
  ASSERT_EQ(run({0x0F, 0xAD, 0xD0}), Flow::next);  // shrd eax, edx, cl with count 0
  EXPECT_EQ(cpu.gpr[eax], 0x1Fu);
  EXPECT_EQ(status(), cf | zf);
}

TEST_F(InterpArithmetic, Multiply) {
  cpu.gpr[eax] = 0x80000000;
  cpu.gpr[ecx] = 2;
  ASSERT_EQ(run({0xF7, 0xE1}), Flow::next);
  EXPECT_EQ(cpu.gpr[edx], 1u);
  EXPECT_EQ(cpu.gpr[eax], 0u);
  EXPECT_EQ(status() & (cf | of), cf | of);
  cpu.gpr[eax] = 0xFFFFFFFF;
  ASSERT_EQ(run({0xF7, 0xE9}), Flow::next);  // imul ecx: -1 * 2
  EXPECT_EQ(cpu.gpr[edx], 0xFFFFFFFFu);
  EXPECT_EQ(cpu.gpr[eax], 0xFFFFFFFEu);
  EXPECT_EQ(status() & (cf | of), 0u);
  cpu.gpr[eax] = 0x12347F7F;
  cpu.gpr[edx] = 0x55;
  ASSERT_EQ(run({0xF6, 0xE4}), Flow::next);  // mul ah
  EXPECT_EQ(cpu.gpr[eax], 0x12343F01u);
  EXPECT_EQ(cpu.gpr[edx], 0x55u);
  ASSERT_EQ(run({0x66, 0x6B, 0xC9, 0xFF}), Flow::next);  // imul cx, cx, -1
  EXPECT_EQ(cpu.gpr[ecx], 0x0000FFFEu);
  cpu.gpr[ecx] = 0x10000;
  ASSERT_EQ(run({0x0F, 0xAF, 0xC9}), Flow::next);  // imul ecx, ecx
  EXPECT_EQ(cpu.gpr[ecx], 0u);
  EXPECT_EQ(status() & (cf | of), cf | of);
}

TEST_F(InterpArithmetic, DivideResultsAndErrors) {
  struct Case {
    int modrm;  // F7 /n ECX, or F6 /n CL when `byte`
    bool byte;
    u32 high, low, divisor;
    bool fits;
    u32 quotient, rest;
  };
  const Case cases[] = {
      {0xF1, false, 1, 0, 2, true, 0x80000000, 0},
      {0xF1, false, 1, 0, 1, false, 0, 0},  // quotient 2^32
      {0xF1, false, 0, 5, 0, false, 0, 0},
      {0xF9, false, 0xFFFFFFFF, 0x80000000, 0xFFFFFFFF, false, 0, 0},  // -2^31 / -1
      {0xF9, false, 0x80000000, 0, 0xFFFFFFFF, false, 0, 0},           // -2^63 / -1
      {0xF9, false, 0xFFFFFFFF, 0x80000000, 1, true, 0x80000000, 0},
      {0xF9, false, 0xFFFFFFFF, 0xFFFFFFF9, 2, true, 0xFFFFFFFD, 0xFFFFFFFF},  // -7 / 2 = -3 rest -1
  };
  for (const Case& c : cases) {
    cpu.gpr[edx] = c.high;
    cpu.gpr[eax] = c.low;
    cpu.gpr[ecx] = c.divisor;
    const Flow flow = run({0xF7, c.modrm});
    if (c.fits) {
      ASSERT_EQ(flow, Flow::next);
      EXPECT_EQ(cpu.gpr[eax], c.quotient);
      EXPECT_EQ(cpu.gpr[edx], c.rest);
    } else {
      expect_fault(flow, Vector::divide);
      EXPECT_FALSE(v.fault.has_error_code);
      EXPECT_EQ(cpu.gpr[eax], c.low);
      EXPECT_EQ(cpu.gpr[edx], c.high);
    }
  }
  cpu.gpr[eax] = 0xABCD0107;
  cpu.gpr[ecx] = 2;
  ASSERT_EQ(run({0xF6, 0xF1}), Flow::next);  // 263 / 2 = 131 rest 1
  EXPECT_EQ(cpu.gpr[eax], 0xABCD0183u);
  cpu.gpr[eax] = 0xABCDFF80;  // -128 / 1 fits, +128 / 1 does not
  cpu.gpr[ecx] = 1;
  ASSERT_EQ(run({0xF6, 0xF9}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0xABCD0080u);
  expect_fault(run({0xF6, 0xF9}), Vector::divide);
}

TEST_F(InterpArithmetic, BitTestsReachOtherWords) {
  cpu.gpr[ebx] = data_at;
  cpu.gpr[ecx] = 0xFFFFFFFF;  // bit -1: bit 31 of the dword below
  put(data_at - 4, 0);
  ASSERT_EQ(run({0x0F, 0xAB, 0x0B}), Flow::next);  // bts [ebx], ecx
  EXPECT_EQ(get(data_at - 4), 0x80000000u);
  EXPECT_EQ(status() & cf, 0u);
  ASSERT_EQ(run({0x0F, 0xA3, 0x0B}), Flow::next);  // bt
  EXPECT_EQ(status() & cf, cf);
  cpu.gpr[ecx] = 0x0000FFEF;  // 16-bit: bit -17 is bit 15 of the second word below
  put(data_at - 4, 0);
  ASSERT_EQ(run({0x66, 0x0F, 0xBB, 0x0B}), Flow::next);  // btc [ebx], cx
  EXPECT_EQ(get(data_at - 4), 0x8000u);
  put(data_at, 2);
  ASSERT_EQ(run({0x0F, 0xBA, 0x33, 33}), Flow::next);  // btr [ebx], 33: an immediate is taken modulo 32
  EXPECT_EQ(get(data_at), 0u);
  EXPECT_EQ(status() & cf, cf);
}

TEST_F(InterpArithmetic, ScansAndPopulationCount) {
  cpu.gpr[eax] = 0xDEAD;
  cpu.gpr[ecx] = 0;
  ASSERT_EQ(run({0x0F, 0xBC, 0xC1}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0xDEADu);
  EXPECT_EQ(status() & zf, zf);
  cpu.gpr[ecx] = 0x00010100;
  ASSERT_EQ(run({0x0F, 0xBC, 0xC1}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 8u);
  EXPECT_EQ(status() & zf, 0u);
  ASSERT_EQ(run({0x0F, 0xBD, 0xC1}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 16u);
  set_status(flag::status);
  ASSERT_EQ(run({0xF3, 0x0F, 0xB8, 0xC1}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 2u);
  EXPECT_EQ(status(), 0u);
}

TEST_F(InterpArithmetic, Crc32OfCheckString) {
  // CRC-32C of "123456789" is E3069283 (RFC 3720, the check value of the polynomial).
  cpu.gpr[eax] = ~0u;
  std::memcpy(ram.at({data_at}), "123456789", 9);
  cpu.gpr[ebx] = data_at;
  ASSERT_EQ(run({0xF2, 0x0F, 0x38, 0xF1, 0x03}), Flow::next);
  ASSERT_EQ(run({0x66, 0xF2, 0x0F, 0x38, 0xF1, 0x43, 4}), Flow::next);
  ASSERT_EQ(run({0x66, 0xF2, 0x0F, 0x38, 0xF1, 0x43, 6}), Flow::next);
  ASSERT_EQ(run({0xF2, 0x0F, 0x38, 0xF0, 0x43, 8}), Flow::next);
  EXPECT_EQ(~cpu.gpr[eax], 0xE3069283u);
}

// Every AL, CF and AF through the manual's own pseudo-code, written out independently of the handlers.
TEST_F(InterpArithmetic, DecimalAdjustFollowsThePseudoCode) {
  for (const bool subtract : {false, true}) {
    for (u32 n = 0; n < 256 * 4; ++n) {
      const u32 old = n & 255;
      const bool old_cf = (n & 256) != 0;
      const bool old_af = (n & 512) != 0;
      cpu.gpr[eax] = 0x5500 | old;
      set_status((old_cf ? cf : 0) | (old_af ? af : 0));
      ASSERT_EQ(run({subtract ? 0x2F : 0x27}), Flow::next);
      int al = static_cast<int>(old);
      bool carry = false;
      bool adjust = false;
      if ((old & 15) > 9 || old_af) {
        al += subtract ? -6 : 6;
        carry = old_cf || al < 0 || al > 255;
        adjust = true;
      }
      if (old > 0x99 || old_cf) {
        al += subtract ? -0x60 : 0x60;
        carry = true;
      } else if (!subtract) {
        carry = false;
      }
      ASSERT_EQ(cpu.gpr[eax], 0x5500u | (static_cast<u32>(al) & 255u)) << subtract << ' ' << std::hex << n;
      ASSERT_EQ((status() & cf) != 0, carry) << subtract << ' ' << std::hex << n;
      ASSERT_EQ((status() & af) != 0, adjust) << subtract << ' ' << std::hex << n;
      ASSERT_EQ((status() & zf) != 0, (al & 255) == 0);
      ASSERT_EQ((status() & sf) != 0, (al & 128) != 0);
    }
  }
}

TEST_F(InterpArithmetic, AsciiAdjust) {
  cpu.gpr[eax] = 0x00FF;
  set_status(0);
  ASSERT_EQ(run({0x37}), Flow::next);  // AAA: the carry out of AL reaches AH
  EXPECT_EQ(cpu.gpr[eax], 0x0205u);
  EXPECT_EQ(status() & (af | cf), af | cf);
  cpu.gpr[eax] = 0x0205;
  ASSERT_EQ(run({0x3F}), Flow::next);  // AAS with AF set
  EXPECT_EQ(cpu.gpr[eax], 0x000Fu);
  cpu.gpr[eax] = 63;
  ASSERT_EQ(run({0xD4, 10}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 0x0603u);
  ASSERT_EQ(run({0xD5, 10}), Flow::next);
  EXPECT_EQ(cpu.gpr[eax], 63u);
  expect_fault(run({0xD4, 0}), Vector::divide);
}

}  // namespace
}  // namespace ring3::test
