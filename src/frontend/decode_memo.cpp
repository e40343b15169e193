#include "frontend/decode_memo.h"

#include <cstring>

namespace ring3 {

namespace {

constexpr u32 key_valid = 1u << 31;
constexpr u32 key_bare = 1u << 25;  // SIB without base: a displacement follows
constexpr u32 key_escape = 1u << 24;

constexpr std::array<bool, 256> single_prefix = [] {
  std::array<bool, 256> table{};
  for (const int byte : {0x66, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65}) table[byte] = true;
  return table;
}();
bool is_single_prefix(u8 byte) { return single_prefix[byte]; }

template <typename T>
u32 extended(const u8* at) {
  T value{};
  std::memcpy(&value, at, sizeof value);
  return static_cast<u32>(static_cast<i64>(value));
}

}  // namespace

DecodeMemo::DecodeMemo() : slots_(std::make_unique<std::array<Slot, 1u << slot_bits>>()) {}

DecodeMemo::Shape DecodeMemo::shape_of(std::span<const u8> bytes) const {
  Shape shape;
  u32 at = 0;
  u8 prefix = 0;
  const auto next = [&](u8& out) {
    if (at >= bytes.size()) return false;
    out = bytes[at++];
    return true;
  };
  u8 opcode = 0;
  if (!next(opcode)) return shape;
  if (is_single_prefix(opcode)) {
    prefix = opcode;
    if (!next(opcode)) return shape;
  }
  const bool escape = opcode == 0x0F;
  if (escape && !next(opcode)) return shape;
  // A second prefix, 67h or a longer opcode is never known here: `keep` does not take it.
  const Presence modrm = has_modrm_[escape][opcode];
  if (modrm == Presence::unknown) return shape;
  u32 key = key_valid | (escape ? key_escape : 0) | u32{prefix} << 16 | u32{opcode} << 8;
  if (modrm == Presence::yes) {
    if (!next(shape.modrm)) return shape;
    key |= shape.modrm;
    shape.has_sib = shape.modrm < 0xC0 && (shape.modrm & 7u) == 4;
    if (shape.has_sib) {
      if (!next(shape.sib)) return shape;
      if (shape.modrm < 0x40 && (shape.sib & 7u) == 5) key |= key_bare;
    }
  }
  shape.behind = at;
  shape.key = key;
  return shape;
}

void DecodeMemo::set_memory(const Shape& shape, const u8* bytes, Insn& out) {
  MemOperand& mem = out.mem;
  const unsigned mod = shape.modrm >> 6;
  const u8* const displacement = bytes + shape.behind;
  const bool absolute = out.modrm_offset == 0 || (mod == 0 && !shape.has_sib && (shape.modrm & 7u) == 5);
  if (shape.has_sib) {
    const u8 base = shape.sib & 7u;
    const u8 index = (shape.sib >> 3) & 7u;
    const bool bare = mod == 0 && base == 5;
    mem.base = bare ? no_reg : base;
    mem.index = index == 4 ? no_reg : index;
    mem.scale = index == 4 ? u8{1} : static_cast<u8>(1u << (shape.sib >> 6));
    // SDM vol. 2, table 2-3 and 2.1.5: ESP and EBP as base are relative to SS.
    if (!out.segment_override) mem.segment = !bare && (base == esp || base == ebp) ? Seg::ss : Seg::ds;
    if (bare) {
      mem.displacement = extended<i32>(displacement);
      return;
    }
  }
  if (absolute || mod == 2) {
    mem.displacement = extended<i32>(displacement);
  } else if (mod == 1) {
    mem.displacement = extended<i8>(displacement);
  }
}

void DecodeMemo::set_immediate(Immediate immediate, const u8* bytes, Insn& out) {
  if (immediate == Immediate::none) return;
  const u8* const at = bytes + out.imm_offset;
  u32 value = 0;
  if (immediate == Immediate::unsigned_value) {
    value = out.imm_size == 1 ? *at : out.imm_size == 2 ? extended<u16>(at) : extended<u32>(at);
  } else {
    value = out.imm_size == 1 ? extended<i8>(at) : out.imm_size == 2 ? extended<i16>(at) : extended<i32>(at);
  }
  (immediate == Immediate::signed_target ? out.target : out.imm) = value;
}

bool DecodeMemo::decode(std::span<const u8> bytes, Insn& out) const {
  const Shape shape = shape_of(bytes);
  if (shape.key == 0) return false;
  const Slot& slot = (*slots_)[slot_of(shape.key)];
  if (slot.key != shape.key || slot.insn.length > bytes.size()) return false;
  out = slot.insn;
  if (bytes.size() >= out.bytes.size()) {
    std::memcpy(out.bytes.data(), bytes.data(), out.bytes.size());
  } else {
    out.bytes = {};
    std::memcpy(out.bytes.data(), bytes.data(), bytes.size());
  }
  if (out.has_memory) set_memory(shape, out.bytes.data(), out);
  set_immediate(slot.immediate, out.bytes.data(), out);
  return true;
}

void DecodeMemo::keep(const Insn& insn, bool immediate_signed) {
  constexpr u8 operand_size_prefix = 0x66;
  const u32 opcode_at = insn.opcode_offset;
  if (opcode_at > 1 || insn.address_size != 4 || (opcode_at == 1 && !is_single_prefix(insn.bytes[0]))) return;
  if (insn.operand_size == 2 && insn.bytes[0] != operand_size_prefix) return;
  const bool escape = insn.bytes[opcode_at] == 0x0F;
  const u8 opcode = insn.bytes[opcode_at + (escape ? 1 : 0)];
  if (escape && (opcode == 0x38 || opcode == 0x3A)) return;
  Immediate immediate = Immediate::none;
  if (insn.imm_size == 1 || insn.imm_size == 2 || insn.imm_size == 4) {
    immediate = immediate_signed ? Immediate::signed_value : Immediate::unsigned_value;
    for (unsigned i = 0; i < insn.operand_count; ++i) {
      if (insn.operand[i].kind == OperandKind::rel) immediate = Immediate::signed_target;
      if (insn.operand[i].kind == OperandKind::far_pointer) return;
    }
  } else if (insn.imm_size != 0) {
    return;
  }
  if (insn.row == Row::enter) return;  // two immediates
  has_modrm_[escape][opcode] = insn.modrm_offset != 0 ? Presence::yes : Presence::no;
  const Shape shape = shape_of({insn.bytes.data(), insn.length});
  if (shape.key == 0) return;
  (*slots_)[slot_of(shape.key)] = {shape.key, immediate, insn};
}

}  // namespace ring3
