// Near control transfers and BOUND (SDM vol. 2). The target is checked against CS.limit before any register changes.
#include "runtime/interp/families.h"
#include "runtime/interp/stack_access.h"

namespace ring3::interp {

namespace {

u32 next_eip(const Vcpu& v, const Insn& insn) { return v.s.eip + insn.length; }

u32 wrap(const Insn& insn, u32 eip) { return insn.operand_size == 2 ? (eip & 0xFFFFu) : eip; }

// Sets EIP, or #GP(0) beyond the limit.
Flow jump_to(Vcpu& v, u32 eip) {
  if (eip > v.s.segment(Seg::cs).limit) return v.raise(Vector::general_protection, 0);
  v.s.eip = eip;
  return Flow::jumped;
}

Flow jump_relative(Vcpu& v, const Insn& insn) { return jump_to(v, wrap(insn, next_eip(v, insn) + insn.target)); }

template <unsigned number>
Flow jcc(Vcpu& v, const Insn& insn) {
  return condition<number>(v.s.eflags) ? jump_relative(v, insn) : Flow::next;
}

Flow jmp(Vcpu& v, const Insn& insn) {
  if (insn.operand[0].kind == OperandKind::rel) return jump_relative(v, insn);
  return by_wide_size(insn.operand_size, [&](auto target) {
    if (!read_operand(v, insn, 0, target)) return Flow::fault;
    return jump_to(v, target);
  });
}

Flow call(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand_size, [&](auto zero) {
    using T = decltype(zero);
    u32 target = wrap(insn, next_eip(v, insn) + insn.target);
    if (insn.operand[0].kind != OperandKind::rel) {
      T indirect{};
      if (!read_operand(v, insn, 0, indirect)) return Flow::fault;
      target = indirect;
    }
    // Intel's CPUs write the return address before they look at the limit.
    StackCursor stack(v);
    if (!stack.push(static_cast<T>(next_eip(v, insn)))) return Flow::fault;
    if (target > v.s.segment(Seg::cs).limit) return v.raise(Vector::general_protection, 0);
    stack.commit();
    v.s.eip = target;
    return Flow::jumped;
  });
}

Flow ret(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand_size, [&](auto target) {
    StackCursor stack(v);
    if (!stack.pop(target)) return Flow::fault;
    const Flow flow = jump_to(v, target);
    if (flow == Flow::fault) return flow;
    if (insn.operand_count > 0) stack.skip(insn.imm & 0xFFFFu);
    stack.commit();
    return flow;
  });
}

// CX or ECX by the address size.
u32 counter(const Vcpu& v, const Insn& insn) { return insn.address_size == 2 ? v.reg16(ecx) : v.s.gpr[ecx]; }

void set_counter(Vcpu& v, const Insn& insn, u32 value) {
  if (insn.address_size == 2) {
    v.set_reg16(ecx, static_cast<u16>(value));
  } else {
    v.s.gpr[ecx] = value;
  }
}

// LOOP, LOOPE, LOOPNE: `zf` is the ZF that lets the loop go on (2: either). A jump that faults leaves the counter alone.
template <unsigned zf>
Flow loop(Vcpu& v, const Insn& insn) {
  const u32 left = counter(v, insn) - 1;
  const bool none_left = insn.address_size == 2 ? (left & 0xFFFFu) == 0 : left == 0;
  const bool zf_allows = zf == 2 || ((v.s.eflags & flag::zf) != 0) == (zf == 1);
  const Flow flow = !none_left && zf_allows ? jump_relative(v, insn) : Flow::next;
  if (flow != Flow::fault) set_counter(v, insn, left);
  return flow;
}

Flow jcxz(Vcpu& v, const Insn& insn) { return counter(v, insn) == 0 ? jump_relative(v, insn) : Flow::next; }

Flow bound(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand_size, [&](auto zero) {
    using T = decltype(zero);
    using S = std::make_signed_t<T>;
    const u32 address = v.effective_address(insn);
    const u32 second = address + static_cast<u32>(sizeof(T));
    T lower{};
    T upper{};
    if (!v.load(insn.mem.segment, address, lower)) return Flow::fault;
    // Intel's CPUs look at the upper bound only if the lower one holds.
    if (static_cast<S>(get_reg<T>(v, insn.operand[0].reg)) < static_cast<S>(lower)) return v.raise(Vector::bound);
    if (!v.load(insn.mem.segment, insn.address_size == 2 ? second & 0xFFFFu : second, upper)) return Flow::fault;
    const auto index = static_cast<S>(get_reg<T>(v, insn.operand[0].reg));
    if (index > static_cast<S>(upper)) return v.raise(Vector::bound);
    return Flow::next;
  });
}

}  // namespace

void add_branches(HandlerTable& t) {
#define RING3_JCC(row, number) t.set(Row::row, jcc<number>);
  RING3_CONDITIONS(RING3_JCC, j)
#undef RING3_JCC
  t.set(Row::jmp, jmp);
  t.set(Row::call, call);
  t.set(Row::ret, ret);
  t.set(Row::loop, loop<2>);
  t.set(Row::loope, loop<1>);
  t.set(Row::loopne, loop<0>);
  t.set(Row::jcxz, jcxz);
  t.set(Row::jecxz, jcxz);
  t.set(Row::bound, bound);
}

}  // namespace ring3::interp
