#include "translator/stubs.h"

#include <asmjit/x86.h>

#include "base/error.h"
#include "translator/contract.h"
#include "translator/stub_parts.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

namespace {

constexpr u32 host_mxcsr = 0x1F80;  // all exceptions masked, round to nearest: what the C++ ABI expects

// The emitted side of everything: labels that the pieces below share.
struct Places {
  Label exit;          // emitted code -> C++: all of the guest's state is in registers
  Label leave;         // the general registers and flags are stored
  Label leave_no_fpu;  // nothing of the guest is in registers
  Label go_on;         // C++ -> emitted code at r11, with r8 as it is; the FPU is not touched
  Label interpret;     // exit_argument is stored
  Label missed;        // a look-up got no entry; exit_argument is stored
  Label mxcsr;
};

// POPF costs about as much as the rest together: SAHF and an addition that overflows do, unless DF is set.
void emit_load_flags(x86::Assembler& a) {
  const Label with_direction = a.newLabel();
  const Label done = a.newLabel();
  a.mov(x86::eax, field(offset::host_flags, 4));
  a.test(x86::eax, flag::df);
  a.jnz(with_direction);
  a.mov(x86::ecx, x86::eax);
  a.shr(x86::ecx, 11);
  a.and_(x86::ecx, 1);
  a.add(x86::cl, 0x7F);  // OF, if it was 1
  a.mov(x86::ah, x86::al);
  a.sahf();
  a.jmp(done);
  a.bind(with_direction);
  a.push(x86::rax);
  a.popfq();
  a.bind(done);
}

void emit_go_on(x86::Assembler& a, const Places& p) {
  a.bind(p.go_on);
  a.mov(x86::rsp, field(offset::return_stack, 8));
  a.mov(x86::r13, field(offset::context, 8));
  a.mov(x86::r14, field(offset::window_base, 8));
  a.mov(x86::r10d, 10);
  a.mov(x86::r12, field(offset::esp_base_mask, 8));
  a.and_(x86::r12, x86::r14);
  a.mov(x86::eax, field(offset::gpr + 16, 4));
  a.add(x86::r12, x86::rax);
  emit_load_flags(a);
  a.mov(x86::eax, field(offset::gpr + 0, 4));
  a.mov(x86::ecx, field(offset::gpr + 4, 4));
  a.mov(x86::edx, field(offset::gpr + 8, 4));
  a.mov(x86::ebx, field(offset::gpr + 12, 4));
  a.mov(x86::ebp, field(offset::gpr + 20, 4));
  a.mov(x86::esi, field(offset::gpr + 24, 4));
  a.mov(x86::edi, field(offset::gpr + 28, 4));
  a.jmp(x86::r11);
}

void emit_enter(x86::Assembler& a, const Places& p) {
  for (const auto& r : {x86::rbx, x86::rbp, x86::r12, x86::r13, x86::r14, x86::r15}) a.push(r);
  a.sub(x86::rsp, 8);  // calls from emitted code find the stack aligned
  a.mov(x86::r15, x86::rdi);
  a.mov(field(offset::host_stack, 8), x86::rsp);
  const Label no_fpu = a.newLabel();
  a.cmp(field(offset::fpu_live, 1), 0);
  a.je(no_fpu);
  a.fxrstor64(field(offset::fpu, 0));
  a.bind(no_fpu);
  a.mov(x86::r11, field(offset::resume_at, 8));
  a.jmp(p.go_on);
}

void emit_store_registers(x86::Assembler& a) {
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
}

void emit_exit(x86::Assembler& a, const Places& p) {
  a.bind(p.exit);
  emit_store_registers(a);
  a.bind(p.leave);
  a.cmp(field(offset::fpu_live, 1), 0);
  a.je(p.leave_no_fpu);
  a.fxsave64(field(offset::fpu, 0));
  a.fninit();
  a.ldmxcsr(x86::Mem(p.mxcsr, 0, 4));
  a.bind(p.leave_no_fpu);
  a.mov(x86::rsp, field(offset::host_stack, 8));
  a.add(x86::rsp, 8);
  for (const auto& r : {x86::r15, x86::r14, x86::r13, x86::r12, x86::rbp, x86::rbx}) a.pop(r);
  a.ret();
}

// Calls the C++ function that `function` holds, with the number in esi, and goes on where it says. Registers and exit_reason are stored.
// What the guest has in vector registers is kept around the call; x87 registers stay where they are, as C++ without long double leaves them
// alone.
void emit_call(x86::Assembler& a, const Places& p, i32 function) {
  constexpr i32 xmm = offset::fpu + static_cast<i32>(offsetof(FxImage, xmm));
  constexpr i32 mxcsr = offset::fpu + static_cast<i32>(offsetof(FxImage, mxcsr));
  const Label live = a.newLabel();
  a.mov(x86::rsp, field(offset::host_stack, 8));
  a.mov(x86::rdi, field(offset::engine, 8));
  a.cmp(field(offset::fpu_live, 1), 0);
  a.jne(live);
  a.call(field(function, 8));
  a.test(x86::rax, x86::rax);
  a.jz(p.leave_no_fpu);
  a.mov(x86::r11, x86::rax);
  a.mov(x86::r8, x86::rdx);
  a.jmp(p.go_on);
  a.bind(live);
  for (unsigned i = 0; i < 8; ++i) a.movaps(field(xmm + static_cast<i32>(16 * i), 16), x86::xmm(i));
  a.stmxcsr(field(mxcsr, 4));
  a.ldmxcsr(x86::Mem(p.mxcsr, 0, 4));
  a.call(field(function, 8));
  for (unsigned i = 0; i < 8; ++i) a.movaps(x86::xmm(i), field(xmm + static_cast<i32>(16 * i), 16));
  a.ldmxcsr(field(mxcsr, 4));
  a.test(x86::rax, x86::rax);
  a.jz(p.leave);
  a.mov(x86::r11, x86::rax);
  a.mov(x86::r8, x86::rdx);
  a.jmp(p.go_on);
}

void emit_interpret(x86::Assembler& a, const Places& p) {
  emit_store_registers(a);
  a.mov(field(offset::exit_reason, 4), static_cast<u32>(ExitReason::interpret));
  a.mov(x86::esi, field(offset::exit_argument, 4));
  emit_call(a, p, offset::interpreter);
}

}  // namespace

Stubs emit_stubs(u64 base, std::vector<u8>& code) {
  CodeHolder holder;
  holder.init(Environment::host(), base);
  x86::Assembler a(&holder);
  Stubs stubs;
  const Places p{a.newLabel(), a.newLabel(), a.newLabel(), a.newLabel(), a.newLabel(), a.newLabel(), a.newLabel()};
  const auto leave = [&](u32& where, ExitReason reason) {
    where = static_cast<u32>(a.offset());
    a.mov(field(offset::exit_reason, 4), static_cast<u32>(reason));
    a.jmp(p.exit);
  };
  a.mov(field(offset::eip, 4), x86::r8d);
  u32 unused = 0;
  leave(unused, ExitReason::lookup);
  leave(stubs.exit_lookup, ExitReason::lookup);
  leave(stubs.exit_link, ExitReason::link);
  leave(stubs.exit_interpret, ExitReason::interpret);
  leave(stubs.exit_fault, ExitReason::host_fault);
  emit_exit(a, p);
  a.align(AlignMode::kCode, 16);
  stubs.jump = static_cast<u32>(a.offset());
  a.mov(x86::r9d, x86::dword_ptr(x86::r13, x86::r8, 2, static_cast<i32>(jump_table)));
  a.lea(x86::r9, x86::ptr(x86::r15, x86::r9, 0, static_cast<i32>(state_distance)));
  a.jmp(x86::r9);
  a.align(AlignMode::kCode, 16);
  stubs.interpret = static_cast<u32>(a.offset());
  a.bind(p.interpret);
  emit_interpret(a, p);
  a.align(AlignMode::kCode, 16);
  emit_go_on(a, p);
  emit_look_up_stubs(a, p.missed, p.mxcsr, stubs);
  emit_sensitive_stubs(a, p.interpret, stubs);
  emit_transfer_stubs(a, p.interpret, stubs);
  a.bind(p.missed);
  emit_store_registers(a);
  a.mov(field(offset::exit_reason, 4), static_cast<u32>(ExitReason::miss));
  emit_call(a, p, offset::missed);
  a.align(AlignMode::kCode, 16);
  stubs.enter = static_cast<u32>(a.offset());
  emit_enter(a, p);
  a.align(AlignMode::kCode, 16);
  a.bind(p.mxcsr);
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
