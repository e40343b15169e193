#include "frontend/decoder.h"

#include "frontend/decode_memo.h"
#include "frontend/form_feature.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <optional>
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

bool is_prefix(u8 b) {
  return b == 0x66 || b == 0x67 || b == 0xF0 || b == 0xF2 || b == 0xF3 || b == 0x26 || b == 0x2E || b == 0x36 || b == 0x3E || b == 0x64 ||
         b == 0x65;
}

// Where Zydis goes on to opcodes and immediates that the guest's CPU does not look for: 3DNow!, XOP and SSE4a are AMD's; C4, C5 and 62 with
// a register are VEX and EVEX to others. (0F 78 and 0F 79 without prefix are VMREAD and VMWRITE, which no CPU model has.)
bool is_undefined_at_once(std::span<const u8> bytes) {
  std::size_t at = 0;
  while (at < bytes.size() && is_prefix(bytes[at])) ++at;
  if (bytes.size() - at < 2) return false;
  const bool three_d_now = bytes[at] == 0x0F && bytes[at + 1] == 0x0F;
  const bool sse4a = bytes[at] == 0x0F && (bytes[at + 1] == 0x78 || bytes[at + 1] == 0x79);
  const bool xop = bytes[at] == 0x8F && (bytes[at + 1] & 0x38u) != 0;
  const bool vex = (bytes[at] == 0xC4 || bytes[at] == 0xC5 || bytes[at] == 0x62) && bytes[at + 1] >= 0xC0;
  return three_d_now || sse4a || xop || vex;
}

// What follows an undefined opcode, as far as a CPU fetches it before it raises #UD.
struct Tail {
  bool modrm = true;
  bool registers = false;  // ModRM always names registers: no SIB, no displacement
  u8 immediate = 0;        // bytes
};

// Of the two-byte opcodes (SDM vol. 2, table A-3), as Intel's CPUs do it.
Tail tail_of_two_byte(u8 opcode) {
  switch (opcode) {
    case 0x04:
    case 0x0A:
    case 0x0C:
    case 0x0E:
    case 0x0F:
    case 0x24:
    case 0x25:
    case 0x26:
    case 0x27:
    case 0x36:
    case 0x37:
    case 0x77: return {false, false, 0};
    case 0x20:
    case 0x21:
    case 0x22:
    case 0x23: return {true, true, 0};
    case 0x70:
    case 0x71:
    case 0x72:
    case 0x73:
    case 0xBA:
    case 0xC2:
    case 0xC4:
    case 0xC5:
    case 0xC6: return {true, false, 1};
    default: return {true, false, 0};
  }
}

// Undefined opcodes have a length too: a CPU fetches all of it before it raises #UD, so one of more than 15 bytes raises #GP and one that
// reaches into an absent page #PF. `bytes` start with the prefixes; 0: they end inside the instruction.
unsigned undefined_length(std::span<const u8> bytes, bool code32) {
  std::size_t at = 0;
  bool address32 = code32;
  bool operand32 = code32;
  for (; at < bytes.size() && is_prefix(bytes[at]); ++at) {
    if (bytes[at] == 0x67) address32 = !code32;
    if (bytes[at] == 0x66) operand32 = !code32;
  }
  const auto next = [&](u8& out) {
    if (at >= bytes.size()) return false;
    out = bytes[at++];
    return true;
  };
  u8 opcode = 0;
  Tail tail;
  if (!next(opcode)) return 0;
  if (opcode == 0x0F) {
    if (!next(opcode)) return 0;
    tail = tail_of_two_byte(opcode);
    // Three-byte opcodes, those of the escapes that have never been used included.
    if (opcode >= 0x38 && opcode <= 0x3F) {
      tail.immediate = (opcode & 2u) != 0 ? 1 : 0;
      if (!next(opcode)) return 0;
    }
  } else if (opcode == 0xC6 || opcode == 0xC7) {
    tail.immediate = opcode == 0xC6 ? 1 : operand32 ? 4 : 2;
  }
  unsigned displacement = 0;
  if (tail.modrm) {
    u8 modrm = 0;
    if (!next(modrm)) return 0;
    const unsigned mod = tail.registers ? 3 : modrm >> 6;
    const unsigned rm = modrm & 7u;
    displacement = mod == 1 ? 1 : 0;
    if (mod != 3 && address32) {
      u8 sib = 5;
      if (rm == 4 && !next(sib)) return 0;
      const unsigned base = rm == 4 ? sib & 7u : rm;
      if (mod == 2 || (mod == 0 && base == 5)) displacement = 4;
    } else if (mod == 2 || (mod == 0 && rm == 6)) {
      displacement = 2;
    }
  }
  const std::size_t length = at + displacement + tail.immediate;
  return length <= bytes.size() ? static_cast<unsigned>(length) : 0;
}

}  // namespace

struct Decoder::Impl {
  ZydisDecoder code32;
  ZydisDecoder code16;
  std::array<Row, ZYDIS_MNEMONIC_MAX_VALUE + 1> rows;
  std::optional<DecodeMemo> memo;  // of 32-bit code

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

  // 0: the bytes end inside the instruction. A LOCK prefix may be all that is wrong with it.
  [[nodiscard]] unsigned length_of_undefined(std::span<const u8> bytes, bool is_code32) const {
    constexpr u8 lock = 0xF0;
    constexpr u8 ds = 0x3E;
    std::array<u8, 15> unlocked{};
    std::copy(bytes.begin(), bytes.end(), unlocked.begin());
    for (std::size_t i = 0; i < bytes.size() && is_prefix(unlocked[i]); ++i) {
      if (unlocked[i] == lock) unlocked[i] = ds;
    }
    ZydisDecodedInstruction in;
    if (is_undefined_at_once(bytes)) return undefined_length(bytes, is_code32);
    const ZyanStatus status = ZydisDecoderDecodeInstruction(is_code32 ? &code32 : &code16, nullptr, unlocked.data(), bytes.size(), &in);
    if (status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) return 0;
    return ZYAN_SUCCESS(status) ? in.length : undefined_length(bytes, is_code32);
  }
};

Decoder::Decoder(Memory memory) : impl_(new Impl) {
  if (memory == Memory::some) impl_->memo.emplace();
}
Decoder::~Decoder() { delete impl_; }

DecodeStatus Decoder::decode(std::span<const u8> bytes, bool code32, Insn& out) const {
  if (code32 && impl_->memo && impl_->memo->decode(bytes, out)) return DecodeStatus::ok;
  return decode_fully(bytes, code32, out);
}

DecodeStatus Decoder::decode_fully(std::span<const u8> bytes, bool code32, Insn& out) const {
  out = Insn{};
  const std::size_t available = std::min<std::size_t>(bytes.size(), out.bytes.size());
  std::copy_n(bytes.begin(), available, out.bytes.begin());
  out.length = static_cast<u8>(available);

  ZydisDecodedInstruction in;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> all;
  const ZyanStatus status = ZydisDecoderDecodeFull(code32 ? &impl_->code32 : &impl_->code16, bytes.data(), available, &in, all.data());
  // Too long is what 15 fetched bytes do not complete, not what fewer promise.
  const DecodeStatus incomplete = available == out.bytes.size() ? DecodeStatus::too_long : DecodeStatus::need_more;
  const auto invalid = [&] {
    const unsigned length = impl_->length_of_undefined(bytes.first(available), code32);
    if (length == 0) return incomplete;
    out.length = static_cast<u8>(length);
    return DecodeStatus::invalid;
  };
  if (is_undefined_at_once(bytes.first(available))) return invalid();
  if (status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) return incomplete;
  if (ZYAN_FAILED(status) || in.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) return invalid();

  const std::span<const ZydisDecodedOperand> operands(all.data(), in.operand_count_visible);
  const Row row = refine(impl_->rows[in.mnemonic], in, operands);
  if (row == Row::invalid || operands.size() > out.operand.size()) return invalid();

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
    if (!convert_operand(in, op, out)) return invalid();
  }
  out.row = row;
  out.feature = form_feature(out);
  if (code32 && impl_->memo) impl_->memo->keep(out, in.raw.imm[0].is_signed);
  return DecodeStatus::ok;
}

}  // namespace ring3
