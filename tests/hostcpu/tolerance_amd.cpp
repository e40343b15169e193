// AMD's CPUs, where the manual leaves a choice and they choose otherwise than Intel's. Each line asks for the outcome that they have, so
// that anything else still is a difference.
#include "guest/fault.h"
#include "tolerance.h"

#include <algorithm>

namespace ring3::hostcpu {

namespace {

constexpr u32 all_but_esp = 0xFFu & ~(1u << esp);

bool is(const Outcome& o, Vector vector) { return o.vector == static_cast<u16>(vector); }

// A fault of a memory access: absent or forbidden page, outside of the segment, misaligned.
bool is_access_fault(const Outcome& o) {
  return is(o, Vector::page) || is(o, Vector::general_protection) || is(o, Vector::stack) || is(o, Vector::alignment);
}

bool is_any_fault(const Outcome& o) { return is_access_fault(o) || is(o, Vector::invalid_opcode); }

bool has_repeat_prefix(const Insn& insn) {
  return std::any_of(insn.bytes.begin(), insn.bytes.begin() + insn.opcode_offset, [](u8 b) { return b == 0xF2 || b == 0xF3; });
}

// Whether one of the accesses may start before the end of a segment of 4 GiB and end behind it. `got` has the registers of the fault: REP
// has come that far.
bool wraps(const Batch& batch, const Program& program, const State& before, const Outcome& got) {
  const Insn& insn = program.insn;
  constexpr u32 longest = 512;
  const auto near_end = [&](Seg seg, u32 offset) {
    return batch.segment(program, seg).limit == 0xFFFFFFFF && offset + longest < 2 * longest;
  };
  if (insn.has_memory &&
      near_end(insn.mem.segment, operand_address(batch, program, before.gpr) - batch.segment(program, insn.mem.segment).base))
    return true;
  switch (insn.info().family) {
    case Family::string:
    case Family::io: return near_end(insn.mem.segment, got.gpr[esi]) || near_end(Seg::es, got.gpr[edi]);
    case Family::stack:
    case Family::segment:
    case Family::control: return near_end(Seg::ss, got.gpr[esp]) || near_end(Seg::ss, got.gpr[ebp]);
    default: return false;
  }
}

bool unmasks_x87(const State& before) {
  constexpr u16 masks = 0x3F;
  return (before.fpu.fcw & masks) != masks;
}

void after_page_fault(const Insn& insn, Tolerance& t) {
  switch (insn.row) {
    // Two operands, read in any order.
    case Row::cmpsb:
    case Row::cmpsw:
    case Row::cmpsd: t.fault_place = true; break;
    // Registers popped before the fault keep their new values; ESP tells that the instruction has not happened.
    case Row::popa: t.gpr = all_but_esp; break;
    // Operands of many parts, tested in an order of the CPU's own.
    case Row::fnstenv:
    case Row::fldenv:
    case Row::fnsave:
    case Row::frstor:
    case Row::fxsave:
    case Row::fxrstor: t.fault_place = true; break;
    default: break;
  }
}

// What a fault of one of the instruction's accesses leaves, or where another access or check comes first.
void after_access_fault(const Program& program, const State& before, const Outcome& expected, const Outcome& got, Tolerance& t) {
  const Insn& insn = program.insn;
  const bool misaligned = is(expected, Vector::alignment);
  switch (insn.row) {
    // With REP the manual promises the flags from before the instruction (SDM vol. 2, REP); here they are the last comparison's.
    case Row::cmpsb:
    case Row::cmpsw:
    case Row::cmpsd:
    case Row::scasb:
    case Row::scasw:
    case Row::scasd:
      if (insn.rep != Rep::none) t.eflags = flag::status;
      break;
    // Both bounds are read before either is compared.
    case Row::bound: t.other_fault = is(got, Vector::bound); break;
    // All of a frame is read before its selector is looked at, and RET imm16 tries the stack behind its parameters. The selector's upper
    // half is read too (SDM vol. 2, RET and IRET: "top 8 bytes of stack"; Intel's CPUs read 6).
    case Row::ret_far:
    case Row::iret:
      t.other_fault = true;
      t.anything = got.eip != expected.eip;
      break;
    // The target is compared with the limit before the return address is pushed, not behind it.
    case Row::call: t.memory = is(expected, Vector::general_protection); break;
    // A selector on a 32-bit stack is four bytes here, two on newer CPUs of Intel's (SDM vol. 2, PUSH and POP).
    case Row::push_sreg:
    case Row::pop_sreg: t.anything = insn.operand_size == 4; break;
    // Whether bytes that are not selected are tested is the CPU's choice (SDM vol. 2, MASKMOVQ): here they are, after entering MMX state.
    case Row::maskmovdqu:
    case Row::maskmovq: t.anything = true; break;
    // Whether a misaligned operand of 16 bytes that need not be aligned is reported is the CPU's choice (SDM vol. 2, MOVDQU and MOVUPS).
    case Row::lddqu:
    case Row::movdqu:
    case Row::movups:
    case Row::movupd:
    case Row::pcmpestri:
    case Row::pcmpestrm:
    case Row::pcmpistri:
    case Row::pcmpistrm: t.anything = misaligned; break;
    // The destination is tested before an unmasked exception of the value is found, which then would not write. Ten bytes are written in
    // two parts, the first of which stays where the second faults.
    case Row::fbstp:
    case Row::fst:
    case Row::fstp:
    case Row::fist:
    case Row::fistp:
    case Row::fisttp:
      t.anything = unmasks_x87(before) && !(got.vector == expected.vector && got.eip == expected.eip);
      t.memory = true;
      break;
    // A store that faults has not entered MMX state; on Intel's CPUs TOP is 0 then.
    case Row::movd:
    case Row::movq:
    case Row::movntq: t.x87 = insn.has_memory; break;
    default: break;
  }
}

}  // namespace

Tolerance amd_tolerance(const Batch& batch, const Program& program, const State& before, const Outcome& expected, const Outcome& got) {
  Tolerance t;
  if (!program.defined) {
    // How many bytes of an undefined opcode are fetched before it is found to be one.
    t.other_fault = is_any_fault(expected) && is_any_fault(got);
    return t;
  }
  const Insn& insn = program.insn;
  const bool its_own = batch.segment(program, Seg::cs).base + expected.eip == program.address();
  if (its_own && is_access_fault(expected)) after_access_fault(program, before, expected, got, t);
  if (is(expected, Vector::page)) after_page_fault(insn, t);
  // An operand from the end of a segment of 4 GiB on to its beginning: whether that is a fault of the segment is the CPU's choice (SDM
  // vol. 3, 5.3). Its page is absent.
  if ((is(expected, Vector::general_protection) || is(expected, Vector::stack)) && expected.error_code == 0 &&
      (is(got, Vector::page) || is(got, Vector::alignment)))
    t.other_fault = t.other_fault || wraps(batch, program, before, got);
  switch (insn.row) {
    // A trap (SDM vol. 2, INT n); hypervisors that intercept it hand it on as a fault.
    case Row::int1: t.eip = true; break;
    // Reserved with a register, no operation on Intel's CPUs: PREFETCH (0F 0D).
    case Row::nop: t.anything = is(expected, Vector::invalid_opcode); break;
    // F2 and F3 replace the condition of the opcode. They are undefined there (SDM vol. 2, 2.1.1).
    case Row::loope:
    case Row::loopne: t.anything = has_repeat_prefix(insn); break;
    // MMX state is entered before an exception is found.
    case Row::cvtpi2ps:
    case Row::cvtpd2pi:
    case Row::cvtps2pi:
    case Row::cvttpd2pi:
    case Row::cvttps2pi: t.x87 = is(expected, Vector::simd); break;
    default: break;
  }
  return t;
}

}  // namespace ring3::hostcpu
