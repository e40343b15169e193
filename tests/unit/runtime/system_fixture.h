// A CPU in flat protected mode with descriptor tables in RAM, which runs single instructions from their bytes. Descriptors are built from
// the figures of SDM vol. 3, chapter 3, not by the code under test.
#pragma once

#include "frontend/decoder.h"
#include "runtime/interp/handlers.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/ram.h"
#include "runtime/system/cpu_model.h"
#include "runtime/system/delivery.h"
#include "runtime/system/reset.h"
#include "runtime/vcpu.h"
#include "unit/runtime/memory_fixture.h"

#include <gtest/gtest.h>

#include <vector>

namespace ring3::test {

// Access byte of a descriptor: P 80h, DPL 60h, S 10h, type. Flags: G 8, D/B 4.
constexpr u64 make_segment(u32 base, u32 limit, u32 access, u32 flags) {
  return (limit & 0xFFFFu) | (u64{base & 0xFFFFFFu} << 16) | (u64{access} << 40) | (u64{limit >> 16 & 0xFu} << 48) | (u64{flags} << 52) |
         (u64{base >> 24} << 56);
}
constexpr u64 make_gate(u16 selector, u32 offset, u32 access, u32 parameters = 0) {
  return (offset & 0xFFFFu) | (u64{selector} << 16) | (u64{parameters} << 32) | (u64{access} << 40) | (u64{offset >> 16} << 48);
}

constexpr u32 flags32 = 0xC;  // G and D/B
constexpr u64 kernel_code = make_segment(0, 0xFFFFF, 0x9B, flags32);
constexpr u64 kernel_data = make_segment(0, 0xFFFFF, 0x93, flags32);
constexpr u64 user_code = make_segment(0, 0xFFFFF, 0xFB, flags32);
constexpr u64 user_data = make_segment(0, 0xFFFFF, 0xF3, flags32);

class SystemTest : public ::testing::Test {
 protected:
  static constexpr u32 gdt = 0x1000, idt = 0x2000, tss = 0x3000, ldt = 0x4000;
  static constexpr u32 code_at = 0x6000, inner_stack = 0x8000, user_stack = 0x9000, kernel_stack = 0xA000;
  static constexpr u16 kernel_cs = 0x08, kernel_ss = 0x10, user_cs = 0x1B, user_ss = 0x23, tss_selector = 0x28, ldt_selector = 0x30;
  static constexpr u16 spare = 0x38;   // free for the test; 40h, 48h, 50h too
  static constexpr u16 beyond = 0x58;  // first selector outside the GDT

  SystemTest() {
    reset_cpu(s);
    s.cr0 = cr0::pe | cr0::et;
    s.gdtr = {gdt, beyond - 1};
    s.idtr = {idt, 0x7FF};
    set_gdt(kernel_cs, kernel_code);
    set_gdt(kernel_ss, kernel_data);
    set_gdt(user_cs, user_code);
    set_gdt(user_ss, user_data);
    set_gdt(tss_selector, make_segment(tss, 0x67, 0x8B, 0));
    set_gdt(ldt_selector, make_segment(ldt, 0x1F, 0x82, 0));
    s.tr = {tss_selector, 0x008B, tss, 0x67};
    s.ldtr = {ldt_selector, 0x0082, ldt, 0x1F};
    put32(tss + 4, inner_stack);
    put32(tss + 8, kernel_ss);
    set_ring(0);
    s.gpr = {0x11111111, 0x22222222, 0x33333333, 0x44444444, kernel_stack, 0x55555555, 0x66666666, 0x77777777};
    s.eip = code_at;
  }

  void put16(u32 at, u16 value) { mem.write_physical({at}, &value, 2); }
  void put32(u32 at, u32 value) { mem.write_physical({at}, &value, 4); }
  void put64(u32 at, u64 value) { mem.write_physical({at}, &value, 8); }
  u32 get32(u32 at) {
    u32 value = 0;
    mem.read_physical({at}, &value, 4);
    return value;
  }
  u16 get16(u32 at) { return static_cast<u16>(get32(at)); }
  u8 access_byte(u16 selector) { return static_cast<u8>(get32(((selector & 4u) != 0 ? ldt : gdt) + (selector & 0xFFF8u) + 4) >> 8); }
  void set_gdt(u16 selector, u64 descriptor) { put64(gdt + (selector & 0xFFF8u), descriptor); }
  void set_ldt(u16 selector, u64 descriptor) { put64(ldt + (selector & 0xFFF8u), descriptor); }
  void set_idt(u8 vector, u64 gate) { put64(idt + vector * 8u, gate); }

  // Flat code, stack and data of ring 0 or 3 (ESP moves along).
  void set_ring(u32 level) {
    const auto dpl = static_cast<u16>(level << 5);
    const auto data = static_cast<u16>(0xC093 | dpl);
    s.cpl = static_cast<u8>(level);
    s.segment(Seg::cs) = {level == 3 ? user_cs : kernel_cs, static_cast<u16>(0xC09B | dpl), 0, 0xFFFFFFFF};
    for (const Seg seg : {Seg::ss, Seg::ds, Seg::es, Seg::fs, Seg::gs}) {
      s.segment(seg) = {level == 3 ? user_ss : kernel_ss, data, 0, 0xFFFFFFFF};
    }
    s.gpr[esp] = level == 3 ? user_stack : kernel_stack;
  }

  // One-page-table paging, all of the first 4 MiB mapped one to one for everybody, `absent_page` not at all.
  void enable_paging(u32 absent_page, u32 entry = 0) {
    constexpr u32 directory = 0x100000, table = 0x101000;
    put32(directory, table | 7);
    for (u32 i = 0; i < 1024; ++i) put32(table + i * 4, (i << 12) | 7);
    put32(table + (absent_page >> 12) * 4, entry);
    s.cr3 = directory;
    s.cr0 |= cr0::pg;
    mem.flush_all();
  }

  // Decodes `code` as the instruction at CS:EIP and runs its row.
  Flow run(const std::vector<u8>& code) {
    Insn insn;
    if (decoder.decode(code, s.segment(Seg::cs).big(), insn) != DecodeStatus::ok) ADD_FAILURE() << "does not decode";
    EXPECT_EQ(insn.length, code.size());
    const Handler handler = handlers.get(insn.row);
    if (handler == nullptr) {
      ADD_FAILURE() << "no handler for " << row_name(insn.row);
      return Flow::missing;
    }
    return handler(v, insn);
  }

  // The instruction faults with this vector and error code and changes no register.
  void expect_fault(const std::vector<u8>& code, Vector vector, u32 error_code) {
    const CpuState before = s;
    const Flow flow = run(code);
    EXPECT_EQ(flow, Flow::fault) << v.missing;
    if (flow != Flow::fault) return;
    EXPECT_EQ(static_cast<int>(v.fault.vector), static_cast<int>(vector));
    EXPECT_EQ(v.fault.has_error_code, vector != Vector::invalid_opcode && vector != Vector::debug);
    EXPECT_EQ(v.fault.error_code, error_code);
    expect_unchanged(before);
  }

  void expect_unchanged(const CpuState& before) {
    EXPECT_EQ(s.gpr, before.gpr);
    EXPECT_EQ(s.eip, before.eip);
    EXPECT_EQ(s.eflags, before.eflags);
    EXPECT_EQ(s.seg, before.seg);
    EXPECT_EQ(s.cpl, before.cpl);
    EXPECT_EQ(s.ldtr, before.ldtr);
    EXPECT_EQ(s.tr, before.tr);
    EXPECT_EQ(s.gdtr, before.gdtr);
    EXPECT_EQ(s.idtr, before.idtr);
    EXPECT_EQ(s.cr0, before.cr0);
    EXPECT_EQ(s.cr3, before.cr3);
    EXPECT_EQ(s.cr4, before.cr4);
    EXPECT_EQ(s.shadow, before.shadow);
  }

  CpuState s;
  GuestRam ram{4u << 20};
  ByteBus bus;
  Memory mem{s, ram, bus};
  CpuModel model = CpuModel::make(~0u, ~0u, ~0u, ~0u, 2'000'000);
  Vcpu v{s, mem, bus, model};
  Decoder decoder;
  HandlerTable handlers;
};

}  // namespace ring3::test
