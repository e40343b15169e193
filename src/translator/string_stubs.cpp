// Short REP MOVS and REP STOS on a window. The host's own takes some 25 cycles to start, and hundreds where it comes within 64 bytes of a
// page's end (measured on Intel's Sapphire Rapids), which is where kernels keep the registers of their entries, and copy them.
#include <asmjit/x86.h>

#include "translator/contract.h"
#include "translator/stubs.h"

namespace ring3 {

using namespace asmjit;

namespace {

constexpr u32 longest_shift = 6;  // counts below 64
constexpr i32 near_end = 64;
constexpr u32 df_bit = 10;

// Adds to rcx whether [pointer, pointer + count * size + near_end) reaches into another page. r9 = count, r11 = page_shift; changes r8.
void add_nearness(x86::Assembler& a, const x86::Gp& pointer, unsigned shift) {
  a.shrx(x86::r8, pointer, x86::r11);
  a.not_(x86::r8);
  a.lea(x86::rcx, x86::ptr(x86::rcx, x86::r8, 0, 1));
  a.lea(x86::r8, x86::ptr(pointer, x86::r9, shift, near_end));
  a.shrx(x86::r8, x86::r8, x86::r11);
  a.lea(x86::rcx, x86::ptr(x86::rcx, x86::r8));
}

// In: rsi, rdi on the window, ecx = r9d = count. Out: all done and ecx = 0, or nothing done. No flag changes; r8 and r11 do. A fault in the
// loop finds what a REP leaves: whole elements, and the registers for the rest.
void emit_short(x86::Assembler& a, bool copies, unsigned shift) {
  const Label is_short = a.newLabel(), forward = a.newLabel(), loop = a.newLabel(), done = a.newLabel();
  const u32 size = 1u << shift;
  a.mov(x86::r11d, longest_shift);
  a.shrx(x86::ecx, x86::r9d, x86::r11d);
  a.short_().jecxz(x86::ecx, is_short);
  a.mov(x86::ecx, x86::r9d);
  a.ret();
  a.bind(is_short);
  a.mov(x86::r11d, page_shift);
  add_nearness(a, x86::rdi, shift);
  if (copies) add_nearness(a, x86::rsi, shift);
  const Label far = a.newLabel();
  a.short_().jecxz(x86::ecx, far);
  a.pushfq();
  a.pop(x86::rcx);
  a.mov(x86::r11d, 31 - df_bit);
  a.shlx(x86::ecx, x86::ecx, x86::r11d);
  a.mov(x86::r11d, 31);
  a.shrx(x86::ecx, x86::ecx, x86::r11d);
  a.short_().jecxz(x86::ecx, forward);
  a.bind(far);
  a.mov(x86::ecx, x86::r9d);
  a.ret();
  a.bind(forward);
  a.mov(x86::ecx, x86::r9d);
  a.bind(loop);
  a.short_().jecxz(x86::ecx, done);
  const x86::Gp element = shift == 0 ? x86::Gp(copies ? x86::r8b : x86::al) : x86::Gp(copies ? x86::r8d : x86::eax);
  if (copies) a.mov(element, x86::Mem(x86::rsi, 0, size));
  a.mov(x86::Mem(x86::rdi, 0, size), element);
  if (copies) a.lea(x86::rsi, x86::ptr(x86::rsi, static_cast<i32>(size)));
  a.lea(x86::rdi, x86::ptr(x86::rdi, static_cast<i32>(size)));
  a.lea(x86::ecx, x86::ptr(x86::rcx, -1));
  a.short_().jmp(loop);
  a.bind(done);
  a.ret();
}

}  // namespace

void emit_string_stubs(x86::Assembler& a, Stubs& stubs) {
  for (const bool copies : {false, true}) {
    for (const unsigned shift : {0u, 2u}) {
      a.align(AlignMode::kCode, 16);
      stubs.short_rep[copies ? 1 : 0][shift] = static_cast<u32>(a.offset());
      emit_short(a, copies, shift);
    }
  }
}

}  // namespace ring3
