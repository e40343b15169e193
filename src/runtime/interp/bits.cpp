// Bit tests, scans, POPCNT and CRC32 (SDM vol. 2).
#include "runtime/interp/families.h"
#include "runtime/interp/host_alu.h"
#include "runtime/interp/operands.h"

namespace ring3::interp {

namespace {

// With a register offset, memory forms reach the word that holds the bit, which may lie before or after the address (SDM vol. 2, BT). An
// immediate offset stays within the operand.
template <typename T>
u32 bit_address(const Vcpu& v, const Insn& insn, T offset) {
  u32 address = v.effective_address(insn);
  if (insn.operand[1].kind == OperandKind::reg) {
    const auto signed_offset = static_cast<i32>(static_cast<std::make_signed_t<T>>(offset));
    address += static_cast<u32>(signed_offset >> (sizeof(T) == 2 ? 4 : 5)) * static_cast<u32>(sizeof(T));
  }
  return insn.address_size == 2 ? (address & 0xFFFFu) : address;
}

template <typename Op>
Flow bit_test(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    const Operand& source = insn.operand[1];
    const T offset = source.kind == OperandKind::reg ? get_reg<T>(v, source.reg) : static_cast<T>(insn.imm);
    const auto bit = static_cast<T>(offset & (8 * sizeof(T) - 1));
    const Operand& target = insn.operand[0];
    if (target.kind == OperandKind::reg) {
      const T result = Op::template run<T>(get_reg<T>(v, target.reg), bit, v.s.eflags);
      if constexpr (Op::writes) set_reg<T>(v, target.reg, result);
      return Flow::next;
    }
    const u32 address = bit_address<T>(v, insn, offset);
    T old{};
    if constexpr (Op::writes) {
      ReadModifyWrite<T> memory(v);
      if (!memory.open(insn.mem.segment, address, old)) return Flow::fault;
      u32 eflags = v.s.eflags;
      if (!memory.store(Op::template run<T>(old, bit, eflags))) return Flow::fault;
      v.s.eflags = eflags;
    } else {
      if (!v.load(insn.mem.segment, address, old)) return Flow::fault;
      (void)Op::template run<T>(old, bit, v.s.eflags);
    }
    return Flow::next;
  });
}

// BSF, BSR, POPCNT. A scan of 0 leaves the destination as the host does (SDM: undefined; every CPU known leaves it unchanged).
template <typename Op>
Flow scan(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    T source{};
    if (!read_operand(v, insn, 1, source)) return Flow::fault;
    const unsigned target = insn.operand[0].reg;
    set_reg<T>(v, target, Op::template run<T>(get_reg<T>(v, target), source, v.s.eflags));
    return Flow::next;
  });
}

Flow crc32(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[1].size, [&](auto zero) {
    using T = decltype(zero);
    T source{};
    if (!read_operand(v, insn, 1, source)) return Flow::fault;
    u32 crc = v.s.gpr[insn.operand[0].reg];
    if constexpr (sizeof(T) == 1) asm("crc32b %1, %0" : "+r"(crc) : "r"(source));
    if constexpr (sizeof(T) == 2) asm("crc32w %1, %0" : "+r"(crc) : "r"(source));
    if constexpr (sizeof(T) == 4) asm("crc32l %1, %0" : "+r"(crc) : "r"(source));
    v.s.gpr[insn.operand[0].reg] = crc;
    return Flow::next;
  });
}

}  // namespace

void add_bits(HandlerTable& t) {
  t.set(Row::bt, bit_test<host::Bt>);
  t.set(Row::bts, bit_test<host::Bts>);
  t.set(Row::btr, bit_test<host::Btr>);
  t.set(Row::btc, bit_test<host::Btc>);
  t.set(Row::bsf, scan<host::Bsf>);
  t.set(Row::bsr, scan<host::Bsr>);
  t.set(Row::popcnt, scan<host::Popcnt>);
  t.set(Row::crc32, crc32);
}

}  // namespace ring3::interp
