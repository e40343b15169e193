// A guest that does its worst in the way that its command line names ("case=NAME seed=N"). How each run must end stands in run_hostile.
#include "guest.h"

enum { ram_end = 64 << 20, nothing = (int)0xF0000000, debug_exit = 0xF4 };

static u32 seed = 1;
static u32 rnd(u32 below) { return (u32)((u64)next_random(&seed) * below >> 32); }
static u32 rnd32(void) { return next_random(&seed); }

static _Noreturn void spin(void) {
  for (;;) __asm__ volatile("");
}

// Runs code at `eip` in ring 0 or 3 with an own state; whatever it does, the next trap ends it.
static void try_code(u32 eip, bool user) {
  struct Cpu cpu = user ? user_cpu((void*)eip) : kernel_cpu((void*)eip);
  u32* registers[] = {&cpu.eax, &cpu.ebx, &cpu.ecx, &cpu.edx, &cpu.esi, &cpu.edi, &cpu.ebp};
  for (u32 i = 0; i < ARRAY_SIZE(registers); i++) *registers[i] = 0xC0000000 | rnd32();
  run_cpu(&cpu);
}

// --- ends that say what happened ---
static void loop(void) { spin(); }
static void loop_interrupts_off(void) {
  cli();
  spin();
}
static void halt_interrupts_off(void) { __asm__ volatile("cli; hlt"); }
static void triple_fault(void) {
  load_idt(NULL, 0);
  __asm__ volatile("ud2");
}
static void flood(void) {
  for (;;) print("all work and no play makes a dull boy of every serial port\n");
}
static void flood_debug_port(void) {
  for (;;) outb(0xE9, 'x');
}

// --- memory ---
// HLT everywhere, this code included.
static void fill_memory(void) {
  cli();
  __asm__ volatile("rep stosl; ud2" ::"a"(0xF4F4F4F4), "D"(0), "c"(ram_end / 4));
}
static void fill_four_gigabytes(void) {
  cli();
  __asm__ volatile("rep stosl; ud2" ::"a"(0xF4F4F4F4), "D"(ram_end), "c"(0x3FFFFFFF));
}
static void fill_page_tables(void) {
  struct Space space = new_space(rnd(2));
  use_space(&space);
  __asm__ volatile("rep stosl; ud2" ::"a"(0), "D"(8 << 20), "c"((24 << 20) / 4));
}
static void tables_of_themselves(void) {
  u32* directory = (u32*)new_page();
  for (u32 i = 0; i < 1024; i++) directory[i] = (u32)directory | p_present | p_write | p_user;
  for (u32 i = 0; i < 8; i++) directory[i] = i << 22 | p_present | p_write | p_user | p_large;
  write_cr4(read_cr4() | cr4_pse);
  write_cr3((u32)directory);
  write_cr0(read_cr0() | (u32)cr0_pg);
  for (u32 n = 0; n < 20000; n++) {
    u32 at = 0x4000000 + rnd(0xF8000000u);
    (void)read32(at & ~3u);
    if (n % 16 == 0) write32((at & 0xFFFFF000u) | (64 + rnd(900)) * 4, (u32)directory | p_present | p_write | rnd(0x1000));
    if (n % 64 == 0) try_code(at, false);
    invlpg(at);
  }
}

// --- control flow ---
static void jump_everywhere(void) {
  memset((void*)(16 << 20), 0xCC, ram_end - (16 << 20));
  for (u32 n = 0; n < 30000; n++) try_code(rnd(2) ? rnd32() : rnd(4) ? rnd(ram_end - (16 << 20)) + (16 << 20) : (u32)-1 - rnd(20), rnd(2));
}
static void jump_to_the_end(void) { __asm__ volatile("jmp *%0" ::"r"(0xFFFFFFFF)); }
static void calls_without_returns(void) { __asm__ volatile("1: call 1b"); }
static void returns_without_calls(void) { __asm__ volatile("mov %0, %%esp; 1: ret" ::"r"(16 << 20)); }
static void walk_stack(void) {
  struct Space space = new_space(rnd(2));
  map(&space, 0xFFFFF000, new_page() | p_present | p_write);
  map(&space, 0, new_page() | p_present | p_write);
  use_space(&space);
  static const i32 steps[] = {1, 2, 4, 7};
  for (u32 k = 0; k < ARRAY_SIZE(steps); k++) {
    for (i32 at = -200; at < 200; at += steps[k]) {
      u32 saved;
      __asm__ volatile(
          "mov %%esp, %%esi; mov %1, %%esp\n"
          "push %%eax; pop %%ecx; pusha; popa; pushf; popf; pushw %%ax; popw %%cx\n"
          "mov %1, %%esp; call 1f; jmp 2f; 1: ret; 2: mov %1, %%esp\n"
          "mov %1, %%ebp; enter $8, $5; mov %1, %%esp; mov %1, %%ebp; leave\n"
          "mov %%esi, %%esp"
          : "=a"(saved)
          : "d"(at)
          : "ecx", "ebx", "esi", "edi", "ebp", "memory", "cc");
    }
  }
}
static void prefixes(void) {
  static const u8 kinds[] = {0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x2E, 0x3E, 0x64};
  u8* code = (u8*)new_pages(17);
  for (u32 k = 0; k < ARRAY_SIZE(kinds); k++) {
    memset(code, kinds[k], 65536);
    for (u32 n = 0; n < 300; n++) {
      try_code((u32)code + rnd(65536 - 15), rnd(2));
      check("too long", trap.vector, v_protection);
    }
  }
}

// --- tables in odd places ---
static void idt_at(u32 base) {
  load_idt((void*)base, 0x7FF);
  __asm__ volatile("int $3");
}
static void idt_in_mmio(void) { idt_at((u32)nothing); }
static void idt_beyond_memory(void) { idt_at(ram_end); }
static void idt_at_the_end(void) { idt_at(0xFFFFFFF0); }
static void idt_random(void) {
  for (u32 i = 0; i < sizeof(idt) / 4; i++) ((u32*)idt)[i] = rnd32();
  for (u32 n = 0; n < 1000; n++) __asm__ volatile("int $3; into; ud2");
}
static void gdt_at(u32 base) {
  struct TableRegister table = {0xFFFF, base};
  __asm__ volatile("lgdt %0" ::"m"(table));
  for (u32 selector = 8; selector < 0x10000; selector += 8) {
    u32 out;
    __asm__ volatile("lar %1, %0\nlsl %1, %0\nverr %w1\nverw %w1" : "=r"(out) : "r"(selector) : "cc");
  }
  __asm__ volatile("mov %0, %%ds" ::"r"(0x18));
}
static void gdt_in_mmio(void) { gdt_at((u32)nothing); }
static void gdt_at_the_end(void) { gdt_at(0xFFFFF000); }
static void ldt_in_mmio(void) {
  gdt[first_free / 8] = descriptor((u32)nothing, 0xFFFF, 0x82, 0);
  __asm__ volatile("lldt %w0" ::"r"(first_free));
  __asm__ volatile("mov %0, %%fs" ::"r"(0x0C));
}
static void tss_in_mmio(void) {
  gdt[first_free / 8] = descriptor((u32)nothing, 0xFFFF, 0x89, 0);
  __asm__ volatile("ltr %w0" ::"r"(first_free));
  try_code(0x100000, true);
}
static void cr3_in_mmio(void) {
  write_cr3((u32)nothing);
  write_cr0(read_cr0() | (u32)cr0_pg);
}
static void pae_cr3_in_mmio(void) {
  write_cr3((u32)nothing);
  write_cr4(read_cr4() | cr4_pae);
  write_cr0(read_cr0() | (u32)cr0_pg);
}

// --- devices and registers ---
// Writes there may end the run: power-off, resets, debug exit.
static bool ends_the_run(u32 port) {
  return (port >= 0x601 && port < 0x610) || (port >= 0x61 && port <= 0x64) || (port >= 0x8F && port <= 0x92) ||
         (port >= 0xCF6 && port <= 0xCF9) || (port >= 0xF1 && port <= 0xF7);
}
static void all_ports(void) {
  bool careful = rnd(4) != 0;
  for (u32 n = 0; n < 60000; n++) {
    u32 port = rnd(3) == 0 ? rnd(0x10000) : rnd(0x800);
    u32 value = rnd32();
    switch (rnd(careful && ends_the_run(port) ? 3 : 6)) {
      case 0: __asm__ volatile("inb %%dx, %%al" : "+a"(value) : "d"(port)); break;
      case 1: __asm__ volatile("inw %%dx, %%ax" : "+a"(value) : "d"(port)); break;
      case 2: __asm__ volatile("inl %%dx, %%eax" : "+a"(value) : "d"(port)); break;
      case 3: __asm__ volatile("outb %%al, %%dx" ::"a"(value), "d"(port)); break;
      case 4: __asm__ volatile("outw %%ax, %%dx" ::"a"(value), "d"(port)); break;
      default: __asm__ volatile("outl %%eax, %%dx" ::"a"(value), "d"(port));
    }
    if (n % 512 == 0) __asm__ volatile("sti; nop; nop; cli");
  }
}
static bool acknowledge(struct Frame* frame) {
  (void)frame;
  outb(0xA0, 0x20);
  outb(0x20, 0x20);
  return true;
}
static void all_registers(void) {
  u8* code = (u8*)new_page();
  for (u32 n = 0; n < 20000; n++) {
    u32 kind = rnd(8);
    u32 at = 0;
    code[at++] = 0x0F;
    if (kind < 3) {
      code[at++] = kind == 0 ? 0x32 : 0x30;  // rdmsr, wrmsr
    } else if (kind < 7) {
      static const u8 opcodes[] = {0x20, 0x21, 0x22, 0x23};
      code[at++] = opcodes[rnd(4)];
      code[at++] = (u8)(0xC0 | rnd(64));
    } else {
      code[at++] = 0x01;
      code[at++] = (u8)rnd(256);  // group 7
    }
    code[at++] = 0xCD, code[at++] = 0x80;
    struct Cpu cpu = kernel_cpu(code);
    cpu.ecx = rnd(3) ? rnd(2) ? rnd(0x1000) : 0xC0000000 + rnd(0x200) : rnd32();
    cpu.eax = rnd(4) ? rnd32() & rnd32() & rnd32() : rnd32();
    cpu.edx = rnd(2) ? 0 : rnd32();
    // Mostly without what ends it all at once: CR0.PE cleared or PG set, another CR3.
    if (n < 19000 && kind >= 3 && kind < 7 && code[1] == 0x22) cpu.eax = (code[2] >> 3 & 7) == 0 ? (cpu.eax | 1) & 0x7FFFFFFF : cpu.eax;
    run_cpu(&cpu);
  }
}
static void interrupt_storm(void) {
  for (u32 irq = 0; irq < 16; irq++) set_hook(irq_base + irq, acknowledge);
  pic_init();
  pic_unmask(0);
  pit_periodic(2);
  sti();
  spin();
}

// --- code that never rests ---
static void change_itself(void) { __asm__ volatile("1: incl 2f + 1\n2: mov $0, %%eax\n jmp 1b" ::: "eax"); }
static void code_storm(void) {
  u32 pages = new_pages(4096);
  for (u32 n = 0; n < 400000; n++) {
    u8* at = (u8*)pages + rnd(4095) * 4096 + rnd(4090);
    at[0] = 0x05;  // add eax, imm32; ret
    *(u32*)(at + 1) = rnd32();
    at[5] = 0xC3;
    __asm__ volatile("call *%0" ::"r"(at) : "eax", "memory", "cc");
  }
}
// A RET in every 1024 bytes of 3 GiB: each jump slot needs a page of the host.
static void code_at_every_address(void) {
  struct Space space = new_space(false);
  u32 page = new_page();
  memset((void*)page, 0xC3, 4096);
  u32 table = new_page();
  for (u32 i = 0; i < 1024; i++) ((u32*)table)[i] = page | p_present | p_write | p_user;
  for (u32 i = 64; i < 1024; i++) ((u32*)space.root)[i] = table | p_present | p_write | p_user;
  use_space(&space);
  for (u32 linear = 64u << 22; linear >= 64u << 22; linear += 1024) __asm__ volatile("call *%0" ::"r"(linear) : "memory");
}
SNIPPET(touch, "1: mov [eax], eax\nadd eax, 4096\ncmp eax, 0x10000000\njae 1b\n" DONE);
// Every page of the linear space is read and written, in both privileges and many modes.
static void touch_everything(void) {
  struct Space space = new_space(false);
  u32 page = new_page();
  u32 table = new_page();
  for (u32 i = 0; i < 1024; i++) ((u32*)table)[i] = page | p_present | p_write | p_user;
  for (u32 i = 64; i < 1024; i++) ((u32*)space.root)[i] = table | p_present | p_write | p_user;
  use_space(&space);
  for (u32 n = 0; n < 8; n++) {
    struct Cpu cpu = n & 1 ? user_cpu(touch) : kernel_cpu(touch);
    cpu.eax = 64u << 22;
    write_cr4(n & 2 ? read_cr4() | cr4_osfxsr : read_cr4() & ~(u32)cr4_osfxsr);
    write_cr4(n & 4 ? read_cr4() | cr4_tsd : read_cr4() & ~(u32)cr4_tsd);
    run_cpu(&cpu);
    check_done("touched");
  }
}

struct Case {
  const char* name;
  void (*run)(void);
};
#define CASE(name) \
  { #name, name }
static const struct Case cases[] = {
    CASE(loop),
    CASE(loop_interrupts_off),
    CASE(halt_interrupts_off),
    CASE(triple_fault),
    CASE(flood),
    CASE(fill_memory),
    CASE(fill_four_gigabytes),
    CASE(fill_page_tables),
    CASE(flood_debug_port),
    CASE(tables_of_themselves),
    CASE(jump_everywhere),
    CASE(jump_to_the_end),
    CASE(calls_without_returns),
    CASE(returns_without_calls),
    CASE(walk_stack),
    CASE(prefixes),
    CASE(idt_in_mmio),
    CASE(idt_beyond_memory),
    CASE(idt_at_the_end),
    CASE(idt_random),
    CASE(gdt_in_mmio),
    CASE(gdt_at_the_end),
    CASE(ldt_in_mmio),
    CASE(tss_in_mmio),
    CASE(cr3_in_mmio),
    CASE(pae_cr3_in_mmio),
    CASE(all_ports),
    CASE(all_registers),
    CASE(interrupt_storm),
    CASE(change_itself),
    CASE(code_storm),
    CASE(code_at_every_address),
    CASE(touch_everything),
};

static bool starts(const char* text, const char* with) {
  while (*with && *text == *with) text++, with++;
  return !*with;
}

void guest_main(void) {
  const char* text = (const char*)((const u32*)multiboot_info)[4];
  char name[40];
  u32 length = 0;
  for (; *text; text++) {
    if (starts(text, "seed=")) {
      seed = 0;
      for (const char* digit = text + 5; *digit >= '0' && *digit <= '9'; digit++) seed = seed * 10 + (u32)(*digit - '0');
      seed = seed * 2654435761u | 1;
    }
    if (starts(text, "case=")) {
      for (text += 5; *text && *text != ' ' && length < sizeof(name) - 1; text++) name[length++] = *text;
      if (!*text) break;
    }
  }
  name[length] = 0;
  descriptors_init();
  write_cr0((read_cr0() | cr0_ne) & ~(u32)(cr0_em | cr0_ts));
  for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
    if (!starts(cases[i].name, name) || !starts(name, cases[i].name)) continue;
    cases[i].run();
    finish();
  }
  panic("no such case");
}
