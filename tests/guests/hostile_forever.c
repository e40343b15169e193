// Everything at once, again and again, until the run's timeout: random bytes as user code under a fast timer, new code everywhere in
// memory and at new linear addresses (so that translations, tables and jump slots never stop growing by themselves), address spaces that
// come and go, every port read and written, accesses where nothing is, random model-specific, control and debug registers. The monitor's
// memory must stay bounded; how to watch it over an hour: docs/testing.md.
//
// expect:
//   started
// end
// exit: 124
// args: --timeout 10s
// qemu: deviates (it has no option that ends a run after a time)
// skip: lockstep (its set-up alone takes longer than the run)
#include "lib/guest.h"

enum { code_bytes = 8192, spaces = 16, windows = 64, nothing_from = 0x40000000 };

static u8 user_code_area[code_bytes] __attribute__((aligned(4096)));
static u8 kernel_code_area[4096] __attribute__((aligned(4096)));
static u32 seed = 0x13579BDF;
static u32 rnd(u32 below) { return (u32)((u64)next_random(&seed) * below >> 32); }

static volatile u32 ticks;
static u32 ticks_at_start;
static bool on_timer(struct Frame* frame) {
  ticks++;
  pic_eoi(0);
  // A run of user code gets two ticks.
  return (frame->cs & 3) == 0 || ticks - ticks_at_start < 2;
}
static bool on_other_irq(struct Frame* frame) {
  outb(0xA0, 0x20);
  outb(0x20, 0x20);
  (void)inb(0x60);
  (void)frame;
  return true;
}

static void quiet_devices(void) {
  pic_init();
  outb(0x3F8 + 1, 0);
  outb(0x3F8 + 3, 3);
  outb(0x92, 2);  // A20 stays open
  outb(0x70, 0x0B);
  outb(0x71, 0x02);
  pic_unmask(0);
  pit_periodic(500);
}

// --- random user code ---
static void random_code(void) {
  for (u32 round = 0; round < 50; round++) {
    for (u32 i = 0; i < code_bytes; i += 4) write32((u32)user_code_area + i, next_random(&seed));
    struct Cpu cpu = user_cpu(user_code_area + rnd(code_bytes));
    cpu.eflags |= f_if;
    u32* registers[] = {&cpu.eax, &cpu.ebx, &cpu.ecx, &cpu.edx, &cpu.esi, &cpu.edi, &cpu.ebp};
    for (u32 i = 0; i < ARRAY_SIZE(registers); i++) *registers[i] = rnd(3) ? (u32)user_code_area + rnd(code_bytes) : next_random(&seed);
    ticks_at_start = ticks;
    run_cpu(&cpu);
  }
}

// --- code everywhere ---
static struct Space all_spaces[spaces];
static u32 code_pages;
enum { code_page_count = 1024 };

// A window of linear memory, of which every page shows some page full of code.
static void map_windows(const struct Space* space) {
  for (u32 i = 0; i < windows; i++) {
    u32 linear = (0x40000000u + (next_random(&seed) >> 1)) & 0xFFFFF000u;
    if (!(get_pde(space, linear) & p_present)) continue;
    set_pte(space, linear, (code_pages + rnd(code_page_count) * page_bytes) | p_present | p_write | p_user | (rnd(4) ? 0 : p_global));
  }
}

static void code_everywhere(void) {
  for (u32 round = 0; round < 8; round++) {
    const struct Space* space = &all_spaces[rnd(spaces)];
    use_space(space);
    sti();
    for (u32 n = 0; n < 200; n++) {
      u8* page = (u8*)(code_pages + rnd(code_page_count) * page_bytes);
      u32 at = rnd(4000);
      for (u32 k = 0; k < 16; k++) {
        page[at + 0] = 0x05;  // add eax, imm32; inc ecx; ret
        *(u32*)(page + at + 1) = next_random(&seed);
        page[at + 5] = 0x41;
        page[at + 6] = 0xC3;
        __asm__ volatile("call *%0" ::"r"(page + at) : "eax", "ecx", "memory", "cc");
      }
    }
    map_windows(space);
    write_cr3(read_cr3());
    for (u32 n = 0; n < 400; n++) {
      struct Cpu cpu = user_cpu((void*)((0x40000000u + (next_random(&seed) >> 1))));
      u32 linear = (u32)cpu.eip;
      if (!(get_pde(space, linear) & p_present)) continue;
      set_pte(space, linear, (code_pages + rnd(code_page_count) * page_bytes) | p_present | p_write | p_user);
      invlpg(linear);
      u8* there = (u8*)(linear & 0xFFFFF000u) + rnd(4090);
      there[0] = 0xC3;
      __asm__ volatile("call *%0" ::"r"(there) : "memory", "cc");
    }
    cli();
  }
}

// --- ports ---
static bool skipped_port(u32 port) {
  // Power-off, resets, debug exit, the serial port's data (its output would be the test's), and their neighbours for wide accesses.
  return (port >= 0x600 && port < 0x610) || (port >= 0x61 && port <= 0x64) || (port >= 0x8F && port <= 0x92) ||
         (port >= 0xCF6 && port <= 0xCF9) || (port >= 0xF1 && port <= 0xF7) || (port >= 0x3F5 && port <= 0x3FF) ||
         (port >= 0xAF && port <= 0xB3) || (port >= 0xE6 && port <= 0xE9);
}

static void ports(void) {
  cli();
  for (u32 n = 0; n < 3000; n++) {
    u32 port = rnd(2) ? rnd(0x10000) : rnd(0x800);
    u32 value = next_random(&seed);
    switch (rnd(skipped_port(port) ? 3 : 6)) {
      case 0: __asm__ volatile("inb %%dx, %%al" : "+a"(value) : "d"(port)); break;
      case 1: __asm__ volatile("inw %%dx, %%ax" : "+a"(value) : "d"(port)); break;
      case 2: __asm__ volatile("inl %%dx, %%eax" : "+a"(value) : "d"(port)); break;
      case 3: __asm__ volatile("outb %%al, %%dx" ::"a"(value), "d"(port)); break;
      case 4: __asm__ volatile("outw %%ax, %%dx" ::"a"(value), "d"(port)); break;
      default: __asm__ volatile("outl %%eax, %%dx" ::"a"(value), "d"(port));
    }
  }
  quiet_devices();
}

// --- memory where nothing is ---
static void empty_memory(void) {
  const struct Space* space = &all_spaces[rnd(spaces)];
  use_space(space);
  for (u32 n = 0; n < 300; n++) {
    u32 linear = 0x40000000u + (next_random(&seed) >> 1);
    if (!(get_pde(space, linear) & p_present)) continue;
    set_pte(space, linear, (nothing_from + (next_random(&seed) & 0x7FFFF000u)) | p_present | p_write | p_user);
    invlpg(linear);
    linear &= ~7u;
    write32(linear, read32(linear) + 1);
    struct Cpu cpu = user_cpu((void*)linear);
    ticks_at_start = ticks;
    cpu.eflags |= f_if;
    run_cpu(&cpu);
    set_pte(space, linear, 0);
    invlpg(linear);
  }
}

// --- registers ---
static void put(u32* at, u32 bytes, u32 size) {
  for (; size; size--, bytes >>= 8) kernel_code_area[(*at)++] = (u8)bytes;
}

static void registers(void) {
  u32 cr4 = read_cr4();
  for (u32 n = 0; n < 200; n++) {
    u32 at = 0;
    switch (rnd(5)) {
      case 0:  // wrmsr; rdmsr
        put(&at, 0x320F, 2);
        put(&at, 0x300F, 2);
        break;
      case 1:  // mov cr4, eax
        put(&at, 0xE0220F, 3);
        break;
      case 2:  // mov dr0..7, eax; and back
        put(&at, 0xC0230F | rnd(8) << 19, 3);
        put(&at, 0xC0210F | rnd(8) << 19, 3);
        break;
      case 3:  // mov cr2, eax; mov eax, cr0
        put(&at, 0xD0220F, 3);
        put(&at, 0xC0200F, 3);
        break;
      default:  // lmsw ax; clts; str, sldt, smsw
        put(&at, 0xF0010F, 3);
        put(&at, 0x060F, 2);
        put(&at, 0xC8000F, 3);
        put(&at, 0xE0010F, 3);
    }
    put(&at, 0x80CD, 2);
    struct Cpu cpu = kernel_cpu(kernel_code_area);
    cpu.ecx = rnd(3) == 0 ? next_random(&seed) : rnd(2) ? rnd(0x1000) : 0xC0000080u + rnd(0x100);
    if (cpu.ecx == MSR_EFER) cpu.ecx = 0x10;
    cpu.eax = next_random(&seed) & ~(u32)(cr4_pae);
    if (kernel_code_area[1] == 0x23) cpu.eax &= ~0x20FFu;  // no breakpoints
    cpu.edx = rnd(2) ? 0 : next_random(&seed);
    run_cpu(&cpu);
    write_cr4(cr4);
    write_cr0((read_cr0() | cr0_ne) & ~(u32)(cr0_ts | cr0_em));
  }
}

void guest_main(void) {
  descriptors_init();
  tss.io_base = sizeof(struct Tss);
  for (u32 irq = 0; irq < 16; irq++) set_hook(irq_base + irq, irq == 0 ? on_timer : on_other_irq);
  write_cr0((read_cr0() | cr0_ne) & ~(u32)(cr0_em | cr0_ts));
  write_cr4(read_cr4() | cr4_osfxsr | cr4_pge);
  code_pages = new_pages(code_page_count);
  for (u32 i = 0; i < spaces; i++) {
    all_spaces[i] = new_space(false);
    // The kernel is not the random code's to write.
    for (u32 address = 0; address < identity_end; address += page_bytes) {
      bool user = address - (u32)user_code_area < sizeof(user_code_area) || address - (u32)user_stack < sizeof(user_stack);
      if (!user) set_pte(&all_spaces[i], address, address | p_present | p_write | p_global);
    }
    // Tables for a part of the upper linear memory, scattered.
    for (u32 n = 0; n < 64; n++) map(&all_spaces[i], (0x40000000u + (next_random(&seed) >> 1)), 0);
  }
  use_space(&all_spaces[0]);
  quiet_devices();
  printf("started\n");
  for (u32 loop = 1;; loop++) {
    random_code();
    code_everywhere();
    ports();
    empty_memory();
    registers();
    use_space(&all_spaces[rnd(spaces)]);
    if (loop % 2000 == 0) {
      // A life ends with a triple fault; where the run restarts its guest, the next one begins.
      load_idt((void*)0, 0);
      __asm__ volatile("ud2");
    }
  }
}
