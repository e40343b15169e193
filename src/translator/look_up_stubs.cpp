// The look-up of a site that missed before, as a call: loads the table entry and checks it, and asks the runtime for one that is missing.
// The code is shared, so a site costs no more bytes in this form, and its load is patched into the call in place.
#include <asmjit/x86.h>

#include "translator/contract.h"
#include "translator/stubs.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

namespace {

x86::Mem field(i32 offset, u32 size) { return x86::Mem(x86::r15, offset, size); }

// Saves what C++ may change, calls EmittedLink::fill(engine, r8d, r9d) and restores all but r9, which becomes the entry.
void emit_call(x86::Assembler& a, const Label& mxcsr) {
  const Label no_fpu = a.newLabel();
  const Label still_no_fpu = a.newLabel();
  constexpr std::array guest_scratch{eax, ecx, edx, esi, edi};  // C++ may change these
  const auto home = [](unsigned reg) { return field(offset::gpr + static_cast<i32>(reg * 4), 4); };
  for (const unsigned reg : guest_scratch) a.mov(home(reg), x86::gpd(reg));
  a.push(x86::r8);
  a.push(x86::r11);
  a.pushfq();
  a.cld();
  a.mov(field(offset::emitted_stack, 8), x86::rsp);
  a.mov(x86::rsp, field(offset::host_stack, 8));
  a.and_(x86::rsp, -16);
  a.cmp(field(offset::fpu_live, 1), 0);
  a.je(no_fpu);
  a.fxsave64(field(offset::fpu, 0));
  a.fninit();
  a.ldmxcsr(x86::Mem(mxcsr, 0, 4));
  a.bind(no_fpu);
  a.mov(x86::rdi, field(offset::engine, 8));
  a.mov(x86::esi, x86::r8d);
  a.mov(x86::edx, x86::r9d);
  a.call(field(offset::fill, 8));
  a.mov(x86::r9, x86::rax);
  a.cmp(field(offset::fpu_live, 1), 0);
  a.je(still_no_fpu);
  a.fxrstor64(field(offset::fpu, 0));
  a.bind(still_no_fpu);
  a.mov(x86::rsp, field(offset::emitted_stack, 8));
  for (const unsigned reg : guest_scratch) a.mov(x86::gpd(reg), home(reg));
}

}  // namespace

void emit_look_up_stubs(x86::Assembler& a, const Label& missed, const Label& mxcsr, Stubs& stubs) {
  const Label miss = a.newLabel();
  const Label failed = a.newLabel();
  const Label interpret = a.newLabel();
  a.align(AlignMode::kCode, 16);
  stubs.look_up_begin = static_cast<u32>(a.offset());
  std::array<Label, 2> missing{a.newLabel(), a.newLabel()};
  for (const unsigned write : {0u, 1u}) {
    const Label inside = a.newLabel();
    a.align(AlignMode::kCode, 16);
    stubs.look_up_crossing[write] = static_cast<u32>(a.offset());
    a.mov(x86::r11, x86::rcx);
    a.mov(x86::r10d, 44);
    a.shrx(x86::rcx, x86::r9, x86::r10);
    a.jecxz(x86::rcx, inside);
    a.mov(x86::rcx, x86::r11);
    a.jmp(interpret);
    a.bind(inside);
    a.mov(x86::rcx, x86::r11);
    stubs.look_up[write] = static_cast<u32>(a.offset());
    a.mov(x86::r9, x86::ptr(x86::r13, x86::r9, 3, static_cast<i32>(write != 0 ? write_table : read_table)));
    a.mov(x86::r10, x86::rcx);
    a.mov(x86::rcx, x86::r9);
    a.jecxz(x86::rcx, missing[write]);
    a.mov(x86::rcx, x86::r10);
    a.mov(x86::r10d, 10);
    a.ret();
    a.bind(missing[write]);
    a.mov(x86::rcx, x86::r10);
    a.mov(x86::r9d, write);
    if (write == 0) a.jmp(miss);
  }
  a.bind(miss);
  emit_call(a, mxcsr);
  a.test(x86::r9, x86::r9);
  a.jz(failed);
  a.popfq();
  a.pop(x86::r11);
  a.pop(x86::r8);
  a.mov(x86::r10d, 10);
  a.ret();
  a.bind(failed);
  a.popfq();
  a.pop(x86::r11);
  a.pop(x86::r8);
  a.bind(interpret);
  a.pop(field(offset::exit_argument, 8));
  a.jmp(missed);
  emit_string_stubs(a, stubs);
  stubs.look_up_end = static_cast<u32>(a.offset());
}

}  // namespace ring3
