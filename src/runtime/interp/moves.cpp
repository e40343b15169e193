// Data transfer without flags, conversions, and the hints that do nothing here (SDM vol. 2).
#include "runtime/interp/families.h"
#include "runtime/interp/operands.h"

namespace ring3::interp {

namespace {

Flow mov(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[0].size, [&](auto value) {
    return read_operand(v, insn, 1, value) && write_operand(v, insn, 0, value) ? Flow::next : Flow::fault;
  });
}

// The memory operand is read even when the condition is false, and a 32-bit destination is written with its own value.
template <unsigned number>
Flow cmov(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand[0].size, [&](auto value) {
    if (!read_operand(v, insn, 1, value)) return Flow::fault;
    if (condition<number>(v.s.eflags)) set_reg(v, insn.operand[0].reg, value);
    return Flow::next;
  });
}

template <unsigned number>
Flow setcc(Vcpu& v, const Insn& insn) {
  const u8 value = condition<number>(v.s.eflags) ? 1 : 0;
  return write_operand(v, insn, 0, value) ? Flow::next : Flow::fault;
}

Flow movzx(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[1].size, [&](auto value) {
    if (!read_operand(v, insn, 1, value)) return Flow::fault;
    if (insn.operand[0].size == 2) {
      v.set_reg16(insn.operand[0].reg, static_cast<u16>(value));
    } else {
      v.set_reg32(insn.operand[0].reg, value);
    }
    return Flow::next;
  });
}

Flow movsx(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[1].size, [&](auto value) {
    if (!read_operand(v, insn, 1, value)) return Flow::fault;
    const i32 extended =
        static_cast<std::make_signed_t<decltype(value)>>(value);  // NOLINT(bugprone-signed-char-misuse): the sign is the point
    if (insn.operand[0].size == 2) {
      v.set_reg16(insn.operand[0].reg, static_cast<u16>(extended));
    } else {
      v.set_reg32(insn.operand[0].reg, static_cast<u32>(extended));
    }
    return Flow::next;
  });
}

Flow lea(Vcpu& v, const Insn& insn) {
  const u32 address = v.effective_address(insn);
  if (insn.operand[0].size == 2) {
    v.set_reg16(insn.operand[0].reg, static_cast<u16>(address));
  } else {
    v.set_reg32(insn.operand[0].reg, address);
  }
  return Flow::next;
}

Flow xchg(Vcpu& v, const Insn& insn) {
  // The memory operand, if any, may be either one.
  const unsigned target = insn.operand[1].kind == OperandKind::mem ? 1 : 0;
  const unsigned other = insn.operand[1 - target].reg;
  return by_size(insn.operand[0].size, [&](auto old) {
    using T = decltype(old);
    const T value = get_reg<T>(v, other);
    if (insn.operand[target].kind == OperandKind::reg) {
      old = get_reg<T>(v, insn.operand[target].reg);
      set_reg<T>(v, insn.operand[target].reg, value);
    } else {
      ReadModifyWrite<T> memory(v);
      if (!memory.open(insn.mem.segment, v.effective_address(insn), old) || !memory.store(value)) return Flow::fault;
    }
    set_reg<T>(v, other, old);
    return Flow::next;
  });
}

template <typename T>
T swap_bytes(T value) {
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  return static_cast<T>(__builtin_bswap32(value));
}

// BSWAP of a 16-bit register is undefined; the host, and so emitted code, clears it.
Flow bswap(Vcpu& v, const Insn& insn) {
  const unsigned n = insn.operand[0].reg;
  if (insn.operand[0].size == 2) {
    v.set_reg16(n, 0);
  } else {
    v.set_reg32(n, swap_bytes(v.reg32(n)));
  }
  return Flow::next;
}

Flow movbe(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand[0].size, [&](auto value) {
    return read_operand(v, insn, 1, value) && write_operand(v, insn, 0, swap_bytes(value)) ? Flow::next : Flow::fault;
  });
}

Flow xlat(Vcpu& v, const Insn& insn) {
  u32 address = v.s.gpr[ebx] + v.reg8(eax);
  if (insn.address_size == 2) address &= 0xFFFFu;
  u8 value = 0;
  if (!v.load(insn.mem.segment, address, value)) return Flow::fault;
  v.set_reg8(eax, value);
  return Flow::next;
}

Flow cbw(Vcpu& v, const Insn&) {
  v.set_reg16(eax, static_cast<u16>(static_cast<i8>(v.reg8(eax))));
  return Flow::next;
}
Flow cwde(Vcpu& v, const Insn&) {
  v.s.gpr[eax] = static_cast<u32>(static_cast<i16>(v.reg16(eax)));
  return Flow::next;
}
Flow cwd(Vcpu& v, const Insn&) {
  v.set_reg16(edx, (v.s.gpr[eax] & 0x8000u) != 0 ? 0xFFFF : 0);
  return Flow::next;
}
Flow cdq(Vcpu& v, const Insn&) {
  v.s.gpr[edx] = (v.s.gpr[eax] & 0x8000'0000u) != 0 ? ~0u : 0;
  return Flow::next;
}

// NOP with a ModRM byte and the prefetches do not access memory; fences order what is in order here anyway.
Flow nothing(Vcpu&, const Insn&) { return Flow::next; }

// CLFLUSH faults as a one-byte load would, except that execute-only segments are open to it (SDM vol. 2, CLFLUSH).
Flow clflush(Vcpu& v, const Insn& insn) {
  u8 byte = 0;
  u32 linear = 0;
  if (!v.linear_address(insn.mem.segment, v.effective_address(insn), 1, Access::execute, linear)) return Flow::fault;
  return v.mem.read(linear, &byte, 1, v.s.cpl == 3, v.fault) ? Flow::next : Flow::fault;
}

}  // namespace

void add_moves(HandlerTable& t) {
  t.set(Row::mov, mov);
  t.set(Row::movnti, mov);
#define RING3_CMOV(row, number) t.set(Row::row, cmov<number>);
  RING3_CONDITIONS(RING3_CMOV, cmov)
#undef RING3_CMOV
#define RING3_SET(row, number) t.set(Row::row, setcc<number>);
  RING3_CONDITIONS(RING3_SET, set)
#undef RING3_SET
  t.set(Row::movzx, movzx);
  t.set(Row::movsx, movsx);
  t.set(Row::lea, lea);
  t.set(Row::xchg, xchg);
  t.set(Row::bswap, bswap);
  t.set(Row::movbe, movbe);
  t.set(Row::xlat, xlat);
  t.set(Row::cbw, cbw);
  t.set(Row::cwde, cwde);
  t.set(Row::cwd, cwd);
  t.set(Row::cdq, cdq);
  t.set(Row::clflush, clflush);
  for (const Row row : {Row::nop, Row::pause, Row::prefetch, Row::prefetchw, Row::prefetchnta, Row::prefetcht0, Row::prefetcht1,
                        Row::prefetcht2, Row::lfence, Row::mfence, Row::sfence}) {
    t.set(row, nothing);
  }
}

}  // namespace ring3::interp
