// ADD to XOR, INC to NOT, CMPXCHG, XADD, multiplication and division (SDM vol. 2).
#include "runtime/interp/families.h"
#include "runtime/interp/host_alu.h"
#include "runtime/interp/operands.h"

#include <limits>

namespace ring3::interp {

namespace {

template <typename Op, typename T>
Flow binary_sized(Vcpu& v, const Insn& insn) {
  T source{};
  if (!read_operand(v, insn, 1, source)) return Flow::fault;
  if constexpr (Op::writes) {
    return modify_operand<T>(v, insn, 0, [&](T old) { return Op::template run<T>(old, source, v.s.eflags); });
  } else {
    T left{};
    if (!read_operand(v, insn, 0, left)) return Flow::fault;
    (void)Op::template run<T>(left, source, v.s.eflags);
    return Flow::next;
  }
}

template <typename Op>
Flow binary(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[0].size, [&](auto zero) { return binary_sized<Op, decltype(zero)>(v, insn); });
}

template <typename Op>
Flow unary(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    return modify_operand<T>(v, insn, 0, [&](T old) { return Op::template run<T>(old, v.s.eflags); });
  });
}

Flow invert(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    return modify_operand<T>(v, insn, 0, [](T old) { return static_cast<T>(~old); });
  });
}

// The destination is written whatever the comparison says (SDM: "the destination operand receives a write cycle"), but the accumulator
// changes only where it differs.
Flow cmpxchg(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    const T source = get_reg<T>(v, insn.operand[1].reg);
    const T accumulator = get_reg<T>(v, eax);
    T seen{};
    const Flow flow = modify_operand<T>(v, insn, 0, [&](T old) {
      (void)host::Cmp::run<T>(accumulator, old, v.s.eflags);
      seen = old;
      return old == accumulator ? source : old;
    });
    if (flow == Flow::next && seen != accumulator) set_reg<T>(v, eax, seen);
    return flow;
  });
}

Flow cmpxchg8b(Vcpu& v, const Insn& insn) {
  ReadModifyWrite<u64> memory(v);
  u64 old = 0;
  if (!memory.open(insn.mem.segment, v.effective_address(insn), old)) return Flow::fault;
  const u64 expected = (u64{v.s.gpr[edx]} << 32) | v.s.gpr[eax];
  const u64 wanted = (u64{v.s.gpr[ecx]} << 32) | v.s.gpr[ebx];
  if (!memory.store(old == expected ? wanted : old)) return Flow::fault;
  if (old != expected) {
    v.s.gpr[eax] = static_cast<u32>(old);
    v.s.gpr[edx] = static_cast<u32>(old >> 32);
  }
  set_flag(v.s.eflags, flag::zf, old == expected);
  return Flow::next;
}

// The source register receives the old destination before the destination is written: XADD of a register with itself doubles it.
Flow xadd(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    const Operand& source = insn.operand[1];
    T seen{};
    const Flow flow = modify_operand<T>(v, insn, 0, [&](T old) {
      const T sum = host::Add::run<T>(old, get_reg<T>(v, source.reg), v.s.eflags);
      if (insn.operand[0].kind == OperandKind::reg) set_reg<T>(v, source.reg, old);
      seen = old;
      return sum;
    });
    if (flow == Flow::next && insn.operand[0].kind == OperandKind::mem) set_reg<T>(v, source.reg, seen);
    return flow;
  });
}

// EDX:EAX, DX:AX or AX after a one-operand multiplication or division.
template <typename T>
void set_wide(Vcpu& v, u32 low, u32 high) {
  if constexpr (sizeof(T) == 1) {
    v.set_reg16(eax, static_cast<u16>(low));
  } else {
    set_reg<T>(v, eax, static_cast<T>(low));
    set_reg<T>(v, edx, static_cast<T>(high));
  }
}

template <typename Op>
Flow multiply_wide(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    T factor{};
    if (!read_operand(v, insn, 0, factor)) return Flow::fault;
    u32 low = v.s.gpr[eax];
    u32 high = v.s.gpr[edx];
    Op::template run<T>(low, high, factor, v.s.eflags);
    set_wide<T>(v, low, high);
    return Flow::next;
  });
}

Flow imul(Vcpu& v, const Insn& insn) {
  if (insn.operand_count < 2) return multiply_wide<host::ImulWide>(v, insn);
  return by_wide_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    T left = get_reg<T>(v, insn.operand[0].reg);
    T right{};
    if (!read_operand(v, insn, 1, right)) return Flow::fault;
    if (insn.operand_count == 3) left = static_cast<T>(insn.imm);
    set_reg<T>(v, insn.operand[0].reg, host::Imul::run<T>(left, right, v.s.eflags));
    return Flow::next;
  });
}

// Does the quotient fit? Checked here so that the host never raises #DE.
template <typename T>
bool unsigned_quotient_fits(u32 low, u32 high, T divisor) {
  if constexpr (sizeof(T) == 1) high = (low >> 8) & 0xFFu;
  return divisor != 0 && static_cast<T>(high) < divisor;
}

template <typename T>
bool signed_quotient_fits(u32 low, u32 high, T divisor) {
  using S = std::make_signed_t<T>;
  if (divisor == 0) return false;
  i64 dividend = 0;
  if constexpr (sizeof(T) == 1) dividend = static_cast<i16>(low);
  if constexpr (sizeof(T) == 2) dividend = static_cast<i32>((high << 16) | (low & 0xFFFFu));
  if constexpr (sizeof(T) == 4) dividend = static_cast<i64>((u64{high} << 32) | low);
  const i64 by = static_cast<S>(divisor);  // NOLINT(bugprone-signed-char-misuse): the sign is the point
  if (dividend == std::numeric_limits<i64>::min() && by == -1) return false;
  const i64 quotient = dividend / by;
  return quotient >= std::numeric_limits<S>::min() && quotient <= std::numeric_limits<S>::max();
}

template <typename Op, bool is_signed>
Flow divide(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    T divisor{};
    if (!read_operand(v, insn, 0, divisor)) return Flow::fault;
    u32 low = v.s.gpr[eax];
    u32 high = v.s.gpr[edx];
    const bool fits = is_signed ? signed_quotient_fits<T>(low, high, divisor) : unsigned_quotient_fits<T>(low, high, divisor);
    if (!fits) return v.raise(Vector::divide);
    Op::template run<T>(low, high, divisor, v.s.eflags);
    set_wide<T>(v, low, high);
    return Flow::next;
  });
}

}  // namespace

void add_arithmetic(HandlerTable& t) {
  t.set(Row::add, binary<host::Add>);
  t.set(Row::adc, binary<host::Adc>);
  t.set(Row::sub, binary<host::Sub>);
  t.set(Row::sbb, binary<host::Sbb>);
  t.set(Row::and_, binary<host::And>);
  t.set(Row::or_, binary<host::Or>);
  t.set(Row::xor_, binary<host::Xor>);
  t.set(Row::cmp, binary<host::Cmp>);
  t.set(Row::test, binary<host::Test>);
  t.set(Row::inc, unary<host::Inc>);
  t.set(Row::dec, unary<host::Dec>);
  t.set(Row::neg, unary<host::Neg>);
  t.set(Row::not_, invert);
  t.set(Row::cmpxchg, cmpxchg);
  t.set(Row::cmpxchg8b, cmpxchg8b);
  t.set(Row::xadd, xadd);
  t.set(Row::mul, multiply_wide<host::MulWide>);
  t.set(Row::imul, imul);
  t.set(Row::div, divide<host::Div, false>);
  t.set(Row::idiv, divide<host::Idiv, true>);
}

}  // namespace ring3::interp
