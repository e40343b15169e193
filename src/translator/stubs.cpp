#include "translator/stubs.h"

#include <asmjit/x86.h>

#include "base/error.h"
#include "translator/contract.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

namespace {

constexpr u32 host_mxcsr = 0x1F80;  // all exceptions masked, round to nearest: what the C++ ABI expects

x86::Mem field(i32 offset, u32 size) { return x86::Mem(x86::r15, offset, size); }

void emit_enter(x86::Assembler& a) {
  for (const auto& r : {x86::rbx, x86::rbp, x86::r12, x86::r13, x86::r14, x86::r15}) a.push(r);
  a.mov(x86::r15, x86::rdi);
  a.mov(field(offset::host_stack, 8), x86::rsp);
  const Label no_fpu = a.newLabel();
  a.cmp(field(offset::fpu_live, 1), 0);
  a.je(no_fpu);
  a.fxrstor64(field(offset::fpu, 0));
  a.bind(no_fpu);
  a.mov(x86::rsp, field(offset::return_stack, 8));
  a.mov(x86::r13, field(offset::context, 8));
  a.mov(x86::r10d, 10);
  a.mov(x86::r8d, field(offset::host_flags, 4));
  a.push(x86::r8);
  a.popfq();
  a.mov(x86::eax, field(offset::gpr + 0, 4));
  a.mov(x86::ecx, field(offset::gpr + 4, 4));
  a.mov(x86::edx, field(offset::gpr + 8, 4));
  a.mov(x86::ebx, field(offset::gpr + 12, 4));
  a.mov(x86::r12d, field(offset::gpr + 16, 4));
  a.mov(x86::ebp, field(offset::gpr + 20, 4));
  a.mov(x86::esi, field(offset::gpr + 24, 4));
  a.mov(x86::edi, field(offset::gpr + 28, 4));
  a.jmp(field(offset::resume_at, 8));
}

void emit_exit(x86::Assembler& a, const Label& mxcsr) {
  a.mov(field(offset::gpr + 0, 4), x86::eax);
  a.mov(field(offset::gpr + 4, 4), x86::ecx);
  a.mov(field(offset::gpr + 8, 4), x86::edx);
  a.mov(field(offset::gpr + 12, 4), x86::ebx);
  a.mov(field(offset::gpr + 16, 4), x86::r12d);
  a.mov(field(offset::gpr + 20, 4), x86::ebp);
  a.mov(field(offset::gpr + 24, 4), x86::esi);
  a.mov(field(offset::gpr + 28, 4), x86::edi);
  // The stack pointer may be off after a fault inside glue that had pushed something: start from its known place.
  a.mov(x86::rsp, field(offset::return_stack, 8));
  a.pushfq();
  a.pop(x86::r8);
  a.mov(field(offset::host_flags, 4), x86::r8d);
  a.cld();
  const Label no_fpu = a.newLabel();
  a.cmp(field(offset::fpu_live, 1), 0);
  a.je(no_fpu);
  a.fxsave64(field(offset::fpu, 0));
  a.fninit();
  a.ldmxcsr(x86::Mem(mxcsr, 0, 4));
  a.bind(no_fpu);
  a.mov(x86::rsp, field(offset::host_stack, 8));
  for (const auto& r : {x86::r15, x86::r14, x86::r13, x86::r12, x86::rbp, x86::rbx}) a.pop(r);
  a.ret();
}

}  // namespace

Stubs emit_stubs(u64 base, std::vector<u8>& code) {
  CodeHolder holder;
  holder.init(Environment::host(), base);
  x86::Assembler a(&holder);
  Stubs stubs;
  const Label exit = a.newLabel();
  const Label mxcsr = a.newLabel();
  const auto leave = [&](u32& where, ExitReason reason) {
    where = static_cast<u32>(a.offset());
    a.mov(field(offset::exit_reason, 4), static_cast<u32>(reason));
    a.jmp(exit);
  };
  a.mov(field(offset::eip, 4), x86::r8d);
  u32 unused = 0;
  leave(unused, ExitReason::lookup);
  leave(stubs.exit_lookup, ExitReason::lookup);
  leave(stubs.exit_link, ExitReason::link);
  leave(stubs.exit_interpret, ExitReason::interpret);
  leave(stubs.exit_fault, ExitReason::host_fault);
  a.bind(exit);
  emit_exit(a, mxcsr);
  a.align(AlignMode::kCode, 16);
  stubs.enter = static_cast<u32>(a.offset());
  emit_enter(a);
  a.align(AlignMode::kCode, 16);
  a.bind(mxcsr);
  a.embedUInt32(host_mxcsr);
  a.align(AlignMode::kCode, 64);
  stubs.end = static_cast<u32>(a.offset());
  if (holder.flatten() != kErrorOk || holder.resolveUnresolvedLinks() != kErrorOk || holder.relocateToBase(base) != kErrorOk) {
    throw InternalError("cannot assemble the shared stubs");
  }
  code.resize(holder.codeSize());
  holder.copyFlattenedData(code.data(), code.size());
  return stubs;
}

}  // namespace ring3
