// The guest's own instruction with host registers and host memory: prefixes, ModRM and SIB are rebuilt by hand from the decoder's
// offsets, so that what runs is what the guest wrote.
#include <cstring>

#include "frontend/alignment.h"
#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;

namespace {

constexpr unsigned none = ~0u;
constexpr u8 rex_base = 0x40;
constexpr u8 rex_r = 4;
constexpr u8 rex_x = 2;
constexpr u8 rex_b = 1;

bool is_gpr(const Operand& o) {
  return o.kind == OperandKind::reg && (o.reg_class == RegClass::gpr8 || o.reg_class == RegClass::gpr16 || o.reg_class == RegClass::gpr32);
}
bool is_high_byte(const Operand& o) { return o.kind == OperandKind::reg && o.reg_class == RegClass::gpr8 && o.reg >= 4; }
bool is_guest_esp(const Operand& o) {
  return o.kind == OperandKind::reg && (o.reg_class == RegClass::gpr16 || o.reg_class == RegClass::gpr32) && o.reg == esp;
}

bool touches_memory(const Insn& insn) {
  switch (insn.row) {
    case Row::nop:
    case Row::prefetch:
    case Row::prefetchw:
    case Row::prefetchnta:
    case Row::prefetcht0:
    case Row::prefetcht1:
    case Row::prefetcht2: return false;
    default: return insn.has_memory;
  }
}

// Rows of family mov that only hint: with a memory operand they neither access nor fault.
bool is_hint(const Insn& insn) { return insn.has_memory && !touches_memory(insn); }

}  // namespace

// Writes prefixes, REX, opcode, ModRM, SIB and immediate. Operand `substituted` (a high byte register) becomes r11b.
void Emitter::reencode(const Insn& insn, unsigned substituted) {
  std::array<u8, 24> out{};
  u32 n = 0;
  const auto put = [&](u8 byte) { out[n++] = byte; };
  for (u32 i = 0; i < insn.opcode_offset; ++i) {
    const u8 b = insn.bytes[i];
    // F2 and F3 without meaning here could select another instruction on the host (F3 BSF is TZCNT).
    const bool keep_rep = (b == 0xF2 || b == 0xF3) && b == insn.mandatory_prefix;
    if (b == 0x66 || b == 0xF0 || keep_rep) put(b);
  }

  if (insn.has_memory && place_.wraps) put(0x67);
  u8 rex = 0;
  u8 modrm = insn.modrm_offset != 0 ? insn.bytes[insn.modrm_offset] : u8{0};
  bool has_modrm = insn.modrm_offset != 0;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& o = insn.operand[i];
    if (i == substituted) {
      rex |= rex_base;
      if (o.slot == Slot::modrm_reg) {
        modrm = static_cast<u8>((modrm & 0xC7u) | (3u << 3));
        rex |= rex_r;
      } else {
        modrm = static_cast<u8>((modrm & 0xF8u) | 3u);
        rex |= rex_b;
      }
    } else if (is_gpr(o) && is_guest_esp(o)) {
      if (o.slot == Slot::modrm_reg) rex |= rex_base | rex_r;
      if (o.slot == Slot::modrm_rm || o.slot == Slot::opcode) rex |= rex_base | rex_b;
    }
  }

  std::array<u8, 3> opcode{};
  u32 opcode_length = 0;
  const u32 opcode_end = has_modrm ? insn.modrm_offset : (insn.imm_offset != 0 ? insn.imm_offset : insn.length);
  for (u32 i = insn.opcode_offset; i < opcode_end && opcode_length < opcode.size(); ++i) opcode[opcode_length++] = insn.bytes[i];
  if (opcode_length == 1) {
    const u8 op = opcode[0];
    if (op == 0x82) opcode[0] = 0x80;  // alias that 64-bit mode lacks
    if (op >= 0x40 && op <= 0x4F) {    // INC/DEC r: REX prefixes in 64-bit mode
      opcode[0] = 0xFF;
      modrm = static_cast<u8>(0xC0u | (op & 8u) | (op & 7u));
      has_modrm = true;
    }
  }
  if (!has_modrm && insn.has_memory) {  // MOV with an absolute address: A0..A3
    opcode_length = 1;
    const u8 op = opcode[0];
    opcode[0] = static_cast<u8>(op == 0xA0 ? 0x8A : op == 0xA1 ? 0x8B : op == 0xA2 ? 0x88 : 0x89);
    modrm = 0;
    has_modrm = true;
  }
  std::array<u8, 5> address{};  // SIB and displacement
  u32 address_length = 0;
  if (insn.has_memory) {
    constexpr u32 no_index = 4;  // as SIB says it
    const u32 index = place_.index.isValid() ? place_.index.id() : no_index;
    if (place_.base.id() >= 8) rex |= rex_base | rex_b;
    if (index >= 8) rex |= rex_base | rex_x;
    const i32 displacement = place_.displacement;
    const bool byte = displacement == static_cast<i8>(displacement);
    const u32 base = place_.base.id() & 7u;
    const u32 mod = displacement == 0 && base != 5 ? 0 : byte ? 1 : 2;
    if (index == no_index && base != 4) {
      modrm = static_cast<u8>((modrm & 0x38u) | mod << 6 | base);
    } else {
      modrm = static_cast<u8>((modrm & 0x38u) | mod << 6 | 4u);  // SIB
      address[address_length++] = static_cast<u8>(place_.shift << 6 | (index & 7u) << 3 | base);
    }
    std::memcpy(&address[address_length], &displacement, sizeof displacement);
    address_length += mod == 0 ? 0 : mod == 1 ? 1 : 4;
  }

  if (rex != 0) put(rex);
  for (u32 i = 0; i < opcode_length; ++i) put(opcode[i]);
  if (has_modrm) put(modrm);
  for (u32 i = 0; i < address_length; ++i) put(address[i]);
  for (u32 i = 0; i < insn.imm_size; ++i) put(insn.bytes[insn.imm_offset + i]);
  a_.embed(out.data(), n);
}

bool Emitter::emit_copy(const Insn& insn) {
  if (is_hint(insn)) return true;
  unsigned size = 0;
  bool aligned = false;
  bool written = insn.row == Row::cmpxchg || insn.row == Row::cmpxchg8b;  // always a write cycle (SDM vol. 2, CMPXCHG)
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind != OperandKind::mem) continue;
    size = insn.operand[i].size;
    aligned = needs_alignment(insn, insn.operand[i]);
    written |= insn.operand[i].written;
  }
  if (insn.has_memory && size == 0) return false;

  const Family family = insn.info().family;
  // Reals of 80 bits and images are accessed in pieces, each of which wraps at 64 KiB with a 16-bit address.
  if (family == Family::x87 && insn.address_size == 2 && size > 8) return false;
  if (family == Family::x87 || family == Family::mmx || family == Family::sse) check_fpu();
  if (insn.has_memory) operand_address(insn, size, written ? Table::write : Table::read, aligned);
  if (insn.row == Row::fldcw) fault_if_unmasking();
  bool needs_rex = insn.has_memory && (place_.base.id() >= 8 || (place_.index.isValid() && place_.index.id() >= 8));
  for (unsigned i = 0; i < insn.operand_count; ++i) needs_rex |= is_guest_esp(insn.operand[i]) && insn.operand[i].slot != Slot::implicit;
  unsigned substituted = none;
  if (needs_rex) {
    for (unsigned i = 0; i < insn.operand_count; ++i) {
      const Operand& o = insn.operand[i];
      if (is_high_byte(o) && o.slot != Slot::implicit && o.slot != Slot::opcode) substituted = i;
    }
  }
  if (substituted == none) {
    reencode(insn, none);
    return true;
  }
  const Operand& high = insn.operand[substituted];
  const Gp reg = x86::gpd(high.reg - 4u);
  a_.rorx(x86::r11d, reg, 8);
  reencode(insn, substituted);
  if (high.written) {
    a_.rorx(reg, reg, 8);
    a_.mov(high.reg == 4 ? x86::al : high.reg == 5 ? x86::cl : high.reg == 6 ? x86::dl : x86::bl, x86::r11b);
    a_.rorx(reg, reg, 24);
  }
  return true;
}

// A control word that unmasks an exception belongs to another mode (mode::x87_unmasked): the interpreter loads it. Its clear mask bits make
// the top of an address, which is canonical only without them.
void Emitter::fault_if_unmasking() {
  constexpr u32 masks = 0x3F;
  constexpr u32 top = 58;
  a_.movzx(x86::r11d, host_memory(2));
  a_.not_(x86::r11d);
  a_.mov(x86::r10d, masks);
  a_.pext(x86::r11d, x86::r11d, x86::r10d);
  a_.mov(x86::r10d, top);
  a_.shlx(x86::r11, x86::r11, x86::r10);
  a_.mov(x86::r10d, 10);
  a_.mov(x86::r11b, x86::byte_ptr(x86::r15, x86::r11));
}

bool Emitter::emit_lea(const Insn& insn) {
  const unsigned dst = insn.operand[0].reg;
  if (insn.operand_size == 4) {
    effective_address(insn, gpr32(dst));
    return true;
  }
  effective_address(insn, x86::r8d);
  a_.mov(gpr16(dst), x86::r8w);
  return true;
}

}  // namespace ring3
