// Privileged instructions and segment loads, as kernels make them all the time: in the cache for the usual operand, else by the
// interpreter. Checks come before the first change, and the guest's flags are kept.
#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

void Emitter::save_flags(const Gp& scratch) {
  a_.mov(scratch, x86::rax);
  a_.lahf();
  a_.seto(x86::al);
  a_.mov(x86::r9d, x86::eax);
  a_.mov(x86::rax, scratch);
}

void Emitter::restore_flags(const Gp& scratch) {
  a_.mov(scratch, x86::rax);
  a_.mov(x86::eax, x86::r9d);
  a_.add(x86::al, 0x7F);  // OF
  a_.sahf();
  a_.mov(x86::rax, scratch);
}

bool Emitter::emit_privileged(const Insn& insn) {
  switch (insn.row) {
    case Row::clts: return emit_clts();
    case Row::mov_to_cr: return insn.operand[0].reg == 0 && emit_mov_to_cr0(insn);
    case Row::rdmsr:
    case Row::wrmsr: return emit_msr(insn.row == Row::wrmsr);
    case Row::lgdt: return emit_load_table(insn, offset::gdtr);
    case Row::lidt: return emit_load_table(insn, offset::idtr);
    case Row::ltr:
      if (insn.has_memory) return false;
      a_.movzx(x86::r8d, gpr16(insn.operand[0].reg));
      name_interpret_site();
      a_.call(Imm(base_ + stubs_.load_task));
      return true;
    case Row::mov_to_sreg:
    case Row::pop_sreg: return emit_load_segment(insn);
    case Row::sysenter: return emit_fast_system_call(false);
    case Row::sysexit: return emit_fast_system_call(true);
    default: return false;
  }
}

// As export_flags does it. The runtime drops a live state at the next entry with TS or EM set.
void Emitter::set_fpu_gate() {
  const Label closed = a_.newLabel();
  a_.xor_(x86::r11d, x86::r11d);
  a_.test(field(offset::cr0, 4), cr0::ts | cr0::em);
  a_.short_().jnz(closed);
  a_.cmp(field(offset::fpu_live, 1), 0);
  a_.cmovne(x86::r11, field(offset::always_valid, 8));
  a_.bind(closed);
  a_.mov(field(offset::fpu_gate, 8), x86::r11);
}

bool Emitter::emit_clts() {
  save_flags();
  a_.and_(field(offset::cr0, 4), ~cr0::ts);
  set_fpu_gate();
  restore_flags();
  return true;
}

// A write that changes nothing but TS.
bool Emitter::emit_mov_to_cr0(const Insn& insn) {
  const Label usual = a_.newLabel();
  a_.mov(x86::r8d, gpr32(insn.operand[1].reg));
  save_flags();
  a_.or_(x86::r8d, cr0::et);
  a_.mov(x86::r11d, x86::r8d);
  a_.xor_(x86::r11d, field(offset::cr0, 4));
  a_.test(x86::r11d, ~cr0::ts);
  a_.short_().jz(usual);
  restore_flags();
  jump_to_interpreter();
  a_.bind(usual);
  a_.mov(field(offset::cr0, 4), x86::r8d);
  set_fpu_gate();
  restore_flags();
  return true;
}

// IA32_SYSENTER_CS, ESP and EIP, which nothing but SYSENTER and SYSEXIT look at.
bool Emitter::emit_msr(bool write) {
  if (lacks(Feature::sep)) return false;
  constexpr i32 first = 0x174, count = 3;
  const Label usual = a_.newLabel();
  a_.lea(x86::r8d, x86::ptr(x86::rcx, -first));
  save_flags();
  a_.cmp(x86::r8d, count);
  a_.short_().jb(usual);
  restore_flags();
  jump_to_interpreter();
  a_.bind(usual);
  restore_flags();
  const x86::Mem value = x86::dword_ptr(x86::r15, x86::r8, 2, offset::sysenter_cs);
  if (write) {
    a_.mov(value, x86::eax);
  } else {
    a_.mov(x86::eax, value);
    a_.mov(x86::edx, 0);
  }
  return true;
}

bool Emitter::emit_load_table(const Insn& insn, i32 table) {
  if (!insn.has_memory || insn.operand_size != 4) return false;
  operand_address(insn, 6, Table::read);
  a_.movzx(x86::r11d, host_memory(2));
  x86::Mem base = host_memory(4);
  base.addOffset(2);
  a_.mov(x86::r9d, base);
  a_.mov(field(table + static_cast<i32>(offsetof(DescriptorTable, limit)), 4), x86::r11d);
  a_.mov(field(table + static_cast<i32>(offsetof(DescriptorTable, base)), 4), x86::r9d);
  return true;
}

// A data segment register takes a descriptor that was loaded before and has not changed. In this mode, and with those that
// EmittedLink::loaded holds, no mode bit can change.
bool Emitter::emit_load_segment(const Insn& insn) {
  constexpr u32 wanted = mode::ds_es_ss_flat | mode::protected_mode;
  if ((key_.mode & (wanted | mode::fs_gs_checked)) != wanted) return false;
  const unsigned number = insn.operand[0].reg;
  if (number >= segment_count || stubs_.load_segment[number] == 0) return false;
  if (insn.row == Row::pop_sreg) {
    if ((key_.mode & mode::stack32) == 0 || site_unaligned() || insn.operand_size != 4) return false;
    stack_slot(0, 2, Table::read);  // two of the four bytes, as the interpreter
    a_.movzx(x86::r8d, host_memory(2));
  } else if (insn.has_memory) {
    operand_address(insn, 2, Table::read);
    a_.movzx(x86::r8d, host_memory(2));
  } else {
    a_.movzx(x86::r8d, gpr16(insn.operand[1].reg));
  }
  name_interpret_site();
  a_.call(Imm(base_ + stubs_.load_segment[number]));
  if (insn.row == Row::pop_sreg) add_to_esp(4);
  return true;
}

u32 Emitter::flat_mode(u32 cpl_bit) const {
  constexpr u32 by_privilege = mode::user | mode::cpl0 | mode::tsc_faults | mode::alignment_checks | mode::window | mode::low_window;
  return (key_.mode & ~by_privilege) | mode::code32 | mode::stack32 | mode::cs_flat | cpl_bit;
}

// With DS, ES and SS flat, and FS and GS plain, the segments that are loaded decide the mode on the other side. Whether there is a window
// is known to the tables alone.
bool Emitter::emit_fast_system_call(bool exit) {
  if ((key_.mode & (mode::ds_es_ss_flat | mode::fs_gs_checked)) != mode::ds_es_ss_flat) return false;
  a_.mov(x86::r8d, flat_mode(exit ? mode::user : mode::cpl0));
  name_interpret_site();
  a_.jmp(Imm(base_ + (exit ? stubs_.sysexit : stubs_.sysenter)));
  ended_ = true;
  return true;
}

bool Emitter::transfers_are_flat() const {
  constexpr u32 flat = mode::stack32 | mode::cs_flat | mode::ds_es_ss_flat | mode::protected_mode;
  return options_.optimizations.on(Optimization::transfers) && (key_.mode & (flat | mode::fs_gs_checked)) == flat;
}

// From one flat segment to another, as SYSEXIT.
bool Emitter::emit_interrupt_return() {
  if ((key_.mode & mode::cpl0) == 0 || !transfers_are_flat()) return false;
  a_.mov(x86::r8d, flat_mode(mode::user));
  name_interpret_site();
  a_.jmp(Imm(base_ + stubs_.iret));
  ended_ = true;
  return true;
}

bool Emitter::emit_software_interrupt(u8 vector) {
  const bool user = (key_.mode & mode::user) != 0;
  if ((!user && (key_.mode & mode::cpl0) == 0) || !transfers_are_flat()) return false;
  a_.mov(field(offset::eip, 4), next_eip());
  note_address();
  a_.mov(x86::r11d, vector * 8);
  name_interpret_site();
  a_.jmp(Imm(base_ + stubs_.software_interrupt[user]));
  ended_ = true;
  return true;
}

}  // namespace ring3
