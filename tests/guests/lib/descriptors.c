#include "guest.h"

u64 gdt[gdt_entries] __attribute__((aligned(8)));
u64 idt[256] __attribute__((aligned(8)));
struct Tss tss __attribute__((aligned(4096)));
extern const u32 trap_entries[256];

u64 descriptor(u32 base, u32 limit, u8 access, u8 flags) {
  return (u64)(base >> 24) << 56 | (u64)(flags & 15) << 52 | (u64)(limit >> 16 & 15) << 48 | (u64)access << 40 |
         (u64)(base & 0xFFFFFF) << 16 | (limit & 0xFFFF);
}

u64 gate(u16 selector, u32 offset, u8 access) {
  return (u64)(offset >> 16) << 48 | (u64)access << 40 | (u64)selector << 16 | (offset & 0xFFFF);
}

void load_idt(const void* base, u16 limit) {
  struct TableRegister table = {limit, (u32)base};
  __asm__ volatile("lidt %0" ::"m"(table) : "memory");
}

void load_gdt(u32 base, u16 limit) {
  struct TableRegister table = {limit, base};
  __asm__ volatile("lgdt %0" ::"m"(table) : "memory");
}

void own_gdt(void) { load_gdt((u32)gdt, sizeof(gdt) - 1); }
void load_ldt(u16 selector) { __asm__ volatile("lldt %w0" ::"r"(selector) : "memory"); }
void load_task(u16 selector) { __asm__ volatile("ltr %w0" ::"r"(selector) : "memory"); }

void descriptors_init(void) {
  gdt[kernel_code / 8] = descriptor(0, 0xFFFFF, 0x9B, 0xC);
  gdt[kernel_data / 8] = descriptor(0, 0xFFFFF, 0x93, 0xC);
  gdt[user_code / 8] = descriptor(0, 0xFFFFF, 0xFB, 0xC);
  gdt[user_data / 8] = descriptor(0, 0xFFFFF, 0xF3, 0xC);
  gdt[tss_selector / 8] = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
  gdt[ring1_code / 8] = descriptor(0, 0xFFFFF, 0xBB, 0xC);
  gdt[ring1_data / 8] = descriptor(0, 0xFFFFF, 0xB3, 0xC);
  gdt[ring2_code / 8] = descriptor(0, 0xFFFFF, 0xDB, 0xC);
  gdt[ring2_data / 8] = descriptor(0, 0xFFFFF, 0xD3, 0xC);
  struct TableRegister table = {sizeof(gdt) - 1, (u32)gdt};
  __asm__ volatile(
      "lgdt %0\n"
      "ljmp %1, $1f\n"
      "1: mov %2, %%ds; mov %2, %%es; mov %2, %%fs; mov %2, %%gs; mov %2, %%ss" ::"m"(table),
      "i"(kernel_code), "r"(kernel_data)
      : "memory");

  for (u32 i = 0; i < 256; i++) idt[i] = gate(kernel_code, trap_entries[i], i == vector_done ? 0xEE : 0x8E);
  load_idt(idt, sizeof(idt) - 1);

  __asm__ volatile("lldt %w0" ::"r"(0));  // a reset leaves LDTR with base 0 and limit FFFFh, and Multiboot says nothing about it

  tss.ss0 = kernel_data;
  tss.esp0 = (u32)trap_stack + sizeof(trap_stack);
  memset(tss.io_map, 0xFF, sizeof(tss.io_map));
  tss.io_base = offsetof(struct Tss, io_map);
  __asm__ volatile("ltr %w0" ::"r"(tss_selector));
}
