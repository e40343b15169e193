// The look-up of a site that missed before, as a call: loads the table entry and checks it, and asks the runtime for one that is missing.
// The code is shared, so a site costs no more bytes in this form, and its load is patched into the call in place.
#include <asmjit/x86.h>

#include "guest/fault.h"
#include "translator/contract.h"
#include "translator/stub_parts.h"
#include "translator/stubs.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

namespace {

constexpr std::array guest_scratch{eax, ecx, edx, esi, edi};  // C++ may change these
x86::Mem home(unsigned reg) { return field(offset::gpr + static_cast<i32>(reg * 4), 4); }

// Stores what C++ may change and calls EmittedLink::fill(engine, r8d, r9d). What the guest has in vector registers is kept as around other
// calls (stubs.cpp). On return: rax and rdx as the function gave them, the guest's eax, ecx, edx, esi and edi at home; r8, r11 and
// the flags on the stack, above the return address.
void emit_call(x86::Assembler& a, const Label& mxcsr) {
  constexpr i32 xmm = offset::fpu + static_cast<i32>(offsetof(FxImage, xmm));
  constexpr i32 guest_mxcsr = offset::fpu + static_cast<i32>(offsetof(FxImage, mxcsr));
  const Label no_fpu = a.newLabel();
  const Label still_no_fpu = a.newLabel();
  for (const unsigned reg : guest_scratch) a.mov(home(reg), x86::gpd(reg));
  a.push(x86::r8);
  a.push(x86::r11);
  a.pushfq();
  a.cld();
  a.mov(field(offset::emitted_stack, 8), x86::rsp);
  a.mov(x86::rsp, field(offset::host_stack, 8));
  a.cmp(field(offset::fpu_live, 1), 0);
  a.je(no_fpu);
  for (unsigned i = 0; i < 8; ++i) a.movaps(field(xmm + static_cast<i32>(16 * i), 16), x86::xmm(i));
  a.stmxcsr(field(guest_mxcsr, 4));
  a.ldmxcsr(x86::Mem(mxcsr, 0, 4));
  a.bind(no_fpu);
  a.mov(x86::rdi, field(offset::engine, 8));
  a.mov(x86::esi, x86::r8d);
  a.mov(x86::edx, x86::r9d);
  a.call(field(offset::fill, 8));
  a.cmp(field(offset::fpu_live, 1), 0);
  a.je(still_no_fpu);
  for (unsigned i = 0; i < 8; ++i) a.movaps(x86::xmm(i), field(xmm + static_cast<i32>(16 * i), 16));
  a.ldmxcsr(field(guest_mxcsr, 4));
  a.bind(still_no_fpu);
  a.mov(x86::rsp, field(offset::emitted_stack, 8));
}

}  // namespace

void emit_look_up_stubs(x86::Assembler& a, const Label& missed, const Label& mxcsr, Stubs& stubs) {
  const Label miss = a.newLabel();
  const Label failed = a.newLabel();
  const Label fault = a.newLabel();
  const Label interpret = a.newLabel();
  a.align(AlignMode::kCode, 16);
  stubs.look_up_begin = static_cast<u32>(a.offset());
  const std::array<Label, 2> found{a.newLabel(), a.newLabel()};
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
    a.mov(x86::ecx, 63);
    a.shrx(x86::rcx, x86::r9, x86::rcx);  // 1: a miss is negative
    a.jecxz(x86::rcx, found[write]);
    a.mov(x86::rcx, x86::r10);
    a.mov(x86::r9d, write);
    a.jmp(miss);
    a.bind(found[write]);
    a.mov(x86::rcx, x86::r10);
    a.mov(x86::r10d, 10);
    a.ret();
  }
  a.bind(miss);
  emit_call(a, mxcsr);
  a.mov(x86::r9, x86::rax);
  a.test(x86::edx, x86::edx);
  a.jnz(fault);
  for (const unsigned reg : guest_scratch) a.mov(x86::gpd(reg), home(reg));
  a.test(x86::r9, x86::r9);
  a.jz(failed);
  a.popfq();
  a.pop(x86::r11);
  a.pop(x86::r8);
  a.mov(x86::r10d, 10);
  a.ret();
  // A page fault of the guest that nothing stands in the way of (BtEngine::fill).
  a.bind(fault);
  a.pop(x86::rax);
  a.mov(field(offset::host_flags, 4), x86::eax);
  a.lea(x86::rsp, x86::ptr(x86::rsp, fill_caller - 8));
  a.pop(field(offset::exit_argument, 8));
  a.mov(home(ebx), x86::ebx);
  a.mov(x86::esi, home(esi));
  a.mov(x86::edi, home(edi));
  a.mov(x86::r11d, 8 * static_cast<u32>(Vector::page));
  emit_fault_delivery(a, true, missed);
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
