#include <bit>

#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

void Emitter::effective_address(const Insn& insn, const Gp& out) {
  const MemOperand& m = insn.mem;
  const i32 disp = static_cast<i32>(m.displacement) + (m.base == esp ? esp_pending_ : 0);
  if (m.base == no_reg && m.index == no_reg) {
    a_.mov(out, insn.address_size == 2 ? m.displacement & 0xFFFFu : m.displacement);
    return;
  }
  x86::Mem mem;
  if (m.index == no_reg) {
    mem = x86::ptr(gpr64(m.base), disp);
  } else {
    const u32 shift = static_cast<u32>(std::countr_zero(static_cast<unsigned>(m.scale)));
    mem = m.base == no_reg ? x86::ptr(0, gpr64(m.index), shift) : x86::ptr(gpr64(m.base), gpr64(m.index), shift, disp);
    if (m.base == no_reg) mem.setOffset(disp);
  }
  if (m.base != no_reg && m.index == no_reg && disp == 0) {
    a_.mov(out, gpr32(m.base));
  } else {
    a_.lea(out, mem);
  }
  if (insn.address_size == 2) a_.movzx(out, out.r16());
}

Emitter::SegmentForm Emitter::segment_form(Seg segment) const {
  if (segment == Seg::cs) return SegmentForm::checked;  // whether it can be read is not among the mode bits
  if (segment == Seg::fs || segment == Seg::gs) {
    return (key_.mode & mode::fs_gs_checked) != 0 ? SegmentForm::checked : SegmentForm::based;
  }
  return (key_.mode & mode::ds_es_ss_flat) != 0 ? SegmentForm::flat : SegmentForm::checked;
}

// r9 is negative if what was checked is inside, and 0 to 2^33 - 1 otherwise: its upper half, as an index, is -1, or 0 or 1. No flags
// change.
void Emitter::check_sign() {
  a_.rorx(x86::r9, x86::r9, 32);
  a_.movsxd(x86::r9, x86::r9d);
  a_.mov(x86::r9d, x86::dword_ptr(x86::r15, x86::r9, 3, limit_guard));
}

void Emitter::to_linear(Seg segment, unsigned size, Table table, bool may_wrap) {
  SegmentForm form = segment_form(segment);
  // The offset must not wrap at 4 GiB inside the access (SDM vol. 3, 5.3); with base 0 that is a page crossing, which the look-up finds.
  if (form == SegmentForm::based && may_wrap && size > 1) form = SegmentForm::checked;
  if (form == SegmentForm::flat) return;
  const unsigned number = static_cast<unsigned>(segment);
  if (form == SegmentForm::based) {
    a_.mov(x86::r9, field(offset::segment_gate + static_cast<i32>(number) * 8, 8));
    a_.mov(x86::r9d, x86::dword_ptr(x86::r9));
    a_.lea(x86::r8d, x86::ptr(x86::r8, x86::r9));
    return;
  }
  const i32 check = offset::segment_check(number);
  const i32 room = check + static_cast<i32>(table == Table::read ? offsetof(SegmentCheck, read_room) : offsetof(SegmentCheck, write_room));
  const i32 last = static_cast<i32>(size) - 1;
  if ((key_.mode & mode::expand_down) != 0) {
    a_.mov(x86::r9d, field(check + static_cast<i32>(offsetof(SegmentCheck, lower)), 4));
    a_.lea(x86::r9d, x86::ptr(x86::r8, x86::r9));
    a_.mov(x86::r10, field(room, 8));
    a_.lea(x86::r9, x86::ptr(x86::r9, x86::r10, 0, last));
    a_.mov(x86::r10d, 10);
  } else {
    a_.mov(x86::r9, field(room, 8));
    a_.lea(x86::r9, x86::ptr(x86::r8, x86::r9, 0, last));
  }
  check_sign();
  a_.mov(x86::r9d, field(check + static_cast<i32>(offsetof(SegmentCheck, base)), 4));
  a_.lea(x86::r8d, x86::ptr(x86::r8, x86::r9));
}

bool Emitter::may_place(Seg segment, i32 displacement) const {
  // A displacement far below 0 is an address in the upper half that only 32 bits reach.
  constexpr i32 least = -0x10000;
  return !form_.wraps && segment_form(segment) == SegmentForm::flat && displacement >= least;
}

bool Emitter::place_directly(Seg segment, const Gp& index, u32 shift, i32 displacement) {
  if (low_window() && index.isValid() && shift == 0) {
    if (segment_form(segment) != SegmentForm::flat) return false;
    place_ = {index, Gp(), 0, displacement, true};
    return true;
  }
  if (!may_place(segment, displacement)) return false;
  place_ = {x86::r14, index, shift, displacement};
  return true;
}

// Hosts forward a store to a later load without its latency if both addresses are one register and a displacement: so no r14 here.
bool Emitter::place_on_stack(Seg segment, const Gp& index, u32 shift, i32 displacement) {
  constexpr u32 most = 2;  // esp + 8 * index would get over the guard
  if (shift > most || !may_place(segment, displacement)) return false;
  place_ = {x86::r12, index, shift, displacement};
  return true;
}

// r14 is 0, where there is no base.
bool Emitter::place_as_it_is(const Insn& insn) {
  const MemOperand& m = insn.mem;
  if (segment_form(m.segment) != SegmentForm::flat) return false;
  const bool indexed = m.index != no_reg;
  place_ = {m.base != no_reg ? gpr64(m.base) : Gp(x86::r14), indexed ? gpr64(m.index) : Gp(),
            indexed ? static_cast<u32>(std::countr_zero(static_cast<unsigned>(m.scale))) : 0,
            static_cast<i32>(m.displacement) + (m.base == esp ? esp_pending_ : 0), true};
  return true;
}

bool Emitter::place_directly(const Insn& insn) {
  const MemOperand& m = insn.mem;
  if (insn.address_size != 4) return false;
  if (low_window()) return place_as_it_is(insn);
  if (m.base == no_reg && m.index == no_reg) {
    return static_cast<i32>(m.displacement) >= 0 && place_directly(m.segment, Gp(), 0, static_cast<i32>(m.displacement));
  }
  if (m.base == esp && esp_is_host()) {
    const bool indexed = m.index != no_reg;
    return place_on_stack(m.segment, indexed ? gpr64(m.index) : Gp(),
                          indexed ? static_cast<u32>(std::countr_zero(static_cast<unsigned>(m.scale))) : 0,
                          static_cast<i32>(m.displacement) + esp_pending_);
  }
  if ((m.base != no_reg) == (m.index != no_reg)) return false;
  const bool scaled = m.base == no_reg;
  const u32 shift = scaled ? static_cast<u32>(std::countr_zero(static_cast<unsigned>(m.scale))) : 0;
  return place_directly(m.segment, gpr64(scaled ? m.index : m.base), shift,
                        static_cast<i32>(m.displacement) + (m.base == esp ? esp_pending_ : 0));
}

void Emitter::register_operand(const Gp& base, i32 displacement, Seg segment, unsigned size, Table table) {
  if (fits_window(size, table)) {
    const bool on_stack = base.id() == Gp(x86::r12).id() && esp_is_host();
    if (on_stack ? place_on_stack(segment, Gp(), 0, displacement) : place_directly(segment, base, 0, displacement)) return;
  }
  if (displacement == 0) {
    a_.mov(x86::r8d, base.r32());
  } else {
    a_.lea(x86::r8d, x86::ptr(base, displacement));
  }
  to_linear(segment, size, table);
  look_up(size, table);
}

void Emitter::look_up(unsigned size, Table table, bool aligned) {
  if (fits_window(size, table)) {
    if (low_window()) {
      place_ = {x86::r8, Gp(), 0, 0};
    } else {
      place_ = {x86::r14, x86::r8, 0, 0};
    }
    return;
  }
  place_ = {};
  if ((site_unaligned() && !aligned) || !std::has_single_bit(size) || size > 16) {
    // Compares the pages of the first and the last byte; 44 shifts by 12 where 5 bits count and by 44 where 6 do. A crossing gives an
    // index outside the user half of the address space.
    if (size == 1) {
      a_.mov(x86::r10d, 12);
      a_.shrx(x86::r9d, x86::r8d, x86::r10d);
    } else {
      a_.mov(x86::r10d, 44);
      a_.lea(x86::r11d, x86::ptr(x86::r8, static_cast<i32>(size) - 1));
      a_.shrx(x86::r11d, x86::r11d, x86::r10d);
      a_.shrx(x86::r9d, x86::r8d, x86::r10d);
      a_.not_(x86::r11);
      a_.lea(x86::r11, x86::ptr(x86::r11, x86::r9, 0, 1));
      a_.shlx(x86::r11, x86::r11, x86::r10);
      a_.lea(x86::r9, x86::ptr(x86::r9, x86::r11));
    }
    load_entry(table, size > 1);
    a_.mov(x86::r10d, 10);
    return;
  }
  const unsigned align_bits = static_cast<unsigned>(std::countr_zero(size));
  if (align_bits == 0) {
    a_.mov(x86::r9d, 12);
    a_.shrx(x86::r9d, x86::r8d, x86::r9d);
  } else if (align_bits == 2) {
    a_.rorx(x86::r9, x86::r8, 2);
    a_.shrx(x86::r9, x86::r9, x86::r10);
  } else {
    a_.mov(x86::r10d, 12 - align_bits);
    a_.rorx(x86::r9, x86::r8, align_bits);
    a_.shrx(x86::r9, x86::r9, x86::r10);
    a_.mov(x86::r10d, 10);
  }
  load_entry(table, false);
}

// The load is patched into the call when it has missed (CodeCache::call_look_up).
void Emitter::load_entry(Table table, bool may_cross) {
  const std::size_t write = table == Table::write ? 1 : 0;
  if (form_.calls) {
    a_.call(Imm(base_ + (may_cross ? stubs_.look_up_crossing : stubs_.look_up)[write]));
  } else {
    a_.mov(x86::r9, x86::ptr(x86::r13, x86::r9, 3, static_cast<i32>(write != 0 ? write_table : read_table)));
  }
}

void Emitter::operand_address(const Insn& insn, unsigned size, Table table, bool aligned) {
  if (fits_window(size, table) && place_directly(insn)) return;
  effective_address(insn, x86::r8d);
  const bool fixed = insn.mem.base == no_reg && insn.mem.index == no_reg;
  to_linear(insn.mem.segment, size, table, !fixed || insn.mem.displacement + (size - 1) < insn.mem.displacement);
  look_up(size, table, aligned);
}

x86::Mem Emitter::host_memory(unsigned size) const {
  const Gp base = place_.wraps ? place_.base.r32() : place_.base;
  if (!place_.index.isValid()) return x86::Mem(base, place_.displacement, size);
  return x86::Mem(base, place_.wraps ? place_.index.r32() : place_.index, place_.shift, place_.displacement, size);
}

}  // namespace ring3
