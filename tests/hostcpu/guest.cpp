#include "guest.h"

#include "host_cpu.h"
#include "runtime/system/mode_bits.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace ring3::hostcpu {

namespace {

// Physical layout.
constexpr u32 pointers = 0x1000;  // four page-directory pointers
constexpr u32 user_directory = 0x2000;
constexpr u32 kernel_directory = 0x3000;
constexpr u32 code_table = 0x4000;
constexpr u32 trampoline_table = 0x5000;
constexpr u32 kernel_table = 0x6000;
constexpr u32 code_page = 0x7000;
constexpr u32 trampoline_page = 0x8000;
constexpr u32 data_pages = 0x10000;
constexpr u32 kernel_pages = 0x20000;

constexpr u64 present = 1;
constexpr u64 writable = 2;
constexpr u64 user = 4;
constexpr u64 accessed_dirty = 0x60;
constexpr u64 no_execute = u64{1} << 63;

// The entries of linux_gdt() that the guest's kernel runs in.
constexpr u16 kernel_code_selector = 0x08;
constexpr u16 kernel_data_selector = 0x18;
constexpr u16 tss_selector = 0x40;
constexpr u16 ldt_selector_in_gdt = 0x50;
constexpr u32 tss_limit = 0x67;

constexpr u32 out_length = 2;

void put32(u8* at, u32 value) { std::memcpy(at, &value, sizeof value); }
void put64(u8* at, u64 value) { std::memcpy(at, &value, sizeof value); }

void map(GuestRam& ram, u32 directory, u32 table, u32 linear, u32 physical, u64 rights) {
  put64(ram.at({directory + ((linear >> 21) & 0x1FFu) * 8}), table | present | writable | user | accessed_dirty);
  put64(ram.at({table + ((linear >> 12) & 0x1FFu) * 8}), physical | present | accessed_dirty | rights);
}
static_assert(code_base >> 21 == data_end >> 21, "one page table is enough");
static_assert(code_base >> 30 == trampoline_base >> 30, "one directory is enough");

}  // namespace

Guest::Guest(CpuState& cpu) : state(cpu), memory(cpu, ram, bus), vcpu(cpu, memory, bus, model) {
  vcpu.native = &stubs;
  put64(ram.at({pointers + (code_base >> 30) * 8}), user_directory | present);
  put64(ram.at({pointers + (kernel_base >> 30) * 8}), kernel_directory | present);
  map(ram, user_directory, code_table, code_base, code_page, user);
  map(ram, user_directory, trampoline_table, trampoline_base, trampoline_page, user);
  for (u32 at = 0; at < data_size; at += page) {
    const u64 rights = user | no_execute | (data_base + at < read_only_base ? writable : 0);
    map(ram, user_directory, code_table, data_base + at, data_pages + at, rights);
  }
  for (u32 at = 0; at < kernel_size; at += page) map(ram, kernel_directory, kernel_table, kernel_base + at, kernel_pages + at, writable);
  std::memset(code(), 0xF4, code_size);
  fill_trampoline(ram.at({trampoline_page}));

  for (u32 vector = 0; vector < 256; ++vector) {
    const u32 entry = handlers_at + vector * handler_spacing;
    u8* const handler = kernel(entry);
    // fxsave ss:[fpu_image_at]; out stop_port, al; jmp $. The port's watcher looks at the FPU state. Emitted code may do the OUT by a call
    // that leaves x87 registers in the host's, but for FXSAVE the engine takes them out.
    std::array<u8, 12> code{0x36, 0x0F, 0xAE, 0x05, 0, 0, 0, 0, 0xE6, StopBus::stop_port, 0xEB, 0xFE};
    std::memcpy(code.data() + 4, &fpu_image_at, sizeof fpu_image_at);
    std::copy(code.begin(), code.end(), handler);
    // Interrupt gates. As on Linux, programs may use those of INT3 and INTO.
    const bool open = vector == leave_vector || vector == 3 || vector == 4;
    put32(kernel(idt_at + vector * 8), u32{kernel_code_selector} << 16 | (entry & 0xFFFFu));
    put32(kernel(idt_at + vector * 8 + 4), (entry & 0xFFFF0000u) | (open ? 0xEE00u : 0x8E00u));
  }
  for (u32 i = 0; i < gdt_entries; ++i) put64(kernel(gdt_at + i * 8), linux_gdt()[i]);
  put32(kernel(tss_at + 4), kernel_stack_top);
  put32(kernel(tss_at + 8), kernel_data_selector);
  put32(kernel(tss_at + 0x64), (tss_limit + 1) << 16);  // no I/O permission bitmap

  state.cr0 = cr0::pe | cr0::pg | cr0::ne | cr0::mp | cr0::et | cr0::wp | cr0::am;
  state.cr3 = pointers;
  state.cr4 = cr4::osfxsr | cr4::osxmmexcpt | cr4::pae;
  state.efer = efer::nxe;
  state.gdtr = {gdt_at, gdt_entries * 8 - 1};
  state.idtr = {idt_at, 256 * 8 - 1};
  state.tr = {tss_selector, 0x8B, tss_at, tss_limit};
  state.ldtr = {ldt_selector_in_gdt, 0x82, ldt_at, ldt_entries * 8 - 1};
  state.cpl = 3;
  if (!memory.load_pdptes(state.cr3)) throw std::logic_error("page-directory pointers are wrong");
  memory.flush_all();
  memory.select_context(compute_mode_bits(state));
}

u8* Guest::data() { return ram.at({data_pages}); }
u8* Guest::code() { return ram.at({code_page}); }
u8* Guest::kernel(u32 linear) { return ram.at({kernel_pages + (linear - kernel_base)}); }

// Writes through Memory, so that the engine notices.
void Guest::place_code(u32 linear, std::span<const u8> bytes) {
  std::array<u8, 64> hlts{};
  hlts.fill(0xF4);
  memory.write_physical({code_page + (placed_at_ - code_base)}, hlts.data(), placed_);
  placed_at_ = linear;
  placed_ = std::min(static_cast<u32>(bytes.size()), code_end - linear);
  memory.write_physical({code_page + (linear - code_base)}, bytes.data(), placed_);
}

void Guest::load_ldt(const Ldt& ldt) {
  memory.write_physical({kernel_pages + (ldt_at - kernel_base)}, ldt.data(), static_cast<u32>(sizeof ldt));
}

void Guest::enter(const Batch& batch, const Program& program, const State& before) {
  state.gpr = before.gpr;
  state.eflags = before.eflags;
  state.cpl = 3;
  state.shadow = Shadow::none;
  for (unsigned i = 0; i < segment_count; ++i) state.seg[i] = cache_of(batch.ldt, program.selector[i]);
  state.eip = program.start - state.segment(Seg::cs).base;
  if (program.fpu) {
    state.fpu = before.fpu;
    state.fpu_live = false;
  }
}

// EIP moves on behind the OUT.
void Guest::enter_from_handler(const Batch& batch, const Program& program, const State& before) {
  enter(batch, program, before);
  state.eip -= out_length;
}

}  // namespace ring3::hostcpu
