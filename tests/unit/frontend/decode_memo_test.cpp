// A decoder that remembers against one that does not, on random instructions: many of each opcode and ModRM, so that most are remembered.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "frontend/decoder.h"

namespace ring3 {
namespace {

class DecodeMemoTest : public testing::Test {
 protected:
  // Decodes with both; the number of bytes is among what is random.
  void compare(std::span<const u8> bytes, bool code32) {
    Insn expected;
    Insn actual;
    const DecodeStatus plain = plain_.decode(bytes, code32, expected);
    const DecodeStatus remembering = remembering_.decode(bytes, code32, actual);
    ASSERT_EQ(remembering, plain);
    if (actual == expected) return;
    std::string text;
    for (const u8 byte : bytes) text += "0123456789abcdef"[byte >> 4], text += "0123456789abcdef"[byte & 15], text += ' ';
    FAIL() << (code32 ? "32: " : "16: ") << text << row_name(expected.row) << " imm " << actual.imm << " for " << expected.imm
           << ", target " << actual.target << " for " << expected.target << ", displacement " << actual.mem.displacement << " for "
           << expected.mem.displacement << ", base " << int{actual.mem.base} << " for " << int{expected.mem.base} << ", segment "
           << static_cast<int>(actual.mem.segment) << " for " << static_cast<int>(expected.mem.segment) << ", scale "
           << int{actual.mem.scale} << " for " << int{expected.mem.scale};
  }

  Decoder plain_{Decoder::Memory::none};
  Decoder remembering_;
  std::mt19937 random_{20};
};

TEST_F(DecodeMemoTest, AgreesWithFullDecoding) {
  const auto byte = [this] { return static_cast<u8>(random_()); };
  constexpr u8 prefixes[] = {0x66, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x67};
  for (int i = 0; i < 60'000; ++i) {
    std::vector<u8> head;
    for (u32 n = random_() % 8; n > 5; --n) head.push_back(prefixes[random_() % std::size(prefixes)]);
    if (random_() % 2 == 0) head.push_back(0x0F);
    head.push_back(byte());
    if (random_() % 8 != 0) head.push_back(byte());
    for (int completion = 0; completion < 4; ++completion) {
      std::vector<u8> bytes = head;
      while (bytes.size() < 15) bytes.push_back(random_() % 4 == 0 ? u8{0xFF} : byte());
      if (random_() % 4 == 0) bytes.resize(1 + random_() % 15);
      compare(bytes, random_() % 16 != 0);
      if (HasFatalFailure()) return;
    }
  }
}

// All of ModRM and SIB on an opcode with a sign-extended immediate.
TEST_F(DecodeMemoTest, EveryAddress) {
  for (int pass = 0; pass < 2; ++pass) {
    for (u32 modrm = 0; modrm < 256; ++modrm) {
      for (u32 sib = 0; sib < 256; ++sib) {
        const u8 bytes[] = {0x83, static_cast<u8>(modrm), static_cast<u8>(sib), 0x81, 0x92, 0xA3, 0xB4, 0xC5, 0xD6, 0xE7, 1, 2, 3, 4, 5};
        compare(bytes, true);
        if (HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace ring3
