// What each encoding needs, against the instruction set that Zydis' own tables (made from Intel's XED) give it, over the whole opcode
// space; and the forms where those tables name a mnemonic's set and not the form's, by hand.
#include "frontend/decoder.h"

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace ring3 {
namespace {

using Bytes = std::vector<u8>;

std::optional<Feature> of_set(ZydisISASet set) {
  static const std::map<ZydisISASet, Feature> known{
      {ZYDIS_ISA_SET_I86, Feature::base},
      {ZYDIS_ISA_SET_I186, Feature::base},
      {ZYDIS_ISA_SET_I286PROTECTED, Feature::base},
      {ZYDIS_ISA_SET_I286REAL, Feature::base},
      {ZYDIS_ISA_SET_I386, Feature::base},
      {ZYDIS_ISA_SET_LAHF, Feature::base},
      {ZYDIS_ISA_SET_I486, Feature::i486},
      {ZYDIS_ISA_SET_I486REAL, Feature::i486},
      {ZYDIS_ISA_SET_X87, Feature::x87},
      {ZYDIS_ISA_SET_RDPMC, Feature::rdpmc},
      {ZYDIS_ISA_SET_FAT_NOP, Feature::p6},
      {ZYDIS_ISA_SET_CMOV, Feature::cmov},
      {ZYDIS_ISA_SET_FCMOV, Feature::cmov_x87},
      {ZYDIS_ISA_SET_FXSAVE, Feature::fxsr},
      {ZYDIS_ISA_SET_PPRO, Feature::cmov_x87},  // FCOMI and its kin
      {ZYDIS_ISA_SET_PENTIUMMMX, Feature::mmx},
      {ZYDIS_ISA_SET_SSE, Feature::sse},
      {ZYDIS_ISA_SET_SSEMXCSR, Feature::sse},
      {ZYDIS_ISA_SET_SSE2, Feature::sse2},
      {ZYDIS_ISA_SET_SSE2MMX, Feature::sse2},
      {ZYDIS_ISA_SET_SSE3, Feature::sse3},
      {ZYDIS_ISA_SET_SSE3X87, Feature::sse3},
      {ZYDIS_ISA_SET_SSSE3, Feature::ssse3},
      {ZYDIS_ISA_SET_SSSE3MMX, Feature::ssse3},
      {ZYDIS_ISA_SET_SSE4, Feature::sse41},
      {ZYDIS_ISA_SET_SSE42, Feature::sse42},
      {ZYDIS_ISA_SET_POPCNT, Feature::popcnt},
      {ZYDIS_ISA_SET_MOVBE, Feature::movbe},
      {ZYDIS_ISA_SET_AES, Feature::aes},
      {ZYDIS_ISA_SET_PCLMULQDQ, Feature::pclmulqdq},
      {ZYDIS_ISA_SET_CLFSH, Feature::clflush},
      {ZYDIS_ISA_SET_RDTSCP, Feature::rdtscp},
      {ZYDIS_ISA_SET_RDRAND, Feature::rdrand},
      {ZYDIS_ISA_SET_RDSEED, Feature::rdseed},
      {ZYDIS_ISA_SET_PREFETCH_NOP, Feature::prefetchw},
      {ZYDIS_ISA_SET_PREFETCHWT1, Feature::prefetchw},
      {ZYDIS_ISA_SET_MONITOR, Feature::monitor},
  };
  const auto found = known.find(set);
  return found == known.end() ? std::nullopt : std::optional(found->second);
}

// MMX instructions that came with SSE (SDM vol. 1, 5.5.3 and 5.5.4); XED counts them as MMX.
bool mmx_of_sse(Row row) {
  constexpr std::array rows{Row::pavgb,  Row::pavgw,   Row::pextrw, Row::pinsrw, Row::pmaxsw,   Row::pmaxub, Row::pminsw,
                            Row::pminub, Row::pmulhuw, Row::psadbw, Row::pshufw, Row::maskmovq, Row::movntq};
  return std::ranges::find(rows, row) != rows.end();
}

// Rows whose Zydis set is wider than one feature or is about something else; they are in `ByHand`.
bool by_hand(Row row) {
  switch (row) {
    case Row::rdtsc:
    case Row::rdmsr:
    case Row::wrmsr:
    case Row::cmpxchg8b:
    case Row::sysenter:
    case Row::sysexit:
    case Row::ud0:
    case Row::ud1:
    case Row::ud2:
    case Row::nop:
    case Row::mov_from_cr:
    case Row::mov_to_cr:
    case Row::prefetchnta:
    case Row::prefetcht0:
    case Row::prefetcht1:
    case Row::prefetcht2:
    case Row::pause:
    case Row::salc: return true;
    default: return false;
  }
}

TEST(FormFeature, AgreesWithZydisOverTheOpcodeSpace) {
  const Decoder decoder;
  ZydisDecoder zydis;
  ZydisDecoderInit(&zydis, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
  for (const auto mode : {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_LZCNT, ZYDIS_DECODER_MODE_TZCNT}) {
    ZydisDecoderEnableMode(&zydis, mode, ZYAN_FALSE);
  }
  std::set<Row> seen;
  std::set<std::string> told;
  for (const Bytes& prefix : {Bytes{}, Bytes{0x66}, Bytes{0xF3}, Bytes{0xF2}, Bytes{0x67}}) {
    for (const Bytes& escape : {Bytes{}, Bytes{0x0F}, Bytes{0x0F, 0x38}, Bytes{0x0F, 0x3A}}) {
      for (unsigned opcode = 0; opcode < 0x10000; ++opcode) {  // and ModRM
        Bytes bytes = prefix;
        bytes.insert(bytes.end(), escape.begin(), escape.end());
        bytes.push_back(static_cast<u8>(opcode >> 8));
        bytes.push_back(static_cast<u8>(opcode));
        bytes.resize(15);
        Insn insn;
        if (decoder.decode(bytes, true, insn) != DecodeStatus::ok || by_hand(insn.row)) continue;
        ZydisDecodedInstruction in;
        ASSERT_TRUE(ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&zydis, nullptr, bytes.data(), bytes.size(), &in)));
        seen.insert(insn.row);
        const bool sse_on_mmx = in.meta.isa_set == ZYDIS_ISA_SET_PENTIUMMMX && mmx_of_sse(insn.row);
        const std::optional<Feature> wanted = sse_on_mmx ? Feature::sse : of_set(in.meta.isa_set);
        if (wanted == insn.feature) continue;
        const std::string text = std::string(row_name(insn.row)) + " feature " + std::to_string(static_cast<int>(insn.feature)) + ", " +
                                 ZydisISASetGetString(in.meta.isa_set);
        if (told.insert(text).second) {
          ADD_FAILURE() << text << ": " << std::hex << +bytes[0] << ' ' << +bytes[1] << ' ' << +bytes[2] << ' ' << +bytes[3];
        }
      }
    }
  }
  for (unsigned n = 0; n < row_count; ++n) {
    const Row row = static_cast<Row>(n);
    EXPECT_TRUE(by_hand(row) || seen.contains(row)) << row_name(row);
  }
}

Feature feature(std::initializer_list<int> bytes) {
  Bytes v;
  for (const int b : bytes) v.push_back(static_cast<u8>(b));
  Insn insn;
  EXPECT_EQ(Decoder().decode(v, true, insn), DecodeStatus::ok);
  return insn.feature;
}

TEST(FormFeature, ByHand) {
  EXPECT_EQ(feature({0x0F, 0x31}), Feature::tsc);
  EXPECT_EQ(feature({0x0F, 0x32}), Feature::msr);
  EXPECT_EQ(feature({0x0F, 0x30}), Feature::msr);
  EXPECT_EQ(feature({0x0F, 0xC7, 0x0B}), Feature::cx8);
  EXPECT_EQ(feature({0x0F, 0x34}), Feature::sep);
  EXPECT_EQ(feature({0x0F, 0x35}), Feature::sep);
  EXPECT_EQ(feature({0x0F, 0x0B}), Feature::base);        // ud2: #UD on all
  EXPECT_EQ(feature({0x0F, 0xB9, 0xC0}), Feature::base);  // ud1
  EXPECT_EQ(feature({0xD6}), Feature::base);              // salc
  EXPECT_EQ(feature({0xF3, 0x90}), Feature::base);        // pause: a NOP on older CPUs
  EXPECT_EQ(feature({0x90}), Feature::base);
  EXPECT_EQ(feature({0x66, 0x90}), Feature::base);
  EXPECT_EQ(feature({0x0F, 0x1F, 0x00}), Feature::p6);
  EXPECT_EQ(feature({0x66, 0x0F, 0x1F, 0x44, 0x00, 0x00}), Feature::p6);
  EXPECT_EQ(feature({0x0F, 0x19, 0xC0}), Feature::p6);
  EXPECT_EQ(feature({0xF3, 0x0F, 0x1E, 0xFB}), Feature::p6);  // endbr32
  // The hints of SSE take encodings that were NOPs since the Pentium Pro (SDM vol. 2, appendix A, 0F 18).
  for (const int modrm : {0x00, 0x08, 0x10, 0x18, 0x20, 0xC0}) EXPECT_EQ(feature({0x0F, 0x18, modrm}), Feature::p6) << modrm;
  for (const int modrm : {0x00, 0x08, 0x10, 0xC8}) EXPECT_EQ(feature({0x0F, 0x0D, modrm}), Feature::prefetchw) << modrm;
  EXPECT_EQ(feature({0x0F, 0x20, 0xC0}), Feature::base);  // mov eax, cr0
  EXPECT_EQ(feature({0x0F, 0x20, 0xE0}), Feature::cr4);
  EXPECT_EQ(feature({0x0F, 0x22, 0xD8}), Feature::base);  // mov cr3, eax
  EXPECT_EQ(feature({0x0F, 0x22, 0xE0}), Feature::cr4);
}

TEST(FormFeature, MmxFormsAreOlderThanXmmForms) {
  EXPECT_EQ(feature({0x0F, 0xFC, 0xC1}), Feature::mmx);         // paddb mm
  EXPECT_EQ(feature({0x66, 0x0F, 0xFC, 0xC1}), Feature::sse2);  // paddb xmm
  EXPECT_EQ(feature({0x0F, 0x6E, 0xC1}), Feature::mmx);         // movd mm
  EXPECT_EQ(feature({0x0F, 0x7F, 0x03}), Feature::mmx);         // movq [ebx], mm
  EXPECT_EQ(feature({0x0F, 0xE0, 0xC1}), Feature::sse);         // pavgb mm
  EXPECT_EQ(feature({0x0F, 0xC5, 0xC1, 0}), Feature::sse);      // pextrw r, mm
  EXPECT_EQ(feature({0x66, 0x0F, 0xC5, 0xC1, 0}), Feature::sse2);
  EXPECT_EQ(feature({0x66, 0x0F, 0x3A, 0x15, 0xC1, 0}), Feature::sse41);
  EXPECT_EQ(feature({0x0F, 0xD4, 0xC1}), Feature::sse2);         // paddq mm
  EXPECT_EQ(feature({0x66, 0x0F, 0x2D, 0x03}), Feature::sse2);   // cvtpd2pi mm, [ebx]
  EXPECT_EQ(feature({0x0F, 0x38, 0x1C, 0xC1}), Feature::ssse3);  // pabsb mm
}

}  // namespace
}  // namespace ring3
