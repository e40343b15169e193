// String instructions. Flags are saved on the return region first, so that the glue may use them; every element run is checked against
// the tables before it is executed, so that the host instruction itself cannot fault. Whatever is not simple (a miss, an element across
// pages, DF with REP, 16-bit forms) leaves with the registers of the last whole iteration and the flags from before the instruction, and
// the interpreter goes on there.
#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

namespace {

struct StringForm {
  unsigned size = 0;
  bool source = false;       // reads [esi]
  bool destination = false;  // touches es:[edi]
  bool stores = false;
  bool compares = false;
  u8 opcode = 0;
};

StringForm form_of(Row row) {
  switch (row) {
    case Row::movsb: return {1, true, true, true, false, 0xA4};
    case Row::movsw: return {2, true, true, true, false, 0xA5};
    case Row::movsd: return {4, true, true, true, false, 0xA5};
    case Row::cmpsb: return {1, true, true, false, true, 0xA6};
    case Row::cmpsw: return {2, true, true, false, true, 0xA7};
    case Row::cmpsd: return {4, true, true, false, true, 0xA7};
    case Row::stosb: return {1, false, true, true, false, 0xAA};
    case Row::stosw: return {2, false, true, true, false, 0xAB};
    case Row::stosd: return {4, false, true, true, false, 0xAB};
    case Row::lodsb: return {1, true, false, false, false, 0xAC};
    case Row::lodsw: return {2, true, false, false, false, 0xAD};
    case Row::lodsd: return {4, true, false, false, false, 0xAD};
    case Row::scasb: return {1, false, true, false, true, 0xAE};
    case Row::scasw: return {2, false, true, false, true, 0xAF};
    case Row::scasd: return {4, false, true, false, true, 0xAF};
    default: return {};
  }
}

constexpr i32 page_offset_mask = static_cast<i32>(page_mask);

}  // namespace

// `distance` = host address - `pointer`, r8 = at most the bytes that its page and its segment still hold. Changes flags and r9.
void Emitter::string_pointer(const Gp& pointer, const Gp& distance, Seg segment, Table table, const Label& bail) {
  const bool flat = segment_form(segment) == SegmentForm::flat;
  if (!flat) {
    const i32 check = offset::segment_check(static_cast<unsigned>(segment));
    const u64 room = table == Table::read ? offsetof(SegmentCheck, read_room) : offsetof(SegmentCheck, write_room);
    a_.mov(x86::r9d, field(check + static_cast<i32>(offsetof(SegmentCheck, lower)), 4));
    a_.add(x86::r9d, pointer.r32());
    a_.add(x86::r9, field(check + static_cast<i32>(room), 8));
    a_.neg(x86::r9);
    a_.jle(bail);
    a_.cmp(x86::r8, x86::r9);
    a_.cmova(x86::r8, x86::r9);
  }
  a_.mov(x86::r9d, pointer.r32());
  if (!flat)
    a_.add(x86::r9d, field(offset::segment_check(static_cast<unsigned>(segment)) + static_cast<i32>(offsetof(SegmentCheck, base)), 4));
  a_.mov(distance.r32(), x86::r9d);
  a_.shr(distance.r32(), page_shift);
  a_.mov(distance, x86::ptr(x86::r13, distance, 3, static_cast<i32>(table == Table::read ? read_table : write_table)));
  a_.test(distance, distance);  // a miss is negative
  a_.js(bail);
  if (!flat) {
    a_.add(distance, x86::r9);
    a_.sub(distance, pointer);
  }
  a_.and_(x86::r9d, page_offset_mask);
  a_.neg(x86::r9d);
  a_.add(x86::r9d, static_cast<i32>(page_size));
  a_.cmp(x86::r8d, x86::r9d);
  a_.cmova(x86::r8d, x86::r9d);
}

// A short REP MOVS or REP STOS, as kernels use them to copy and clear structures: plain stores, where the host takes tens of cycles to
// start its own. rsi and rdi are host addresses, ecx the count. Ends at `done` with ecx = 0, or falls through. Changes flags and r8.
void Emitter::short_run(bool copies, unsigned size, const Label& done) {
  const Label longer = a_.newLabel(), word = a_.newLabel(), tail = a_.newLabel();
  constexpr unsigned most_bytes = 128;
  const i32 step = copies ? 8 : 4;
  a_.cmp(x86::ecx, most_bytes / size);
  a_.ja(longer);
  if (copies) {
    // Elements are copied one after the other: a destination close behind the source repeats what was copied.
    a_.mov(x86::r8, x86::rdi);
    a_.sub(x86::r8, x86::rsi);
    a_.cmp(x86::r8, step);
    a_.jb(longer);
  } else if (size == 4) {
    a_.mov(x86::r8d, x86::eax);
  } else {
    a_.movzx(x86::r8d, size == 1 ? Gp(x86::al) : Gp(x86::ax));
    a_.imul(x86::r8d, x86::r8d, size == 1 ? 0x01010101 : 0x00010001);
  }
  if (size > 1) a_.shl(x86::ecx, size == 2 ? 1 : 2);
  a_.sub(x86::ecx, step);
  a_.short_().jb(tail);
  a_.bind(word);
  if (copies) {
    a_.mov(x86::r8, x86::qword_ptr(x86::rsi));
    a_.mov(x86::qword_ptr(x86::rdi), x86::r8);
    a_.add(x86::rsi, step);
  } else {
    a_.mov(x86::dword_ptr(x86::rdi), x86::r8d);
  }
  a_.add(x86::rdi, step);
  a_.sub(x86::ecx, step);
  a_.short_().jae(word);
  a_.bind(tail);  // the low bits of ecx are those of the bytes that are left
  for (i32 part = step / 2; part >= static_cast<i32>(size); part /= 2) {
    const Label next = a_.newLabel();
    const Gp piece = part == 4 ? Gp(x86::r8d) : part == 2 ? Gp(x86::r8w) : Gp(x86::r8b);
    a_.test(x86::ecx, part);
    a_.short_().jz(next);
    if (copies) {
      a_.mov(piece, x86::Mem(x86::rsi, 0, static_cast<u32>(part)));
      a_.add(x86::rsi, part);
    }
    a_.mov(x86::Mem(x86::rdi, 0, static_cast<u32>(part)), piece);
    a_.add(x86::rdi, part);
    a_.bind(next);
  }
  a_.mov(x86::ecx, 0);
  a_.jmp(done);
  a_.bind(longer);
}

// Nothing to look up: the host's instruction on the window. A fault in the middle of a REP leaves what is to be done in the registers.
bool Emitter::emit_string_in_window(const Insn& insn, u8 opcode, unsigned size, bool source, bool destination, bool stores) {
  if (!in_window() || form_.wraps) return false;
  if (source && segment_form(insn.segment_override ? insn.mem.segment : Seg::ds) != SegmentForm::flat) return false;
  if (destination && segment_form(Seg::es) != SegmentForm::flat) return false;
  if (source && !low_window()) a_.lea(x86::rsi, x86::ptr(x86::rsi, x86::r14));
  if (destination && !low_window()) a_.lea(x86::rdi, x86::ptr(x86::rdi, x86::r14));
  std::array<u8, 4> code{};
  u32 n = 0;
  if (insn.rep != Rep::none) {
    a_.mov(x86::r9d, x86::ecx);
    code[n++] = window_rep;
    code[n++] = insn.rep == Rep::rep ? 0xF3 : 0xF2;
  }
  if (size == 2) code[n++] = 0x66;
  code[n++] = opcode;
  const Label done = a_.newLabel();
  if (insn.rep != Rep::none && stores && size != 2 && options_.optimizations.on(Optimization::short_rep)) {
    a_.call(Imm(base_ + stubs_.short_rep[source ? 1 : 0][size / 2]));
    a_.short_().jecxz(x86::ecx, done);
  }
  a_.embed(code.data(), n);
  a_.bind(done);
  if (source) a_.mov(x86::esi, x86::esi);
  if (destination) a_.mov(x86::edi, x86::edi);
  return true;
}

bool Emitter::emit_string(const Insn& insn) {
  const StringForm form = form_of(insn.row);
  if (form.size == 0 || insn.address_size != 4) return false;  // 16-bit addressing wraps SI and DI
  const bool rep = insn.rep != Rep::none;
  out_->points.back().rep_string = rep;
  if (rep && !hold_poll_ && options_.optimizations.on(Optimization::steps)) poll();  // the timer does not step through a REP
  if (emit_string_in_window(insn, form.opcode, form.size, form.source, form.destination, form.stores)) return true;
  const Label bail = a_.newLabel();
  const Label done = a_.newLabel();
  const Label again = a_.newLabel();
  const Label finished = a_.newLabel();
  const i32 size = static_cast<i32>(form.size);
  const x86::Mem saved_flags = x86::dword_ptr(x86::rsp);

  a_.pushfq();
  if (rep) {
    a_.test(saved_flags, flag::df);
    a_.jnz(bail);
    a_.bind(again);
    a_.test(x86::ecx, x86::ecx);
    a_.jz(done);
  }
  // r8 = bytes that pages and limits still hold; r10 and r11 = what turns esi and edi into host addresses.
  a_.mov(x86::r8d, page_size);
  if (form.source) string_pointer(x86::rsi, x86::r10, insn.segment_override ? insn.mem.segment : Seg::ds, Table::read, bail);
  if (form.destination) string_pointer(x86::rdi, x86::r11, Seg::es, form.stores ? Table::write : Table::read, bail);
  if (rep) {
    // r8d = iterations of this run, r9d = iterations after it.
    if (size > 1) {
      a_.shr(x86::r8d, size == 2 ? 1 : 2);
      a_.jz(bail);
    }
    a_.cmp(x86::r8d, x86::ecx);
    a_.cmova(x86::r8d, x86::ecx);
    a_.mov(x86::r9d, x86::ecx);
    a_.sub(x86::r9d, x86::r8d);
    a_.mov(x86::ecx, x86::r8d);
  } else {
    a_.cmp(x86::r8d, size);
    a_.jb(bail);
  }
  if (form.source) a_.add(x86::rsi, x86::r10);
  if (form.destination) a_.add(x86::rdi, x86::r11);
  if (!rep) a_.popfq();  // DF is needed; the others are the result or unchanged
  std::array<u8, 3> code{};
  u32 n = 0;
  if (rep) code[n++] = insn.rep == Rep::rep ? 0xF3 : 0xF2;
  if (form.size == 2) code[n++] = 0x66;
  code[n++] = form.opcode;
  const Label run_done = a_.newLabel();
  if (rep && form.stores && options_.optimizations.on(Optimization::short_rep)) short_run(form.source, form.size, run_done);
  a_.embed(code.data(), n);
  a_.bind(run_done);

  // Back to linear addresses without touching flags: x - entry == x + ~entry + 1.
  if (form.source) {
    a_.not_(x86::r10);
    a_.lea(x86::esi, x86::ptr(x86::rsi, x86::r10, 0, 1));
  }
  if (form.destination) {
    a_.not_(x86::r11);
    a_.lea(x86::edi, x86::ptr(x86::rdi, x86::r11, 0, 1));
  }
  const Label out = a_.newLabel();
  if (rep) {
    // What the run left in ecx counts too (a comparison may have ended it early).
    a_.lea(x86::ecx, x86::ptr(x86::rcx, x86::r9));
    if (form.compares) {
      a_.pushfq();
      a_.pop(x86::r8);  // the result, if nothing comes after; a fault further on restores those before the instruction (SDM vol. 2, REP)
      a_.test(x86::r8d, flag::zf);
      if (insn.rep == Rep::rep) {
        a_.jz(finished);
      } else {
        a_.jnz(finished);
      }
    }
    a_.test(x86::ecx, x86::ecx);
    a_.jz(form.compares ? finished : done);
    // A long run yields to interrupts between pages.
    a_.cmp(x86::qword_ptr(x86::r15, offset::poll), 0);
    a_.jne(again);
    a_.jmp(bail);
    if (form.compares) {
      a_.bind(finished);
      a_.mov(saved_flags, x86::r8d);
    }
    a_.bind(done);
    a_.popfq();
  }
  a_.mov(x86::r10d, 10);
  a_.jmp(out);
  a_.bind(bail);
  a_.popfq();
  a_.mov(x86::r10d, 10);
  jump_to_interpreter();
  a_.bind(out);
  return true;
}

}  // namespace ring3
