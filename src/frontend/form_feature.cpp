#include "frontend/form_feature.h"

namespace ring3 {

namespace {

// Rows of SSE2 and later whose column is about XMM operands, with MMX registers alone.
Feature mmx_form(const Insn& insn, Feature row) {
  switch (insn.row) {
    case Row::pavgb:
    case Row::pavgw:
    case Row::pextrw:
    case Row::pinsrw:
    case Row::pmaxsw:
    case Row::pmaxub:
    case Row::pminsw:
    case Row::pminub:
    case Row::pmovmskb:
    case Row::pmulhuw:
    case Row::psadbw: return Feature::sse;
    case Row::cvtpd2pi:  // XMM operand in memory
    case Row::cvttpd2pi:
    case Row::paddq:
    case Row::pmuludq:
    case Row::psubq: return Feature::sse2;
    default: return row == Feature::sse2 ? Feature::mmx : row;
  }
}

}  // namespace

Feature form_feature(const Insn& insn) {
  const Feature row = insn.info().feature;
  const u8* const opcode = &insn.bytes[insn.opcode_offset];
  bool mmx = false;
  bool xmm = false;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& o = insn.operand[i];
    if (o.kind != OperandKind::reg) continue;
    mmx |= o.reg_class == RegClass::mmx;
    xmm |= o.reg_class == RegClass::xmm;
    if (o.reg_class == RegClass::control && o.reg == 4) return Feature::cr4;
  }
  if (mmx && !xmm) return mmx_form(insn, row);
  if (insn.row == Row::pextrw && opcode[1] == 0x3A) return Feature::sse41;
  if (insn.row == Row::nop && opcode[0] == 0x0F) return opcode[1] == 0x0D ? Feature::prefetchw : Feature::p6;
  return row;
}

}  // namespace ring3
