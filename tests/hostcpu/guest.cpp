#include "guest.h"

#include "runtime/system/mode_bits.h"

#include <cstring>

namespace ring3::hostcpu {

namespace {

// Physical layout.
constexpr u32 directory = 0x1000;
constexpr u32 user_table = 0x2000;
constexpr u32 kernel_table = 0x3000;
constexpr u32 code_page = 0x4000;
constexpr u32 data_pages = 0x10000;
constexpr u32 kernel_pages = 0x20000;

constexpr u32 present = 1;
constexpr u32 writable = 2;
constexpr u32 user = 4;
constexpr u32 accessed_dirty = 0x60;

// Descriptor caches: 32-bit, 4 GiB, present, accessed.
constexpr u16 user_code = 0xC0FB;
constexpr u16 user_data = 0xC0F3;
constexpr u16 kernel_code_selector = 0x08;
constexpr u16 kernel_data_selector = 0x10;
constexpr u16 tss_selector = 0x18;
constexpr u32 tss_limit = 0x67;

void put32(u8* at, u32 value) { std::memcpy(at, &value, sizeof value); }
void put64(u8* at, u64 value) { std::memcpy(at, &value, sizeof value); }

u64 flat_descriptor(u8 type) { return 0x00CF'0000'0000'FFFFu | u64{type} << 40; }

void map(GuestRam& ram, u32 table, u32 linear, u32 physical, u32 rights) {
  put32(ram.at({directory + (linear >> 22) * 4}), table | present | writable | user | accessed_dirty);
  put32(ram.at({table + ((linear >> 12) & 0x3FFu) * 4}), physical | present | accessed_dirty | rights);
}
static_assert(code_base >> 22 == data_end >> 22, "one page table is enough");

}  // namespace

Guest::Guest(CpuState& cpu) : state(cpu), memory(cpu, ram, bus), vcpu(cpu, memory, bus, model) {
  vcpu.native = &stubs;
  map(ram, user_table, code_base, code_page, user);
  for (u32 at = 0; at < data_size; at += page) {
    map(ram, user_table, data_base + at, data_pages + at, data_base + at < read_only_base ? user | writable : user);
  }
  for (u32 at = 0; at < kernel_size; at += page) map(ram, kernel_table, kernel_base + at, kernel_pages + at, writable);
  std::memset(code(), 0xF4, code_size);

  for (u32 vector = 0; vector < 256; ++vector) {
    const u32 entry = handlers_at + vector * handler_spacing;
    u8* const handler = kernel(entry);
    handler[0] = 0xE6;  // out stop_port, al
    handler[1] = StopBus::stop_port;
    handler[2] = 0xEB;  // jmp $
    handler[3] = 0xFE;
    const u32 gate = vector == leave_vector ? 0xEE00 : 0x8E00;  // interrupt gate, DPL 3 or 0
    put32(kernel(idt_at + vector * 8), u32{kernel_code_selector} << 16 | (entry & 0xFFFFu));
    put32(kernel(idt_at + vector * 8 + 4), (entry & 0xFFFF0000u) | gate);
  }
  put64(kernel(gdt_at + kernel_code_selector), flat_descriptor(0x9B));
  put64(kernel(gdt_at + kernel_data_selector), flat_descriptor(0x93));
  put64(kernel(gdt_at + (code_selector & ~7u)), flat_descriptor(0xFB));
  put64(kernel(gdt_at + (data_selector & ~7u)), flat_descriptor(0xF3));
  put32(kernel(tss_at + 4), kernel_stack_top);
  put32(kernel(tss_at + 8), kernel_data_selector);

  state.cr0 = cr0::pe | cr0::pg | cr0::ne | cr0::mp | cr0::et | cr0::wp | cr0::am;
  state.cr3 = directory;
  state.cr4 = cr4::osfxsr | cr4::osxmmexcpt;
  state.gdtr = {gdt_at, 0x3F};
  state.idtr = {idt_at, 256 * 8 - 1};
  state.tr = {tss_selector, 0x8B, tss_at, tss_limit};
  memory.flush_all();
  enter({}, false);
  memory.select_context(compute_mode_bits(state));
}

u8* Guest::data() { return ram.at({data_pages}); }
u8* Guest::code() { return ram.at({code_page}); }
u8* Guest::kernel(u32 linear) { return ram.at({kernel_pages + (linear - kernel_base)}); }

void Guest::enter(const UserState& before, bool fpu) {
  state.gpr = before.gpr;
  state.eip = before.eip;
  state.eflags = before.eflags;
  state.cpl = 3;
  state.seg.fill({data_selector, user_data, 0, 0xFFFFFFFF});
  state.segment(Seg::cs) = {code_selector, user_code, 0, 0xFFFFFFFF};
  if (fpu) {
    state.fpu = before.fpu;
    state.fpu_live = false;
  }
}

}  // namespace ring3::hostcpu
