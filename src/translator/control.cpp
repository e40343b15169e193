// Near control transfers. A direct jump inside the guest page is one patchable host jump: the page cannot be remapped under it alone.
// Everything else goes through the jump table of the current context, which is right in every address space.
#include "guest/fault.h"
#include "translator/emitter.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

bool Emitter::in_page(u32 target) const { return (target >> page_shift) == (key_.linear >> page_shift) && !block_->crosses_page; }

// Emits `opcode` and a 4-byte displacement that the code cache patches when it links the exit.
void Emitter::patchable_jump(std::initializer_list<u8> opcode, u32 target, ExitKind kind) {
  a_.embed(opcode.begin(), opcode.size());
  const bool loop = kind == ExitKind::jump && target == key_.linear && fpu_checked_;
  pending_exits_.push_back({static_cast<u32>(a_.offset()), 0, 0, target, kind, loop ? loop_offset_ : u8{0}});
  a_.embedUInt32(0);
}

void Emitter::load_jump(bool shared) {
  a_.mov(x86::r9d, x86::dword_ptr(x86::r13, x86::r8, 2, static_cast<i32>(contract::jump_table)));
  if (shared) pending_exits_.push_back({static_cast<u32>(a_.offset()) + 1, 0, 0, linear(), ExitKind::table_call});
  a_.lea(x86::r9, x86::ptr(x86::r15, x86::r9, 0, static_cast<i32>(state_distance)));
}

void Emitter::jump_table() {
  load_jump();
  a_.jmp(x86::r9);
}

bool Emitter::within_limit(u32 target) const { return target - key_.cs_base <= key_.cs_limit; }

// Comes before the first change of guest state: the jump itself faults (SDM vol. 2, JMP, CALL, RET).
void Emitter::check_target(const Gp& eip) {
  if (key_.cs_limit == 0xFFFFFFFF) return;
  a_.mov(x86::r9, Imm(-(i64{key_.cs_limit} + 1)));
  a_.lea(x86::r9, x86::ptr(eip, x86::r9));
  check_sign();
}

void Emitter::target_linear(const Gp& eip) {
  if (key_.cs_base != 0) {
    a_.mov(x86::r9d, key_.cs_base);
    a_.lea(x86::r8d, x86::ptr(eip, x86::r9));
  } else if (eip != x86::r8) {
    a_.mov(x86::r8d, eip.r32());
  }
}

void Emitter::jump_direct(u32 target) {
  if (in_page(target)) {
    patchable_jump({0xE9}, target);
    return;
  }
  a_.mov(x86::r8d, target);
  note_address();
  jump_table();
}

void Emitter::call_direct(u32 target) {
  if (!options_.optimizations.on(Optimization::returns)) {
    jump_direct(target);
  } else if (in_page(target)) {
    patchable_jump({0xE8}, target, ExitKind::call);
    landing();
  } else {
    a_.mov(x86::r8d, target);
    note_address();
    call_table();
  }
}

void Emitter::call_table() {
  if (!options_.optimizations.on(Optimization::returns)) {
    jump_table();
    return;
  }
  load_jump(in_page(next_linear()));
  a_.call(x86::r9);
  landing();
}

// Nothing comes here but a guest's RET. The return address is looked up like any other, its slot of the jump table leads here if it is in
// the same page, and then the host has predicted the RET. The host's return region holds nothing that counts: RET writes what it pops.
void Emitter::landing() {
  if (!in_page(next_linear())) return;
  if (!goes_on()) {
    patchable_jump({0xE9}, next_linear(), ExitKind::landing);
    return;
  }
  pending_exits_.push_back({static_cast<u32>(a_.offset()) + 1, 0, 0, next_linear(), ExitKind::landing_in});
  fpu_checked_ = false;
}

void Emitter::emit_cold_exits(TranslatedBlock& out) {
  for (DirectExit exit : pending_exits_) {
    if (exit.kind == ExitKind::table_call) {
      out.exits.push_back(exit);
      continue;
    }
    exit.stub_offset = static_cast<u32>(a_.offset());
    if (exit.kind == ExitKind::landing_in) {
      a_.mov(x86::r8d, exit.target);
      note_address();
      a_.jmp(Imm(base_ + stubs_.miss));
    } else if (in_page(exit.target)) {
      a_.mov(field(offset::eip, 4), exit.target);
      note_address();
      a_.mov(field(offset::exit_argument, 4), 0x7FFFFFFF);
      exit.number_offset = static_cast<u32>(a_.offset()) - 4;
      a_.jmp(Imm(base_ + stubs_.exit_link));
    } else {
      a_.mov(x86::r8d, exit.target);
      note_address();
      jump_table();
    }
    out.exits.push_back(exit);
  }
}

bool Emitter::emit_control(const Insn& insn) {
  if (insn.operand_size != 4) return false;
  const Operand& o = insn.operand[0];
  const u32 target = next_linear() + insn.target;
  const bool stack_ok = (key_.mode & mode::stack32) != 0 && !site_unaligned();
  const bool direct = o.kind == OperandKind::rel;
  if (direct && !within_limit(target)) return false;
  constexpr u32 near = 1u << 27;
  if (direct && insn.target + near >= 2 * near) out_->near_jumps = false;
  switch (insn.row) {
    case Row::jmp:
      if (!direct || target <= linear()) poll_loop();
      if (direct) {
        jump_direct(target);
      } else {
        if (o.kind == OperandKind::mem) {
          operand_address(insn, 4, Table::read);
          a_.mov(x86::r8d, host_memory(4));
        } else {
          a_.mov(x86::r8d, gpr32(o.reg));
        }
        check_target(x86::r8);
        target_linear(x86::r8);
        jump_table();
      }
      break;
    case Row::call:
      if (!stack_ok) return false;
      if (!direct || target <= linear()) poll_loop();
      if (o.kind == OperandKind::mem) {
        operand_address(insn, 4, Table::read);
        a_.mov(x86::r11d, host_memory(4));
      } else if (!direct) {
        a_.mov(x86::r11d, gpr32(o.reg));
      }
      if (!direct) check_target(x86::r11);
      stack_slot(-4, 4, Table::write);
      a_.mov(host_memory(4), next_eip());
      note_address();
      esp_pending_ -= 4;
      write_esp();
      if (direct) {
        call_direct(target);
      } else {
        target_linear(x86::r11);
        call_table();
      }
      break;
    case Row::ret:
      if (!stack_ok) return false;
      poll_loop();
      stack_slot(0, 4, Table::read);
      a_.mov(x86::r8d, host_memory(4));
      check_target(x86::r8);
      esp_pending_ += static_cast<i32>(4 + (insn.operand_count != 0 ? insn.imm & 0xFFFFu : 0));
      write_esp();
      target_linear(x86::r8);
      if (options_.optimizations.on(Optimization::returns)) {
        load_jump();
        a_.mov(x86::qword_ptr(x86::rsp), x86::r9);
        a_.ret();
      } else {
        jump_table();
      }
      break;
    case Row::loop:
    case Row::loope:
    case Row::loopne:
    case Row::jecxz: return emit_loop(insn);
    case Row::iret: return emit_interrupt_return();
    case Row::int_: return emit_software_interrupt(static_cast<u8>(insn.imm));
    case Row::int3: return emit_software_interrupt(static_cast<u8>(Vector::breakpoint));
    case Row::jcxz: return false;  // CX has no form in 64-bit mode
    default:
      if (o.kind != OperandKind::rel || insn.operand_count != 1) return false;
      return emit_conditional(insn);
  }
  ended_ = insn.row != Row::call || !goes_on();
  return true;
}

bool Emitter::emit_conditional(const Insn& insn) {
  // 70+cc rel8 or 0F 80+cc rel32: the condition is in the low four bits of the last opcode byte.
  const u8 first = insn.bytes[insn.opcode_offset];
  const u8 condition = static_cast<u8>((first == 0x0F ? insn.bytes[insn.opcode_offset + 1] : first) & 0xFu);
  const u32 target = next_linear() + insn.target;
  if (!within_limit(target)) return false;
  if (target <= linear()) poll_loop();
  patchable_jump({0x0F, static_cast<u8>(0x80u | condition)}, target);
  return true;
}

bool Emitter::emit_loop(const Insn& insn) {
  if (insn.address_size != 4) return false;  // CX as counter has no form in 64-bit mode
  const u32 target = next_linear() + insn.target;
  if (!within_limit(target)) return false;
  if (target <= linear()) poll_loop();
  const u8 opcode = insn.bytes[insn.opcode_offset];
  const std::array<u8, 5> head{0x67, opcode, 2, 0xEB, 5};  // taken: over the short jump; not taken: over the first long jump
  a_.embed(head.data(), head.size());
  patchable_jump({0xE9}, target);
  return true;
}

}  // namespace ring3
