// Decoded fields against encodings worked out by hand from the opcode maps (Intel SDM vol. 2, appendix A).
#include "frontend/decoder.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

namespace ring3 {
namespace {

Insn decode(std::initializer_list<int> bytes, DecodeStatus expected = DecodeStatus::ok, bool code32 = true) {
  std::vector<u8> v;
  for (int b : bytes) v.push_back(static_cast<u8>(b));
  Insn insn;
  EXPECT_EQ(Decoder().decode(v, code32, insn), expected);
  return insn;
}

TEST(Decoder, MemoryOperand) {
  const Insn i = decode({0x8B, 0x44, 0x8D, 0xF0});  // mov eax, [ebp+ecx*4-16]
  EXPECT_EQ(i.row, Row::mov);
  EXPECT_EQ(i.length, 4);
  EXPECT_TRUE(i.has_memory);
  EXPECT_EQ(i.mem.segment, Seg::ss);
  EXPECT_EQ(i.mem.base, ebp);
  EXPECT_EQ(i.mem.index, ecx);
  EXPECT_EQ(i.mem.scale, 4);
  EXPECT_EQ(i.mem.displacement, 0xFFFFFFF0u);
  EXPECT_EQ(i.modrm_offset, 1);
  EXPECT_EQ(i.operand[0].slot, Slot::modrm_reg);
  EXPECT_TRUE(i.operand[0].written);
  EXPECT_FALSE(i.operand[1].written);
}

TEST(Decoder, SplitRows) {
  EXPECT_EQ(decode({0x8E, 0xD8}).row, Row::mov_to_sreg);
  EXPECT_EQ(decode({0x8C, 0xD8}).row, Row::mov_from_sreg);
  EXPECT_EQ(decode({0x0F, 0x20, 0xC0}).row, Row::mov_from_cr);
  EXPECT_EQ(decode({0x0F, 0x22, 0xD8}).row, Row::mov_to_cr);
  EXPECT_EQ(decode({0x1E}).row, Row::push_sreg);
  EXPECT_EQ(decode({0x0F, 0xA1}).row, Row::pop_sreg);
  EXPECT_EQ(decode({0x9A, 1, 2, 3, 4, 8, 0}).row, Row::call_far);
  EXPECT_EQ(decode({0xFF, 0xD0}).row, Row::call);
  EXPECT_EQ(decode({0xCB}).row, Row::ret_far);
  EXPECT_EQ(decode({0xA5}).row, Row::movsd);
  EXPECT_EQ(decode({0xF2, 0x0F, 0x10, 0xC1}).row, Row::movsd_xmm);
  EXPECT_EQ(decode({0xF2, 0x0F, 0xC2, 0xC1, 0}).row, Row::cmpsd_xmm);
  EXPECT_EQ(decode({0xCF}).row, Row::iret);
}

TEST(Decoder, FarPointerAndEnter) {
  const Insn far = decode({0xEA, 0x78, 0x56, 0x34, 0x12, 0x10, 0x00});
  EXPECT_EQ(far.imm, 0x12345678u);
  EXPECT_EQ(far.imm2, 0x10u);
  const Insn enter = decode({0xC8, 0x34, 0x12, 0x05});
  EXPECT_EQ(enter.imm, 0x1234u);
  EXPECT_EQ(enter.imm2, 5u);
}

TEST(Decoder, PrefixesAndSizes) {
  const Insn i = decode({0x66, 0x65, 0xA1, 0x10, 0x20, 0x30, 0x40});  // mov ax, gs:[0x40302010]
  EXPECT_EQ(i.operand_size, 2);
  EXPECT_EQ(i.address_size, 4);
  EXPECT_EQ(i.mem.segment, Seg::gs);
  EXPECT_EQ(i.mem.displacement, 0x40302010u);
  EXPECT_EQ(i.opcode_offset, 2);
  const Insn rep = decode({0xF3, 0x26, 0xA4});  // rep movs with ES: as source segment
  EXPECT_EQ(rep.rep, Rep::rep);
  EXPECT_EQ(rep.mem.segment, Seg::es);
  EXPECT_EQ(decode({0xF2, 0xAE}).rep, Rep::repne);
  EXPECT_TRUE(decode({0xF0, 0x01, 0x03}).lock);
  EXPECT_EQ(decode({0x66, 0x0F, 0x6F, 0x03}).mandatory_prefix, 0x66);
}

TEST(Decoder, Immediates) {
  const Insn i = decode({0x83, 0xC0, 0xFF});  // add eax, -1
  EXPECT_EQ(i.imm, 0xFFFFFFFFu);
  EXPECT_EQ(i.imm_offset, 2);
  EXPECT_EQ(i.imm_size, 1);
  EXPECT_EQ(decode({0xD1, 0xE0}).imm, 1u);
  EXPECT_EQ(decode({0xD1, 0xE0}).imm_size, 0);
  const Insn j = decode({0x75, 0xFE});
  EXPECT_EQ(j.row, Row::jnz);
  EXPECT_EQ(j.target, 0xFFFFFFFEu);
}

TEST(Decoder, IllegalForms) {
  decode({0xF0, 0x89, 0xC0}, DecodeStatus::invalid);        // lock mov
  decode({0xF0, 0x01, 0xC0}, DecodeStatus::invalid);        // lock add on a register
  decode({0x8E, 0xC8}, DecodeStatus::invalid);              // mov cs, ax
  decode({0x0F, 0x05}, DecodeStatus::invalid);              // syscall: not in 32-bit mode of this model
  decode({0xC5, 0xF8, 0x57, 0xC0}, DecodeStatus::invalid);  // vxorps
  decode({0x8B}, DecodeStatus::need_more);
  decode({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90}, DecodeStatus::too_long);
}

TEST(Decoder, ExtensionsTheModelLacksDecodeAsOldCpusSeeThem) {
  EXPECT_EQ(decode({0xF3, 0x0F, 0x1E, 0xFB}).row, Row::nop);  // endbr32
  EXPECT_EQ(decode({0xF3, 0x0F, 0xBD, 0xC1}).row, Row::bsr);  // lzcnt
  EXPECT_EQ(decode({0xF3, 0x0F, 0xBC, 0xC1}).row, Row::bsf);  // tzcnt
}

}  // namespace
}  // namespace ring3
