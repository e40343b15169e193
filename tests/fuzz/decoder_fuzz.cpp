// Bytes through the decoder. The first byte's lowest bit is CS.D, the rest is code.
#include "frontend/decoder.h"
#include "fuzz/invariant.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace ring3::fuzz {
namespace {

constexpr u32 longest = 15;
constexpr u32 seg_count = 6;

void check_operand(const Insn& i, const Operand& o) {
  const u32 registers = o.reg_class == RegClass::segment ? seg_count : 8;
  require(o.kind != OperandKind::none, "an explicit operand is something");
  require(o.kind != OperandKind::reg || o.reg < registers, "register numbers exist");
  require(o.kind != OperandKind::mem || i.has_memory || o.slot == Slot::implicit, "an encoded memory operand is described");
  require(o.kind != OperandKind::reg || o.slot == Slot::implicit || o.slot == Slot::opcode || i.modrm_offset != 0,
          "registers come from ModRM or from the opcode");
}

void check_memory(const Insn& i) {
  require(static_cast<u32>(i.mem.segment) < seg_count, "the segment exists");
  require(i.mem.base == no_reg || i.mem.base < 8, "the base exists");
  require(i.mem.index == no_reg || i.mem.index < 8, "the index exists");
  require(i.mem.scale == 1 || i.mem.scale == 2 || i.mem.scale == 4 || i.mem.scale == 8, "the scale is one of four");
  require(i.address_size == 4 || i.mem.scale == 1, "16-bit addresses have no scale (SDM vol. 2, table 2-1)");
}

void check(const Insn& i, std::span<const u8> code) {
  require(i.row != Row::invalid && static_cast<u32>(i.row) < row_count, "a decoded instruction has a row");
  require(i.length >= 1 && i.length <= longest && i.length <= code.size(), "the length lies in 1..15 and in the input");
  require(std::equal(code.begin(), code.begin() + i.length, i.bytes.begin()), "the bytes are the guest's");
  require(i.opcode_offset < i.length, "the opcode lies inside");
  require(i.modrm_offset == 0 || (i.modrm_offset > i.opcode_offset && i.modrm_offset < i.length), "ModRM lies behind the opcode");
  require(i.imm_offset == 0 || (i.imm_offset > i.opcode_offset && i.imm_offset > i.modrm_offset), "immediates lie behind the opcode");
  require((i.imm_offset == 0) == (i.imm_size == 0), "an immediate has place and size, or neither");
  require(i.imm_offset == 0 || i.imm_offset + i.imm_size == i.length, "immediates end the instruction");
  require(i.operand_size == 2 || i.operand_size == 4, "the operand size is 2 or 4");
  require(i.address_size == 2 || i.address_size == 4, "the address size is 2 or 4");
  require(i.operand_count <= i.operand.size(), "operands fit");
  for (u32 n = 0; n < i.operand_count; ++n) check_operand(i, i.operand[n]);
  if (i.has_memory) check_memory(i);
}

bool same(const Insn& a, const Insn& b) {
  return a.row == b.row && a.length == b.length && a.rep == b.rep && a.lock == b.lock && a.imm == b.imm && a.imm2 == b.imm2 &&
         a.target == b.target && a.mem.base == b.mem.base && a.mem.index == b.mem.index && a.mem.displacement == b.mem.displacement &&
         a.operand_count == b.operand_count;
}

void run(std::span<const u8> code, bool code32) {
  static const Decoder decoder;
  Insn insn;
  const DecodeStatus status = decoder.decode(code, code32, insn);
  if (status == DecodeStatus::need_more) require(code.size() < longest, "15 bytes are always enough to know");
  if (status == DecodeStatus::too_long) {
    // Known as soon as a field must end behind byte 15, also when the input ends before.
    std::array<u8, longest> padded{};
    std::copy_n(code.begin(), std::min<std::size_t>(code.size(), longest), padded.begin());
    Insn more;
    require(decoder.decode(padded, code32, more) == DecodeStatus::too_long, "too long stays too long, whatever follows");
  }
  if (status != DecodeStatus::ok) {
    require(insn.row == Row::invalid, "what is not decoded has no row");
    require(insn.length <= std::min<std::size_t>(code.size(), longest), "its length stays inside the input");
    return;
  }
  check(insn, code);
  // What follows an instruction does not change it, and every byte of it counts.
  Insn again;
  require(decoder.decode(code.first(insn.length), code32, again) == DecodeStatus::ok && same(insn, again), "only its own bytes matter");
  require(decoder.decode(code.first(insn.length - 1u), code32, again) == DecodeStatus::need_more, "one byte less is not enough");
}

}  // namespace
}  // namespace ring3::fuzz

extern "C" int LLVMFuzzerTestOneInput(const ring3::u8* data, std::size_t size) {
  if (size < 2) return -1;
  ring3::fuzz::run({data + 1, size - 1}, (data[0] & 1) != 0);
  return 0;
}
