#include "interpreter.h"

#include <cstring>
#include <span>

namespace ring3::hostcpu {

void Interpreter::execute(const Insn& insn, Outcome& out) {
  Vcpu& vcpu = guest_.vcpu;
  const Handler handler = handlers_.get(insn.row);
  Flow flow = Flow::missing;
  vcpu.missing = "no handler";
  if (handler != nullptr) {
    do flow = handler(vcpu, insn);
    while (flow == Flow::again);
  }
  switch (flow) {
    case Flow::next: state_.eip += insn.length; break;
    case Flow::jumped: break;
    case Flow::fault:
      out.faulted = true;
      out.vector = static_cast<u8>(vcpu.fault.vector);
      out.error_code = vcpu.fault.has_error_code ? vcpu.fault.error_code : 0;
      out.address = vcpu.fault.vector == Vector::page ? vcpu.fault.address : 0;
      break;
    case Flow::missing: out.fail(vcpu.missing); break;
    case Flow::again:
    case Flow::halt: out.fail("unexpected flow"); break;
  }
}

void Interpreter::run(const Case& test, Outcome& out) {
  // An instruction may read itself.
  const std::array<u8, 64> code = test.code();
  std::memcpy(guest_.code() + (code_start - code_base), code.data(), test.length());
  guest_.enter(test.before, test.fpu);
  out.failure[0] = 0;
  out.faulted = false;
  out.vector = 0;
  out.error_code = 0;
  out.address = 0;
  for (u32 at = 0; at < test.length() && !out.faulted && out.failure[0] == 0;) {
    Insn insn;
    if (decoder_.decode(std::span(code).subspan(at, 15), true, insn) != DecodeStatus::ok) {
      out.fail("the code around the instruction does not decode");
      break;
    }
    execute(insn, out);
    at += insn.length;
  }
  out.after.gpr = state_.gpr;
  out.after.eip = state_.eip;
  out.after.eflags = state_.eflags;
  if (test.fpu) out.after.fpu = state_.fpu;
}

}  // namespace ring3::hostcpu
