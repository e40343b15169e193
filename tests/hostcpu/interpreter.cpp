#include "interpreter.h"

#include <cstring>

namespace ring3::hostcpu {

void Interpreter::run(const Case& test, Outcome& out) {
  const Insn& insn = test.insn;
  // An instruction may read itself.
  std::memcpy(guest_.code() + (code_start - code_base), insn.bytes.data(), insn.length);
  guest_.enter(test.before, test.fpu);
  Vcpu& vcpu = guest_.vcpu;

  const Handler handler = handlers_.get(insn.row);
  Flow flow = Flow::missing;
  vcpu.missing = "no handler";
  if (handler != nullptr) {
    do flow = handler(vcpu, insn);
    while (flow == Flow::again);
  }
  out.failure[0] = 0;
  out.faulted = false;
  out.vector = 0;
  out.error_code = 0;
  out.address = 0;
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
  out.after.gpr = state_.gpr;
  out.after.eip = state_.eip;
  out.after.eflags = state_.eflags;
  if (test.fpu) out.after.fpu = state_.fpu;
}

}  // namespace ring3::hostcpu
