// Sensitive instructions that kernels use all the time: done inside the cache (docs/architecture.md).
#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

namespace {

// RFLAGS as pushed by the host: the arithmetic flags and DF are the guest's, bit 1 and IF are the host's and always set.
constexpr i32 host_fixed_flags = 0x202;
// What POPF at CPL 0 may change besides the host's flags and IF. RF is cleared; VM, VIF and VIP keep their value (SDM vol. 2, POPF).
constexpr u32 popf_virtual = flag::iopl | flag::nt | flag::ac | flag::id;

}  // namespace

bool Emitter::emit_sensitive(const Insn& insn) {
  const bool cpl0 = (key_.mode & mode::cpl0) != 0;
  switch (insn.row) {
    case Row::cli:
      if (!cpl0) return false;
      a_.mov(field(offset::if_flag, 4), 0);
      a_.mov(x86::r9, field(offset::always_valid, 8));
      a_.mov(field(offset::poll, 8), x86::r9);
      return true;
    case Row::sti: return cpl0 && emit_sti();
    case Row::pushf: return emit_pushf(insn);
    case Row::popf: return cpl0 && emit_popf(insn);
    case Row::mov_from_cr: {
      if (!cpl0) return false;
      const i32 from = insn.operand[1].reg == 0   ? offset::cr0
                       : insn.operand[1].reg == 2 ? offset::cr2
                       : insn.operand[1].reg == 3 ? offset::cr3
                       : insn.operand[1].reg == 4 ? offset::cr4
                                                  : 0;
      if (from == 0) return false;
      a_.mov(gpr32(insn.operand[0].reg), field(from, 4));
      return true;
    }
    case Row::cpuid:
      name_interpret_site();
      a_.call(Imm(base_ + stubs_.cpuid));
      return true;
    case Row::rdtsc:
    case Row::rdtscp: return emit_rdtsc(insn);
    case Row::mov_from_sreg: {
      const x86::Mem selector = field(offset::selector(insn.operand[1].reg), 2);
      if (insn.has_memory) {
        operand_address(insn, 2, Table::write);
        a_.movzx(x86::r11d, selector);
        a_.mov(host_memory(2), x86::r11w);
      } else if (insn.operand_size == 4) {
        a_.movzx(gpr32(insn.operand[0].reg), selector);
      } else {
        a_.mov(gpr16(insn.operand[0].reg), selector);
      }
      return true;
    }
    case Row::push_sreg:
      if ((key_.mode & mode::stack32) == 0 || site_unaligned() || insn.operand_size != 4) return false;
      stack_slot(-4, 4, Table::write);
      a_.movzx(x86::r11d, field(offset::selector(insn.operand[0].reg), 2));
      a_.mov(host_memory(2), x86::r11w);  // two of the four bytes (SDM vol. 2, PUSH)
      add_to_esp(-4);
      return true;
    default: return cpl0 ? emit_privileged(insn) : insn.row == Row::sysenter && emit_fast_system_call(false);
  }
}

// The guest's counter is the host's plus an offset; flags stay as they are.
bool Emitter::emit_rdtsc(const Insn& insn) {
  if ((key_.mode & mode::tsc_faults) != 0) return false;
  if (insn.row == Row::rdtscp) a_.lfence();  // it waits for earlier instructions (SDM vol. 2, RDTSCP)
  a_.rdtsc();
  a_.mov(x86::r9d, 32);
  a_.shlx(x86::rdx, x86::rdx, x86::r9);
  a_.lea(x86::rax, x86::ptr(x86::rax, x86::rdx));
  a_.mov(x86::r8, field(offset::tsc_offset, 8));
  a_.lea(x86::rax, x86::ptr(x86::rax, x86::r8));
  a_.shrx(x86::rdx, x86::rax, x86::r9);
  a_.mov(x86::eax, x86::eax);
  if (insn.row == Row::rdtscp) a_.mov(x86::ecx, field(offset::tsc_aux, 4));
  return true;
}

// STI holds interrupts off until the next instruction is done (SDM vol. 3, 6.8.3): the poll stands before the one after it. In front of a
// jump there is no place for it, so an interrupt that waits already makes the STI itself fault: the interpreter carries the shadow across,
// as it does where the block ends here. One that comes later finds a poll, or this STI again.
bool Emitter::emit_sti() {
  if (index_ + 1 >= block_->insns.size() || hold_poll_) return false;
  const Insn& next = block_->insns[index_ + 1];
  if (next.row == Row::sti) return false;
  if (next.info().family == Family::control) {
    a_.mov(x86::r9, field(offset::pending, 8));
    a_.mov(x86::r8d, x86::dword_ptr(x86::r9));
    a_.mov(field(offset::if_flag, 4), flag::if_);
    a_.mov(field(offset::poll, 8), x86::r9);
    return true;
  }
  a_.mov(field(offset::if_flag, 4), flag::if_);
  a_.mov(x86::r9, field(offset::pending, 8));
  a_.mov(field(offset::poll, 8), x86::r9);
  poll_at_ = index_ + 2;
  return true;
}

bool Emitter::emit_pushf(const Insn& insn) {
  if (insn.operand_size != 4 || (key_.mode & mode::stack32) == 0 || site_unaligned() || (key_.mode & mode::v8086) != 0) return false;
  stack_slot(-4, 4, Table::write);
  a_.pushfq();
  a_.pop(x86::r11);
  a_.mov(x86::r10d, field(offset::system_flags, 4));
  a_.lea(x86::r11d, x86::ptr(x86::r11, x86::r10, 0, -host_fixed_flags));
  a_.mov(x86::r10d, field(offset::if_flag, 4));
  a_.lea(x86::r11d, x86::ptr(x86::r11, x86::r10));
  a_.mov(x86::r10d, 10);
  a_.mov(host_memory(4), x86::r11d);
  add_to_esp(-4);
  return true;
}

bool Emitter::emit_popf(const Insn& insn) {
  if (insn.operand_size != 4 || (key_.mode & mode::stack32) == 0 || site_unaligned() || (key_.mode & mode::trap) != 0) return false;
  stack_slot(0, 4, Table::read);
  a_.mov(x86::r8d, host_memory(4));
  // POPF overwrites every flag that the host holds, so they are free from here on, once TF is known to stay off.
  const Label plain = a_.newLabel();
  a_.pushfq();
  a_.test(x86::r8d, flag::tf);
  a_.short_().jz(plain);
  a_.popfq();
  jump_to_interpreter();
  a_.bind(plain);
  a_.mov(x86::r9d, x86::r8d);
  a_.and_(x86::r9d, flag::if_);
  a_.mov(field(offset::if_flag, 4), x86::r9d);
  a_.mov(x86::r9, field(offset::always_valid, 8));
  a_.cmovnz(x86::r9, field(offset::pending, 8));
  a_.mov(field(offset::poll, 8), x86::r9);
  a_.mov(x86::r9d, x86::r8d);
  a_.and_(x86::r9d, popf_virtual);
  a_.mov(x86::r11d, field(offset::system_flags, 4));
  a_.and_(x86::r11d, ~(popf_virtual | flag::rf));
  a_.or_(x86::r9d, x86::r11d);
  a_.mov(field(offset::system_flags, 4), x86::r9d);
  a_.and_(x86::r8d, flag::host);
  a_.or_(x86::r8d, host_fixed_flags);
  a_.mov(x86::qword_ptr(x86::rsp), x86::r8);
  a_.popfq();
  add_to_esp(4);
  poll_at_ = index_ + 1;
  return true;
}

}  // namespace ring3
