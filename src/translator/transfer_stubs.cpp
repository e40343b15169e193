// Ways between ring 0 and ring 3 as shared code: what runtime/system/flat_transfers.cpp does, for descriptors of one form alone (32-bit,
// 4 GiB from 0, accessed). Everything is compared before anything changes; what differs goes to the interpreter.
#include <asmjit/x86.h>

#include <array>

#include "guest/block_key.h"
#include "translator/contract.h"
#include "translator/stub_parts.h"
#include "translator/stubs.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

namespace {

x86::Mem view(bool user, std::size_t member, u32 size) {
  return field(offset::view + static_cast<i32>((user ? 1 : 0) * sizeof(SelectedView) + member), size);
}

// SegmentCache::attributes of the flat segments of a ring, and their descriptors.
constexpr u32 code_attributes(u32 level) { return 0xC09B | level << 5; }
constexpr u32 data_attributes(u32 level) { return 0xC093 | level << 5; }
constexpr u64 flat_descriptor(u32 attributes) { return u64{0x000F0000 | attributes << 8} << 32 | 0xFFFF; }
constexpr u32 system_part = flag::iopl | flag::nt | flag::ac | flag::id;

// Registers that the stubs compute with. The guest's are kept at their place in CpuState.
constexpr std::array kept{eax, ecx, edx, ebx};
void keep_registers(x86::Assembler& a) {
  for (const unsigned reg : kept) a.mov(field(offset::gpr + static_cast<i32>(4 * reg), 4), x86::gpd(reg));
}
void restore_registers(x86::Assembler& a) {
  for (const unsigned reg : kept) a.mov(x86::gpd(reg), field(offset::gpr + static_cast<i32>(4 * reg), 4));
}

// Do `size` bytes from the linear address lie in two pages? Changes rbx.
void refuse_crossing(x86::Assembler& a, const x86::Gp& linear, u32 size, const Label& other) {
  a.mov(x86::ebx, linear);
  a.and_(x86::ebx, page_mask);
  a.cmp(x86::ebx, page_size - size);
  a.ja(other);
}

// rax = the eight bytes at the linear address in eax, which the tables reach. Changes rbx.
void load_eight(x86::Assembler& a, const x86::Gp& tables, const Label& other) {
  a.test(x86::eax, 7);  // else they may lie in two pages
  a.jnz(other);
  find_entry(a, tables, read_table, x86::eax, x86::rbx, x86::rbx, other);
  a.mov(x86::rax, x86::ptr(x86::rbx, x86::rax));
}

// Is the descriptor of the selector, which is not of the LDT, the flat one with these attributes? Changes rax and rbx.
void want_descriptor(x86::Assembler& a, const x86::Gp& tables, const x86::Gp& selector, u32 attributes, const Label& other) {
  a.mov(x86::eax, selector);
  a.or_(x86::eax, 7);
  a.cmp(x86::eax, field(offset::gdtr + static_cast<i32>(offsetof(DescriptorTable, limit)), 4));
  a.ja(other);
  a.and_(x86::eax, 0xFFF8);
  a.jz(other);  // NULL
  a.add(x86::eax, field(offset::gdtr + static_cast<i32>(offsetof(DescriptorTable, base)), 4));
  load_eight(a, tables, other);
  a.mov(x86::rbx, Imm(flat_descriptor(attributes)));
  a.cmp(x86::rax, x86::rbx);
  a.jne(other);
}

// Is the register's cache the flat one with these attributes? Base and limit follow from the mode.
void want_attributes(x86::Assembler& a, Seg segment, u32 attributes, const Label& other) {
  const i32 at = offset::segment(static_cast<unsigned>(segment)) + static_cast<i32>(offsetof(SegmentCache, attributes));
  a.cmp(field(at, 2), attributes);
  a.jne(other);
}

// Selector and attributes change; base, limit, and what follows from them and from the type, are the same for all flat segments.
void set_segment(x86::Assembler& a, Seg segment, const x86::Gp& selector, u32 attributes) {
  const unsigned number = static_cast<unsigned>(segment);
  a.or_(selector, attributes << 16);
  a.mov(field(offset::segment(number), 4), selector);
  a.mov(field(offset::exported(number), 4), selector);
}

void take_tables(x86::Assembler& a, bool user) {
  a.mov(x86::r13, view(user, offsetof(SelectedView, context), 8));
  a.mov(field(offset::context, 8), x86::r13);
  a.mov(x86::r14, view(user, offsetof(SelectedView, window), 8));
  a.mov(field(offset::window_base, 8), x86::r14);
}

// r12 from esp in r12d. Changes rbx.
void set_esp(x86::Assembler& a) {
  a.mov(x86::rbx, field(offset::esp_base_mask, 8));
  a.and_(x86::rbx, x86::r14);
  a.add(x86::r12, x86::rbx);
}

// The arithmetic flags of the EFLAGS in `from`. Changes eax and ecx.
void set_flags(x86::Assembler& a, const x86::Gp& from) {
  a.mov(x86::eax, from);
  a.mov(x86::ecx, from);
  a.shr(x86::ecx, 11);
  a.and_(x86::ecx, 1);
  a.add(x86::cl, 0x7F);  // OF
  a.mov(x86::ah, x86::al);
  a.sahf();
}

// To the linear address in r8d, with the arithmetic flags and, if it is not live already, DF of the EFLAGS in edx. DF is clear then.
void jump(x86::Assembler& a, bool direction) {
  if (direction) {
    const Label no_df = a.newLabel();
    a.test(x86::edx, flag::df);
    a.jz(no_df);
    a.std();
    a.bind(no_df);
  }
  set_flags(a, x86::edx);
  restore_registers(a);
  a.mov(x86::r10d, 10);
  a.mov(x86::r9d, x86::dword_ptr(x86::r13, x86::r8, 2, static_cast<i32>(jump_table)));
  a.lea(x86::r9, x86::ptr(x86::r15, x86::r9, 0, static_cast<i32>(state_distance)));
  a.jmp(x86::r9);
}

// A data segment register keeps what ring 3 may use; anything else would be made NULL (SDM vol. 2, IRET). Changes eax.
void want_kept_segments(x86::Assembler& a, const Label& other) {
  const auto cache = [](Seg segment) { return field(offset::segment(static_cast<unsigned>(segment)), 4); };
  constexpr u32 level = 0x60u << 16, level_present = 0xE0u << 16;
  a.mov(x86::eax, cache(Seg::ds));
  a.and_(x86::eax, cache(Seg::es));
  a.and_(x86::eax, level);
  a.cmp(x86::eax, level);
  a.jne(other);
  for (const Seg segment : {Seg::fs, Seg::gs}) {
    const Label fine = a.newLabel();
    a.mov(x86::eax, cache(segment));
    a.test(x86::eax, x86::eax);  // NULL, and the selector is 0
    a.jz(fine);
    a.and_(x86::eax, level_present);
    a.cmp(x86::eax, level_present);
    a.jne(other);
    a.bind(fine);
  }
}

// In: r8d = the mode at CPL 3. In the stub: edx = new EFLAGS, ecx = new CS, r11 = host address of the frame, r10 = new poll.
void emit_interrupt_return(x86::Assembler& a, const Label& interpret) {
  constexpr u32 same_ring = 12, both_stacks = 20;
  const Label other = a.newLabel(), outer = a.newLabel(), common = a.newLabel();
  const Label no_rf = a.newLabel(), no_if = a.newLabel();
  keep_registers(a);
  a.lahf();
  a.seto(x86::al);
  a.mov(x86::r9d, x86::eax);
  refuse_crossing(a, x86::r12d, same_ring, other);
  find_entry(a, x86::r13, read_table, x86::r12d, x86::rbx, x86::r11, other);
  a.mov(x86::ebx, x86::r12d);
  a.add(x86::r11, x86::rbx);
  a.mov(x86::edx, x86::dword_ptr(x86::r11, 8));
  a.test(x86::edx, flag::vm | flag::tf);
  a.jnz(other);
  a.test(field(offset::system_flags, 4), flag::nt);
  a.jnz(other);
  // RF lasts for one instruction and matters where there is a breakpoint.
  a.test(x86::edx, flag::rf);
  a.jz(no_rf);
  a.cmp(field(offset::dr7, 1), 0);
  a.jne(other);
  a.bind(no_rf);
  // An interrupt that waits comes before the next instruction.
  a.mov(x86::r10, field(offset::always_valid, 8));
  a.test(x86::edx, flag::if_);
  a.jz(no_if);
  a.mov(x86::r10, field(offset::pending, 8));
  a.test(x86::r10, x86::r10);
  a.jz(other);
  a.bind(no_if);
  a.movzx(x86::ecx, x86::word_ptr(x86::r11, 4));
  a.mov(x86::ebx, x86::ecx);
  a.and_(x86::ebx, 7);  // RPL, and the LDT
  a.cmp(x86::ebx, 3);
  a.je(outer);
  a.test(x86::ebx, x86::ebx);
  a.jnz(other);
  want_attributes(a, Seg::cs, code_attributes(0), other);
  want_descriptor(a, x86::r13, x86::ecx, code_attributes(0), other);
  set_segment(a, Seg::cs, x86::ecx, code_attributes(0));
  a.add(x86::r12d, same_ring);
  a.jmp(common);

  a.bind(outer);
  a.cmp(x86::r8d, view(true, offsetof(SelectedView, mode), 4));
  a.jne(other);
  // What makes another mode of CPL 3.
  a.test(x86::edx, flag::ac);
  a.jnz(other);
  a.test(field(offset::cr4, 4), cr4::tsd);
  a.jnz(other);
  want_attributes(a, Seg::cs, code_attributes(0), other);
  want_attributes(a, Seg::ss, data_attributes(0), other);
  want_kept_segments(a, other);
  refuse_crossing(a, x86::r12d, both_stacks, other);
  want_descriptor(a, x86::r13, x86::ecx, code_attributes(3), other);
  a.movzx(x86::r8d, x86::word_ptr(x86::r11, 16));
  a.mov(x86::eax, x86::r8d);
  a.and_(x86::eax, 7);
  a.cmp(x86::eax, 3);
  a.jne(other);
  want_descriptor(a, x86::r13, x86::r8d, data_attributes(3), other);
  set_segment(a, Seg::cs, x86::ecx, code_attributes(3));
  set_segment(a, Seg::ss, x86::r8d, data_attributes(3));
  a.mov(field(offset::cpl, 1), 3);
  take_tables(a, true);
  a.mov(x86::r12d, x86::dword_ptr(x86::r11, 12));

  a.bind(common);
  set_esp(a);
  a.mov(x86::r8d, x86::dword_ptr(x86::r11));
  a.mov(field(offset::poll, 8), x86::r10);
  a.mov(x86::eax, x86::edx);
  a.and_(x86::eax, flag::if_);
  a.mov(field(offset::if_flag, 4), x86::eax);
  a.mov(x86::eax, x86::edx);
  a.and_(x86::eax, system_part);
  a.or_(x86::eax, flag::fixed1);
  a.mov(field(offset::system_flags, 4), x86::eax);
  a.mov(field(offset::nmi_masked, 1), 0);
  a.cld();
  jump(a, true);

  a.bind(other);
  a.mov(x86::eax, x86::r9d);
  a.add(x86::al, 0x7F);
  a.sahf();
  restore_registers(a);
  a.mov(x86::r10d, 10);
  a.jmp(interpret);
}

// Neither FS nor GS is checked, the rest is flat: no mode bit but those of the privilege can change. Changes eax.
void want_flat_mode(x86::Assembler& a, bool user, const Label& other) {
  constexpr u32 flat = mode::code32 | mode::stack32 | mode::cs_flat | mode::ds_es_ss_flat | mode::protected_mode;
  a.mov(x86::eax, view(user, offsetof(SelectedView, mode), 4));
  a.and_(x86::eax, flat | mode::fs_gs_checked);
  a.cmp(x86::eax, flat);
  a.jne(other);
}

// The tables of ring 0 are selected, for the mode that differs in its privilege alone: r10. Changes eax.
void want_inner_view(x86::Assembler& a, const Label& other) {
  a.mov(x86::eax, view(false, offsetof(SelectedView, mode), 4));
  a.xor_(x86::eax, view(true, offsetof(SelectedView, mode), 4));
  a.and_(x86::eax, ~mode::tsc_faults);
  a.cmp(x86::eax, mode::user | mode::cpl0);
  a.jne(other);
  a.mov(x86::r10, view(false, offsetof(SelectedView, context), 8));
}

// r8d = SS and r9d = ESP of ring 0 from the TSS. Changes rax and rbx.
void load_inner_stack(x86::Assembler& a, const Label& other) {
  constexpr u32 place = 4, size = 6, wide = 8;
  const auto task = [](std::size_t member, u32 bytes) { return field(offset::tr + static_cast<i32>(member), bytes); };
  a.test(task(offsetof(SegmentCache, attributes), 1), wide);
  a.jz(other);
  a.cmp(task(offsetof(SegmentCache, limit), 4), place + size - 1);
  a.jb(other);
  a.mov(x86::eax, task(offsetof(SegmentCache, base), 4));
  a.add(x86::eax, place);
  refuse_crossing(a, x86::eax, size, other);
  find_entry(a, x86::r10, read_table, x86::eax, x86::rbx, x86::r9, other);
  a.add(x86::r9, x86::rax);
  a.movzx(x86::r8d, x86::word_ptr(x86::r9, 4));
  a.mov(x86::r9d, x86::dword_ptr(x86::r9));
  a.test(x86::r8d, 7);  // RPL, and the LDT
  a.jnz(other);
  want_descriptor(a, x86::r10, x86::r8d, data_attributes(0), other);
}

// From r11d, its offset in the IDT: r11 = the gate of the event, edx = its offset, ecx = its selector with RPL 0. Changes rax and rbx.
void load_gate(x86::Assembler& a, const x86::Gp& tables, bool check_level, const Label& other) {
  constexpr u32 usual = 0x9E00, usual_value = 0x8E00, level = 0x6000;  // P, S and type but for what tells trap gates from interrupt gates
  const auto table = [](std::size_t member) { return field(offset::idtr + static_cast<i32>(member), 4); };
  a.lea(x86::eax, x86::ptr(x86::r11, 7));
  a.cmp(x86::eax, table(offsetof(DescriptorTable, limit)));
  a.ja(other);
  a.mov(x86::eax, x86::r11d);
  a.add(x86::eax, table(offsetof(DescriptorTable, base)));
  load_eight(a, tables, other);
  a.mov(x86::r11, x86::rax);
  a.mov(x86::rdx, x86::rax);
  a.shr(x86::rdx, 32);
  a.mov(x86::ecx, x86::edx);
  a.and_(x86::ecx, check_level ? usual | level : usual);
  a.cmp(x86::ecx, check_level ? usual_value | level : usual_value);
  a.jne(other);
  a.mov(x86::ecx, x86::eax);
  a.shr(x86::ecx, 16);
  a.test(x86::ecx, 4);  // the LDT
  a.jnz(other);
  a.and_(x86::ecx, 0xFFF8);
  a.and_(x86::edx, 0xFFFF0000);
  a.movzx(x86::eax, x86::ax);
  a.or_(x86::edx, x86::eax);
}

enum class Event : u8 { software, fault, fault_with_code };

// An event through a gate to ring 0. r11d = eight times its vector. CpuState::eip is what is pushed, host_flags the host's flags; the
// registers are kept. A fault's error code and what r12 lacks are in EmittedLink.
void emit_delivery(x86::Assembler& a, Event event, bool user, const Label& other) {
  const bool fault = event != Event::software, error_code = event == Event::fault_with_code;
  constexpr u32 trap_bit = 40;  // of a gate
  const x86::Gp tables = user ? x86::r10 : x86::r13;
  const u32 level = user ? 3 : 0;
  const i32 size = (user ? 20 : 12) + (error_code ? 4 : 0);
  const Label interrupt_gate = a.newLabel(), trap_gate = a.newLabel();
  const auto esp_to = [&](const x86::Gp& out) {
    a.mov(out, x86::r12d);
    if (fault) a.add(out, field(offset::esp_pending, 4));
  };
  if (fault) want_flat_mode(a, user, other);
  if (user) want_inner_view(a, other);
  load_gate(a, tables, user && !fault, other);
  want_attributes(a, Seg::cs, code_attributes(level), other);
  want_attributes(a, Seg::ss, data_attributes(level), other);
  want_descriptor(a, tables, x86::ecx, code_attributes(0), other);
  if (user) {
    load_inner_stack(a, other);
  } else {
    esp_to(x86::r9d);
  }
  a.sub(x86::r9d, size);
  refuse_crossing(a, x86::r9d, static_cast<u32>(size), other);
  find_entry(a, tables, write_table, x86::r9d, x86::rbx, x86::rax, other);
  a.add(x86::rax, x86::r9);
  a.bt(x86::r11, trap_bit);
  a.jnc(interrupt_gate);
  a.cmp(field(offset::poll, 8), 0);  // an interrupt that waits comes before the handler's first instruction
  a.je(other);
  a.bind(interrupt_gate);

  i32 at = 0;
  const auto push = [&] {
    a.mov(x86::dword_ptr(x86::rax, at), x86::ebx);
    at += 4;
  };
  if (error_code) {
    a.mov(x86::ebx, field(offset::error_code, 4));
    push();
  }
  a.mov(x86::ebx, field(offset::eip, 4));
  push();
  a.movzx(x86::ebx, field(offset::selector(static_cast<unsigned>(Seg::cs)), 2));
  push();
  a.mov(x86::ebx, field(offset::host_flags, 4));
  a.and_(x86::ebx, flag::host);
  a.or_(x86::ebx, field(offset::system_flags, 4));
  a.or_(x86::ebx, field(offset::if_flag, 4));
  if (fault) a.or_(x86::ebx, flag::rf);
  push();
  if (user) {
    esp_to(x86::ebx);
    push();
    a.movzx(x86::ebx, field(offset::selector(static_cast<unsigned>(Seg::ss)), 2));
    push();
    set_segment(a, Seg::ss, x86::r8d, data_attributes(0));
    a.mov(field(offset::cpl, 1), 0);
    take_tables(a, false);
  }
  set_segment(a, Seg::cs, x86::ecx, code_attributes(0));
  a.mov(x86::r12d, x86::r9d);
  set_esp(a);
  a.and_(field(offset::system_flags, 4), ~flag::nt);
  if (fault) a.mov(field(offset::held_fault, 4), static_cast<u32>(HeldFault::none));
  a.bt(x86::r11, trap_bit);
  a.jc(trap_gate);
  a.mov(field(offset::if_flag, 4), 0);
  a.mov(x86::rbx, field(offset::always_valid, 8));
  a.mov(field(offset::poll, 8), x86::rbx);
  a.bind(trap_gate);
  a.mov(x86::r8d, x86::edx);
  a.mov(x86::edx, field(offset::host_flags, 4));
  jump(a, fault);
}

void load_all_flags(x86::Assembler& a) {
  a.mov(x86::eax, field(offset::host_flags, 4));
  a.push(x86::rax);
  a.popfq();
}

void emit_software_interrupt(x86::Assembler& a, bool user, const Label& interpret) {
  const Label other = a.newLabel();
  keep_registers(a);
  a.pushfq();
  a.pop(x86::rax);
  a.mov(field(offset::host_flags, 4), x86::eax);
  emit_delivery(a, Event::software, user, other);
  a.bind(other);
  load_all_flags(a);
  restore_registers(a);
  a.mov(x86::r10d, 10);
  a.jmp(interpret);
}

}  // namespace

void emit_fault_delivery(x86::Assembler& a, bool error_code, const Label& deliver) {
  const Event event = error_code ? Event::fault_with_code : Event::fault;
  const Label other = a.newLabel(), kernel = a.newLabel();
  a.cmp(field(offset::cpl, 1), 3);
  a.jne(kernel);
  emit_delivery(a, event, true, other);
  a.bind(kernel);
  a.cmp(field(offset::cpl, 1), 0);
  a.jne(other);
  emit_delivery(a, event, false, other);
  a.bind(other);
  load_all_flags(a);
  restore_registers(a);
  a.jmp(deliver);
}

void emit_transfer_stubs(x86::Assembler& a, const Label& interpret, Stubs& stubs) {
  a.align(AlignMode::kCode, 16);
  stubs.iret = static_cast<u32>(a.offset());
  emit_interrupt_return(a, interpret);
  for (const bool user : {false, true}) {
    a.align(AlignMode::kCode, 16);
    stubs.software_interrupt[user] = static_cast<u32>(a.offset());
    emit_software_interrupt(a, user, interpret);
  }
  for (const bool error_code : {false, true}) {
    a.align(AlignMode::kCode, 16);
    stubs.deliver_fault[error_code] = static_cast<u32>(a.offset());
    a.mov(x86::r11d, field(offset::gate_offset, 4));
    emit_fault_delivery(a, error_code, interpret);
  }
}

}  // namespace ring3
