// Shared code for sensitive instructions that are too long to be emitted at every site: loads of data segment registers and TR, CPUID,
// SYSENTER and SYSEXIT. Each makes its checks before it changes anything, and hands the instruction to the interpreter if one of them
// fails.
#include <asmjit/x86.h>

#include <array>
#include <bit>

#include "guest/block_key.h"
#include "translator/contract.h"
#include "translator/stub_parts.h"
#include "translator/stubs.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

namespace {

// The arithmetic flags to r9 and back. DF is left alone. Both change r11.
void save_flags(x86::Assembler& a) {
  a.mov(x86::r11, x86::rax);
  a.lahf();
  a.seto(x86::al);
  a.mov(x86::r9d, x86::eax);
  a.mov(x86::rax, x86::r11);
}
void restore_flags(x86::Assembler& a) {
  a.mov(x86::r11, x86::rax);
  a.mov(x86::eax, x86::r9d);
  a.add(x86::al, 0x7F);  // OF
  a.sahf();
  a.mov(x86::rax, x86::r11);
}

constexpr i32 loaded_at(std::size_t member) { return offset::loaded + static_cast<i32>(member); }

// Copies the cache at [from + offset] to the register and to `exported`. Changes r10.
void copy_cache(x86::Assembler& a, unsigned number, const x86::Gp& from, i32 at) {
  const i32 segment = offset::segment(number), exported = offset::exported(number);
  a.mov(x86::r10, x86::ptr(from, at));
  a.mov(field(segment, 8), x86::r10);
  a.mov(field(exported, 8), x86::r10);
  a.mov(x86::r10d, x86::ptr(from, at + 8));
  a.mov(field(segment + 8, 4), x86::r10d);
  a.mov(field(exported + 8, 4), x86::r10d);
}

// The descriptor of the selector in r8d, which is not of the LDT: r11d = its offset in the GDT, r10d = its linear address.
void find_in_gdt(x86::Assembler& a, const Label& other) {
  a.mov(x86::r11d, x86::r8d);
  a.or_(x86::r11d, 7);
  a.cmp(x86::r11d, field(offset::gdtr + static_cast<i32>(offsetof(DescriptorTable, limit)), 4));
  a.ja(other);
  a.and_(x86::r11d, 0xFFF8);
  a.mov(x86::r10d, x86::r11d);
  a.add(x86::r10d, field(offset::gdtr + static_cast<i32>(offsetof(DescriptorTable, base)), 4));
  a.test(x86::r10d, 7);  // else it may lie in two pages
  a.jnz(other);
}

// The end of a stub that was called and cannot do the instruction.
void hand_over(x86::Assembler& a, const Label& interpret) {
  restore_flags(a);
  a.mov(x86::r10d, 10);
  a.lea(x86::rsp, x86::ptr(x86::rsp, 8));
  a.jmp(interpret);
}

void emit_load_segment(x86::Assembler& a, Seg segment, const Label& interpret, Stubs& stubs) {
  const unsigned number = static_cast<unsigned>(segment);
  const i32 check = offset::segment_check(number);
  const i32 gate = offset::segment_gate + static_cast<i32>(number * 8);
  const bool may_be_null = segment == Seg::fs || segment == Seg::gs;  // NULL in DS or ES is another mode
  const Label other = a.newLabel(), done = a.newLabel(), null = a.newLabel();
  a.align(AlignMode::kCode, 16);
  stubs.load_segment[number] = static_cast<u32>(a.offset());
  save_flags(a);
  a.test(x86::r8d, 0xFFFC);
  a.jz(may_be_null ? null : other);
  // The descriptor, if it lies in the GDT and the table has its page.
  a.test(x86::r8d, 4);
  a.jnz(other);
  find_in_gdt(a, other);
  a.and_(x86::r11d, (EmittedLink::loaded_count - 1) * 8);
  a.lea(x86::r11, x86::ptr(x86::r15, x86::r11, 3, 0));
  a.cmp(x86::r8w, x86::word_ptr(x86::r11, loaded_at(offsetof(LoadedDescriptor, cache) + offsetof(SegmentCache, selector))));
  a.jne(other);
  if (!may_be_null) {
    a.cmp(x86::dword_ptr(x86::r11, loaded_at(offsetof(LoadedDescriptor, from_zero))), 1);
    a.jne(other);
  }
  find_entry(a, x86::r13, read_table, x86::r10d, x86::r8, x86::r8, other);
  a.mov(x86::r8, x86::ptr(x86::r8, x86::r10));
  a.cmp(x86::r8, x86::qword_ptr(x86::r11, loaded_at(offsetof(LoadedDescriptor, bytes))));
  a.jne(other);
  copy_cache(a, number, x86::r11, loaded_at(offsetof(LoadedDescriptor, cache)));
  for (i32 i = 0; i < static_cast<i32>(sizeof(SegmentCheck)); i += 8) {
    a.mov(x86::r10, x86::ptr(x86::r11, loaded_at(offsetof(LoadedDescriptor, check)) + i));
    a.mov(field(check + i, 8), x86::r10);
  }
  a.lea(x86::r10, x86::ptr(x86::r15, offset::segment(number) + static_cast<i32>(offsetof(SegmentCache, base))));
  a.mov(field(gate, 8), x86::r10);
  a.bind(done);
  restore_flags(a);
  a.mov(x86::r10d, 10);
  a.ret();
  if (may_be_null) {
    a.bind(null);
    a.mov(x86::r11d, 0);
    for (const i32 at : {offset::segment(number), offset::exported(number)}) {
      a.mov(field(at, 4), x86::r8d);
      a.mov(field(at + 4, 8), x86::r11);
    }
    for (i32 i = 0; i < static_cast<i32>(sizeof(SegmentCheck)); i += 8) a.mov(field(check + i, 8), x86::r11);
    a.mov(field(gate, 8), x86::r11);
    a.jmp(done);
  }
  a.bind(other);
  hand_over(a, interpret);
}

// A task register takes the TSS that it was loaded with before, if it is available as it was then (SDM vol. 2, LTR).
void emit_load_task(x86::Assembler& a, const Label& interpret, Stubs& stubs) {
  constexpr i32 cache = offset::task + static_cast<i32>(offsetof(KnownTask, cache));
  constexpr i32 busy_byte = 5;
  const Label other = a.newLabel();
  a.align(AlignMode::kCode, 16);
  stubs.load_task = static_cast<u32>(a.offset());
  save_flags(a);
  a.cmp(x86::r8w, field(cache + static_cast<i32>(offsetof(SegmentCache, selector)), 2));
  a.jne(other);
  a.test(x86::r8d, 0xFFF8);
  a.jz(other);
  find_in_gdt(a, other);
  find_entry(a, x86::r13, write_table, x86::r10d, x86::r8, x86::r8, other);
  a.mov(x86::r11, x86::ptr(x86::r8, x86::r10));
  a.cmp(x86::r11, field(offset::task + static_cast<i32>(offsetof(KnownTask, bytes)), 8));
  a.jne(other);
  a.or_(x86::byte_ptr(x86::r8, x86::r10, 0, busy_byte), 2);
  a.mov(x86::r10, field(cache, 8));
  a.mov(field(offset::tr, 8), x86::r10);
  a.mov(x86::r10d, field(cache + 8, 4));
  a.mov(field(offset::tr + 8, 4), x86::r10d);
  restore_flags(a);
  a.mov(x86::r10d, 10);
  a.ret();
  a.bind(other);
  hand_over(a, interpret);
}

// What the CPU model said before: it follows from leaf, subleaf and CR4.
void emit_cpuid(x86::Assembler& a, const Label& interpret, Stubs& stubs) {
  const auto answer = [](std::size_t member, u32 size = 4) {
    return x86::Mem(x86::r15, x86::r8, 0, offset::cpuid + static_cast<i32>(member), size);
  };
  const Label other = a.newLabel();
  a.align(AlignMode::kCode, 16);
  stubs.cpuid = static_cast<u32>(a.offset());
  save_flags(a);
  a.mov(x86::r8d, x86::eax);
  a.and_(x86::r8d, EmittedLink::cpuid_count - 1);
  a.shl(x86::r8d, std::countr_zero(sizeof(CpuidAnswer)));
  a.cmp(x86::eax, answer(offsetof(CpuidAnswer, leaf)));
  a.jne(other);
  a.cmp(x86::ecx, answer(offsetof(CpuidAnswer, subleaf)));
  a.jne(other);
  a.mov(x86::r11d, field(offset::cr4, 4));
  a.cmp(x86::r11d, answer(offsetof(CpuidAnswer, cr4)));
  a.jne(other);
  a.cmp(answer(offsetof(CpuidAnswer, known)), 1);
  a.jne(other);
  restore_flags(a);
  constexpr std::array registers{x86::eax, x86::ecx, x86::edx, x86::ebx};
  for (std::size_t i = 0; i < registers.size(); ++i) a.mov(registers[i], answer(offsetof(CpuidAnswer, registers) + 4 * i));
  a.ret();
  a.bind(other);
  hand_over(a, interpret);
}

// The flat segment that SYSENTER and SYSEXIT load, its selector in r11d without more bits. r10 = minus 4 GiB. Changes r11.
void set_flat(x86::Assembler& a, unsigned number, u32 attributes, bool writable) {
  const i32 check = offset::segment_check(number);
  a.or_(x86::r11d, attributes << 16);
  for (const i32 at : {offset::segment(number), offset::exported(number)}) {
    a.mov(field(at, 4), x86::r11d);
    a.mov(field(at + 4, 4), 0);
    a.mov(field(at + 8, 4), -1);
  }
  a.lea(x86::r11, x86::ptr(x86::r15, offset::segment(number) + static_cast<i32>(offsetof(SegmentCache, base))));
  if (!writable) a.mov(x86::r11d, 0);
  a.mov(field(offset::segment_gate + static_cast<i32>(number * 8), 8), x86::r11);
  a.mov(field(check + static_cast<i32>(offsetof(SegmentCheck, read_room)), 8), x86::r10);
  if (writable) {
    a.mov(field(check + static_cast<i32>(offsetof(SegmentCheck, write_room)), 8), x86::r10);
  } else {
    a.mov(field(check + static_cast<i32>(offsetof(SegmentCheck, write_room)), 8), 0);
  }
  a.mov(field(check + static_cast<i32>(offsetof(SegmentCheck, lower)), 8), 0);  // and `base`
}

// SDM vol. 2, SYSENTER and SYSEXIT. The tables of the other privilege must be known for the mode in r8d: then nothing is there to select.
void emit_fast_system_call(x86::Assembler& a, bool exit, const Label& interpret) {
  const u32 level = exit ? 3 : 0;
  const u32 code_attributes = 0xC09B | level << 5, data_attributes = 0xC093 | level << 5;
  const i32 view = offset::view + static_cast<i32>((exit ? 1 : 0) * sizeof(SelectedView));
  const Label other = a.newLabel();
  save_flags(a);
  a.cmp(x86::r8d, field(view + static_cast<i32>(offsetof(SelectedView, mode)), 4));
  a.jne(other);
  a.test(field(offset::sysenter_cs, 4), 0xFFFC);
  a.jz(other);
  if (exit) {
    // An interrupt that waits for the end of the instruction, and what makes another mode of CPL 3.
    a.cmp(field(offset::poll, 8), 0);
    a.je(other);
    a.test(field(offset::system_flags, 4), flag::ac);
    a.jnz(other);
    a.test(field(offset::cr4, 4), cr4::tsd);
    a.jnz(other);
  }
  a.mov(x86::r10, Imm(i64{-1} << 32));
  for (const bool stack : {false, true}) {
    a.mov(x86::r11d, field(offset::sysenter_cs, 4));
    if (exit) {
      a.add(x86::r11d, 16 + (stack ? 8 : 0));
      a.or_(x86::r11d, 3);
      a.movzx(x86::r11d, x86::r11w);
    } else {
      a.and_(x86::r11d, 0xFFFC);
      if (stack) {
        a.add(x86::r11d, 8);
        a.movzx(x86::r11d, x86::r11w);
      }
    }
    set_flat(a, static_cast<unsigned>(stack ? Seg::ss : Seg::cs), stack ? data_attributes : code_attributes, stack);
  }
  a.mov(field(offset::cpl, 1), level);
  a.and_(x86::r8d, mode::code32 | mode::stack32 | mode::cs_flat | mode::ds_es_ss_flat);
  a.mov(field(offset::segment_mode, 4), x86::r8d);
  if (exit) {
    a.mov(x86::r12d, x86::ecx);
    a.mov(x86::r8d, x86::edx);
  } else {
    a.mov(field(offset::if_flag, 4), 0);
    a.mov(x86::r11, field(offset::always_valid, 8));
    a.mov(field(offset::poll, 8), x86::r11);
    a.mov(x86::r12d, field(offset::sysenter_esp, 4));
    a.mov(x86::r8d, field(offset::sysenter_eip, 4));
  }
  a.mov(x86::r13, field(view + static_cast<i32>(offsetof(SelectedView, context)), 8));
  a.mov(field(offset::context, 8), x86::r13);
  a.mov(x86::r14, field(view + static_cast<i32>(offsetof(SelectedView, window)), 8));
  a.mov(field(offset::window_base, 8), x86::r14);
  a.mov(x86::r11, field(offset::esp_base_mask, 8));
  a.and_(x86::r11, x86::r14);
  a.add(x86::r12, x86::r11);
  restore_flags(a);
  a.mov(x86::r10d, 10);
  a.mov(x86::r9d, x86::dword_ptr(x86::r13, x86::r8, 2, static_cast<i32>(jump_table)));
  a.lea(x86::r9, x86::ptr(x86::r15, x86::r9, 0, static_cast<i32>(state_distance)));
  a.jmp(x86::r9);
  a.bind(other);
  restore_flags(a);
  a.jmp(interpret);
}

}  // namespace

void emit_sensitive_stubs(x86::Assembler& a, const Label& interpret, Stubs& stubs) {
  for (const Seg segment : {Seg::es, Seg::ds, Seg::fs, Seg::gs}) emit_load_segment(a, segment, interpret, stubs);
  emit_load_task(a, interpret, stubs);
  emit_cpuid(a, interpret, stubs);
  a.align(AlignMode::kCode, 16);
  stubs.sysenter = static_cast<u32>(a.offset());
  emit_fast_system_call(a, false, interpret);
  a.align(AlignMode::kCode, 16);
  stubs.sysexit = static_cast<u32>(a.offset());
  emit_fast_system_call(a, true, interpret);
}

}  // namespace ring3
