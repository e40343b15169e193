// PUSH to LEAVE (SDM vol. 2). The operand size says how much moves, SS.B whether ESP or SP points.
#include "runtime/interp/families.h"
#include "runtime/interp/stack_access.h"

namespace ring3::interp {

namespace {

Flow push(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand_size, [&](auto value) {
    // PUSH ESP pushes the value before the decrement.
    if (!read_operand(v, insn, 0, value)) return Flow::fault;
    StackCursor stack(v);
    if (!stack.push(value)) return Flow::fault;
    stack.commit();
    return Flow::next;
  });
}

Flow pop(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand_size, [&](auto value) {
    StackCursor stack(v);
    if (!stack.pop(value)) return Flow::fault;
    // A destination addressed through ESP, and POP ESP itself, see the incremented pointer.
    const u32 old = v.s.gpr[esp];
    stack.commit();
    if (write_operand(v, insn, 0, value)) return Flow::next;
    v.s.gpr[esp] = old;
    return Flow::fault;
  });
}

Flow pusha(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand_size, [&](auto zero) {
    using T = decltype(zero);
    StackCursor stack(v);
    for (unsigned n = eax; n <= edi; ++n) {
      if (!stack.push(get_reg<T>(v, n))) return Flow::fault;
    }
    stack.commit();
    return Flow::next;
  });
}

Flow popa(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand_size, [&](auto zero) {
    using T = decltype(zero);
    StackCursor stack(v);
    // What was popped before a fault stays in the registers, as on Intel's CPUs; with the old ESP it is popped again.
    for (unsigned n = 8; n-- > 0;) {
      T value{};
      if (!stack.pop(value)) return Flow::fault;
      if (n != esp) set_reg<T>(v, n, value);
    }
    stack.commit();
    return Flow::next;
  });
}

Flow enter(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand_size, [&](auto zero) {
    using T = decltype(zero);
    StackCursor stack(v);
    const u32 level = insn.imm2 & 31u;
    if (!stack.push(get_reg<T>(v, ebp))) return Flow::fault;
    const u32 frame = (v.s.gpr[esp] & ~stack.mask()) | stack.pointer();  // all of ESP, also on a 16-bit stack
    u32 outer = v.s.gpr[ebp] & stack.mask();
    for (u32 i = 1; i < level; ++i) {
      outer = (outer - static_cast<u32>(sizeof(T))) & stack.mask();
      T display{};
      if (!v.load(Seg::ss, outer, display) || !stack.push(display)) return Flow::fault;
    }
    if (level > 0 && !stack.push(static_cast<T>(frame))) return Flow::fault;
    stack.skip(0u - (insn.imm & 0xFFFFu));
    // The manual: ENTER faults whenever a write with the final stack pointer would.
    if (!v.probe_store(Seg::ss, stack.pointer(), sizeof(T))) return Flow::fault;
    set_reg<T>(v, ebp, static_cast<T>(frame));
    stack.commit();
    return Flow::next;
  });
}

Flow leave(Vcpu& v, const Insn& insn) {
  return by_wide_size(insn.operand_size, [&](auto value) {
    const u32 old = v.s.gpr[esp];
    v.set_stack_pointer(v.s.gpr[ebp]);
    StackCursor stack(v);
    if (!stack.pop(value)) {
      v.s.gpr[esp] = old;
      return Flow::fault;
    }
    set_reg(v, ebp, value);
    stack.commit();
    return Flow::next;
  });
}

}  // namespace

void add_stack(HandlerTable& t) {
  t.set(Row::push, push);
  t.set(Row::pop, pop);
  t.set(Row::pusha, pusha);
  t.set(Row::popa, popa);
  t.set(Row::enter, enter);
  t.set(Row::leave, leave);
}

}  // namespace ring3::interp
