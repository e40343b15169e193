#include "frontend/decoder.h"

#include "frontend/form_feature.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <utility>

namespace ring3 {

namespace {

// Mnemonics that mean several rows; `refine` chooses. All others map one to one.
Row refine(Row row, const ZydisDecodedInstruction& in, std::span<const ZydisDecodedOperand> operands) {
  const auto is_class = [&](std::size_t n, ZydisRegisterClass wanted) {
    return n < operands.size() && operands[n].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(operands[n].reg.value) == wanted;
  };
  switch (in.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
      if (is_class(0, ZYDIS_REGCLASS_SEGMENT)) return Row::mov_to_sreg;
      if (is_class(1, ZYDIS_REGCLASS_SEGMENT)) return Row::mov_from_sreg;
      if (is_class(0, ZYDIS_REGCLASS_CONTROL)) return Row::mov_to_cr;
      if (is_class(1, ZYDIS_REGCLASS_CONTROL)) return Row::mov_from_cr;
      if (is_class(0, ZYDIS_REGCLASS_DEBUG)) return Row::mov_to_dr;
      if (is_class(1, ZYDIS_REGCLASS_DEBUG)) return Row::mov_from_dr;
      return Row::mov;
    case ZYDIS_MNEMONIC_PUSH: return is_class(0, ZYDIS_REGCLASS_SEGMENT) ? Row::push_sreg : Row::push;
    case ZYDIS_MNEMONIC_POP: return is_class(0, ZYDIS_REGCLASS_SEGMENT) ? Row::pop_sreg : Row::pop;
    case ZYDIS_MNEMONIC_CALL: return in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? Row::call_far : Row::call;
    case ZYDIS_MNEMONIC_JMP: return in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? Row::jmp_far : Row::jmp;
    case ZYDIS_MNEMONIC_RET: return in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? Row::ret_far : Row::ret;
    case ZYDIS_MNEMONIC_MOVSD: return in.meta.category == ZYDIS_CATEGORY_STRINGOP ? Row::movsd : Row::movsd_xmm;
    case ZYDIS_MNEMONIC_CMPSD: return in.meta.category == ZYDIS_CATEGORY_STRINGOP ? Row::cmpsd : Row::cmpsd_xmm;
    default: return row;
  }
}

struct RegisterName {
  RegClass reg_class;
  u8 number;
};

bool name_register(ZydisRegister reg, RegisterName& out) {
  const auto in_range = [&](ZydisRegister first, unsigned count, RegClass reg_class) {
    if (reg < first || static_cast<unsigned>(reg - first) >= count) return false;
    out = {reg_class, static_cast<u8>(reg - first)};
    return true;
  };
  return in_range(ZYDIS_REGISTER_EAX, 8, RegClass::gpr32) || in_range(ZYDIS_REGISTER_AX, 8, RegClass::gpr16) ||
         in_range(ZYDIS_REGISTER_AL, 8, RegClass::gpr8) || in_range(ZYDIS_REGISTER_XMM0, 8, RegClass::xmm) ||
         in_range(ZYDIS_REGISTER_MM0, 8, RegClass::mmx) || in_range(ZYDIS_REGISTER_ST0, 8, RegClass::x87) ||
         in_range(ZYDIS_REGISTER_ES, 6, RegClass::segment) || in_range(ZYDIS_REGISTER_CR0, 8, RegClass::control) ||
         in_range(ZYDIS_REGISTER_DR0, 8, RegClass::debug);
}

u8 gpr_number(ZydisRegister reg) {
  RegisterName name{};
  return reg != ZYDIS_REGISTER_NONE && name_register(reg, name) ? name.number : no_reg;
}

Slot slot_of(ZydisOperandEncoding encoding) {
  switch (encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG: return Slot::modrm_reg;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM: return Slot::modrm_rm;
    case ZYDIS_OPERAND_ENCODING_OPCODE: return Slot::opcode;
    case ZYDIS_OPERAND_ENCODING_NONE: return Slot::implicit;
    default: return Slot::immediate;
  }
}

bool is_explicit_memory(const ZydisDecodedOperand& op) {
  return op.type == ZYDIS_OPERAND_TYPE_MEMORY &&
         (op.encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM || op.encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64);
}

// Instructions with an implicit memory operand whose segment an override changes: the source of string instructions, XLAT, MASKMOV.
void set_segment(const ZydisDecodedInstruction& in, Insn& out) {
  for (unsigned i = 0; i < in.raw.prefix_count; ++i) {
    const auto use = [&](Seg seg) {
      out.mem.segment = seg;
      out.segment_override = true;
    };
    switch (in.raw.prefixes[i].value) {
      case 0x26: use(Seg::es); break;
      case 0x2E: use(Seg::cs); break;
      case 0x36: use(Seg::ss); break;
      case 0x3E: use(Seg::ds); break;
      case 0x64: use(Seg::fs); break;
      case 0x65: use(Seg::gs); break;
      default: break;
    }
  }
}

bool convert_operand(const ZydisDecodedInstruction& in, const ZydisDecodedOperand& op, Insn& out) {
  Operand& o = out.operand[out.operand_count];
  o.size = static_cast<u8>(op.size / 8);
  o.slot = slot_of(op.encoding);
  o.read = (op.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
  o.written = (op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  switch (op.type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: {
      RegisterName name{};
      if (!name_register(op.reg.value, name)) return false;
      o.kind = OperandKind::reg;
      o.reg_class = name.reg_class;
      o.reg = name.number;
      break;
    }
    case ZYDIS_OPERAND_TYPE_MEMORY: {
      o.kind = OperandKind::mem;
      if (!is_explicit_memory(op)) break;
      RegisterName seg{};
      if (!name_register(op.mem.segment, seg)) return false;
      out.has_memory = true;
      out.mem.segment = static_cast<Seg>(seg.number);
      out.mem.base = gpr_number(op.mem.base);
      out.mem.index = gpr_number(op.mem.index);
      out.mem.scale = op.mem.scale == 0 ? u8{1} : op.mem.scale;
      out.mem.displacement = static_cast<u32>(in.raw.disp.value);
      break;
    }
    case ZYDIS_OPERAND_TYPE_POINTER:
      o.kind = OperandKind::far_pointer;
      out.imm = op.ptr.offset;
      out.imm2 = op.ptr.segment;
      break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
      if (op.imm.is_relative) {
        o.kind = OperandKind::rel;
        out.target = static_cast<u32>(op.imm.value.s);
        break;
      }
      o.kind = OperandKind::imm;
      if (in.mnemonic == ZYDIS_MNEMONIC_ENTER && out.operand_count == 1) {
        out.imm2 = static_cast<u32>(op.imm.value.u);
      } else {
        out.imm = static_cast<u32>(op.imm.value.u);
      }
      break;
    default: return false;
  }
  ++out.operand_count;
  return true;
}

}  // namespace

struct Decoder::Impl {
  ZydisDecoder code32;
  ZydisDecoder code16;
  std::array<Row, ZYDIS_MNEMONIC_MAX_VALUE + 1> rows;

  Impl() : code32{}, code16{} {
    ZydisDecoderInit(&code32, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&code16, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    // Extensions the guest's CPU does not have decode as what older CPUs see: LZCNT as BSR, ENDBR32 as NOP.
    for (ZydisDecoder* d : {&code32, &code16}) {
      for (const auto m : {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_LZCNT, ZYDIS_DECODER_MODE_TZCNT,
                           ZYDIS_DECODER_MODE_WBNOINVD, ZYDIS_DECODER_MODE_CLDEMOTE}) {
        ZydisDecoderEnableMode(d, m, ZYAN_FALSE);
      }
    }
    rows.fill(Row::invalid);
    const auto map = [&](ZydisMnemonic mnemonic, Row row) {
      if (rows[mnemonic] == Row::invalid) rows[mnemonic] = row;
    };
#define RING3_MAP(row, mnemonic, family, feature, emission, read, written, undefined) map(ZYDIS_MNEMONIC_##mnemonic, Row::row);
    RING3_ROWS(RING3_MAP)
#undef RING3_MAP
    map(ZYDIS_MNEMONIC_IRETD, Row::iret);
    map(ZYDIS_MNEMONIC_POPFD, Row::popf);
    map(ZYDIS_MNEMONIC_PUSHFD, Row::pushf);
    map(ZYDIS_MNEMONIC_POPAD, Row::popa);
    map(ZYDIS_MNEMONIC_PUSHAD, Row::pusha);
    map(ZYDIS_MNEMONIC_PREFETCHWT1, Row::prefetchw);  // a hint, like all of 0F 0D
  }
};

Decoder::Decoder() : impl_(new Impl) {}
Decoder::~Decoder() { delete impl_; }

DecodeStatus Decoder::decode(std::span<const u8> bytes, bool code32, Insn& out) const {
  out = Insn{};
  const std::size_t available = std::min<std::size_t>(bytes.size(), out.bytes.size());
  std::copy_n(bytes.begin(), available, out.bytes.begin());
  out.length = static_cast<u8>(available);

  ZydisDecodedInstruction in;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> all;
  const ZyanStatus status = ZydisDecoderDecodeFull(code32 ? &impl_->code32 : &impl_->code16, bytes.data(), available, &in, all.data());
  if (status == ZYDIS_STATUS_NO_MORE_DATA) return available == out.bytes.size() ? DecodeStatus::too_long : DecodeStatus::need_more;
  if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) return DecodeStatus::too_long;
  if (ZYAN_FAILED(status) || in.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) return DecodeStatus::invalid;

  const std::span<const ZydisDecodedOperand> operands(all.data(), in.operand_count_visible);
  const Row row = refine(impl_->rows[in.mnemonic], in, operands);
  if (row == Row::invalid || operands.size() > out.operand.size()) return DecodeStatus::invalid;

  out.length = in.length;
  bool operand_prefix = false;
  bool address_prefix = false;
  for (unsigned i = 0; i < in.raw.prefix_count; ++i) {
    const auto& prefix = in.raw.prefixes[i];
    operand_prefix |= prefix.value == 0x66;
    address_prefix |= prefix.value == 0x67;
    if (prefix.type == ZYDIS_PREFIX_TYPE_MANDATORY) out.mandatory_prefix = prefix.value;
  }
  out.operand_size = code32 != operand_prefix ? 4 : 2;
  out.address_size = code32 != address_prefix ? 4 : 2;
  if ((in.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) != 0) out.rep = Rep::rep;
  if ((in.attributes & ZYDIS_ATTRIB_HAS_REPNE) != 0) out.rep = Rep::repne;
  out.lock = (in.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
  out.opcode_offset = in.raw.prefix_count;
  out.modrm_offset = (in.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0 ? in.raw.modrm.offset : u8{0};
  out.imm_offset = in.raw.imm[0].size != 0 ? in.raw.imm[0].offset : u8{0};
  out.imm_size = static_cast<u8>((in.raw.imm[0].size + in.raw.imm[1].size) / 8);
  set_segment(in, out);
  for (const ZydisDecodedOperand& op : operands) {
    if (!convert_operand(in, op, out)) return DecodeStatus::invalid;
  }
  out.row = row;
  out.feature = form_feature(out);
  return DecodeStatus::ok;
}

}  // namespace ring3
