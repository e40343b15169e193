// LLDT, LTR, SLDT, STR, LGDT, LIDT, SGDT and SIDT: each check of their pseudo-code (SDM vol. 2), for every type of descriptor and from
// every ring; operand sizes and forms; the busy flag; tables on pages that are absent or read-only (vol. 3, 4.6: implicit accesses are
// the supervisor's).
//
// qemu: deviates in "LTR" (a NULL selector is loaded)
// qemu: deviates in "SLDT and STR" (accesses through a NULL selector are not checked)
// qemu: deviates in "SGDT and SIDT" (likewise)
// qemu: deviates in "undefined forms" (some take LOCK)
// qemu: deviates in "limits of" (no limits are checked on data accesses)
//
// expect:
//   LLDT: ok
//   LTR: ok
//   only ring 0: ok
//   faults of the table: ok
//   SLDT and STR: ok
//   LGDT and LIDT: ok
//   limits of LGDT and LIDT: ok
//   SGDT and SIDT: ok
//   undefined forms: ok
// end
#include "lib/guest.h"

enum { slot = 0x80, window = 0x40000000 };

SNIPPET(lldt, "lldt ax\n" DONE);
SNIPPET(lldt_memory, "lldt word ptr [ebx]\n" DONE);
SNIPPET(ltr, "ltr ax\n" DONE);
SNIPPET(ltr_memory, "ltr word ptr [ebx]\n" DONE);

static u16 stored_ldtr(void) {
  u32 value;
  __asm__ volatile("sldt %0" : "=r"(value));
  return (u16)value;
}

static u16 stored_tr(void) {
  u32 value;
  __asm__ volatile("str %0" : "=r"(value));
  return (u16)value;
}

static void run_with(const u8* code, u32 selector) {
  static u16 memory[2] = {0, 0xFFFF};
  struct Cpu cpu = kernel_cpu(code);
  cpu.eax = 0x77770000 | selector;
  memory[0] = (u16)selector;
  cpu.ebx = (u32)memory;
  run_cpu(&cpu);
  check_unchanged("registers", &cpu);
}

// Every access byte in a descriptor at `slot`; which one is accepted decides `wanted`: the type of its system segment.
static void every_type(const u8* code, bool task) {
  static u64 table[4];
  for (u32 access = 0; access < 256; access++) {
    for (u32 rpl = 0; rpl < 4; rpl++) {
      u64 entry = descriptor(task ? (u32)&tss : (u32)table, task ? sizeof(tss) - 1 : sizeof(table) - 1, (u8)access, 0);
      gdt[slot / 8] = entry;
      gdt[tss_selector / 8] &= ~(2ull << 40);  // available
      load_task(tss_selector);
      load_ldt(0);
      run_with(code, slot | rpl);
      u32 type = access & 0x1F;  // with S
      bool right = task ? type == 1 || type == 9 : type == 2;
      bool good = true;
      if (!right)
        good = check_trap("type", v_protection, slot, code);
      else if (!(access & 0x80))
        good = check_trap("not present", v_not_present, slot, code);
      else
        good = check_done("right");
      bool loaded = right && (access & 0x80);
      u64 want = loaded && task ? entry | 2ull << 40 : entry;
      good &= check_true("descriptor", gdt[slot / 8] == want);
      good &= check("TR", stored_tr(), loaded && task ? slot | rpl : tss_selector);
      good &= check("LDTR", stored_ldtr(), loaded && !task ? slot | rpl : 0);
      good &= check("TSS that was left stays busy", (u32)(gdt[tss_selector / 8] >> 40) & 15, 11);
      if (!good && showing_failures()) printf("       access %x rpl %u\n", access, rpl);
    }
  }
}

static void selectors(const u8* code, bool task) {
  static const u16 local[] = {4, 7, slot | 4, 0xFFFC, 0xFFFF};
  static const u16 outside[] = {0x200, 0x203, 0x7FF8, 0xFFF8, 0xFFFB};
  for (u32 i = 0; i < ARRAY_SIZE(local); i++) {
    run_with(code, local[i]);
    check_trap("selector of the LDT", v_protection, local[i] & ~3u, code);
    run_with(code, outside[i]);
    check_trap("outside the GDT", v_protection, outside[i] & ~3u, code);
  }
  for (u32 null = 0; null < 4; null++) {
    run_with(code, null);
    if (task) {
      check_trap("NULL", v_protection, 0, code);
      check("TR as before", stored_tr() & ~3, slot);
    } else {
      check_done("NULL");
      check("LDTR", stored_ldtr(), null);
    }
  }
  // The table must reach over the whole descriptor.
  gdt[gdt_entries - 3] = task ? descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0) : descriptor(0, 7, 0x82, 0);
  u16 last = (gdt_entries - 3) * 8;
  for (u32 limit = last; limit < last + 9u; limit++) {
    load_gdt((u32)gdt, (u16)limit);
    gdt[gdt_entries - 3] &= task ? ~(2ull << 40) : ~0ull;
    run_with(code, last);
    if (limit < last + 7u)
      check_trap("descriptor cut off", v_protection, last, code);
    else
      check_done("complete");
  }
  own_gdt();
}

static void task_back(void) {
  gdt[tss_selector / 8] &= ~(2ull << 40);
  load_task(tss_selector);
  load_ldt(0);
}

SNIPPET(lgdt, "lgdt [ebx]\n" DONE);
SNIPPET(lidt, "lidt [ebx]\n" DONE);

// CPL is checked before the operand is read.
static void only_ring_0(void) {
  static const u8* const codes[] = {lldt, lldt_memory, ltr, ltr_memory, lgdt, lidt};
  static const u8 images[12] = {0};
  for (u32 ring = 1; ring < 4; ring++) {
    for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
      for (u32 how = 0; how < 2; how++) {
        struct Cpu cpu = ring_cpu(ring, codes[i]);
        cpu.ebx = how == 0 ? (u32)images : 0xF0000000;
        cpu.eflags |= f_iopl;
        if (how == 1) cpu.ds = 0;
        run_cpu(&cpu);
        check_trap("ring", v_protection, 0, codes[i]);
        check_unchanged("ring", &cpu);
      }
    }
  }
  check("TR", stored_tr(), tss_selector);
  check("LDTR", stored_ldtr(), 0);
}

// The GDT in two pages of its own at `window`; the descriptor under test lies in the second one, or across the border.
static void faults_of_the_table(void) {
  struct Space space = new_space(false);
  u32 pages = new_pages(2);
  const u32 all = p_present | p_write;
  map(&space, window, pages | all);
  map(&space, window + page_bytes, (pages + page_bytes) | all);
  use_space(&space);
  for (u32 shift = 0; shift < 8; shift += 4) {  // 4: four bytes in each page
    const u32 base = pages + page_bytes - sizeof(gdt) - shift;
    u64* entry = (u64*)(base + sizeof(gdt));
    memcpy((void*)base, gdt, sizeof(gdt));
    for (u32 task = 0; task < 2; task++) {
      const u8* code = task ? ltr : lldt;
      *entry = task ? descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0) : descriptor(0, 7, 0x82, 0);
      load_gdt(base - pages + window, 0x207);
      set_pte(&space, window + page_bytes, 0);
      invlpg(window + page_bytes);
      run_with(code, 0x200);
      check_page_fault("absent", 0, window + page_bytes, code);
      // Marking the TSS busy is a write of the supervisor: CR0.WP decides on a read-only page.
      set_pte(&space, window + page_bytes, (pages + page_bytes) | p_present);
      write_cr0(read_cr0() | cr0_wp);
      run_with(code, 0x200);
      if (task) {
        check_trap("read-only, WP", v_page, 3, code);
        check("its page", trap.cr2 & ~0xFFFu, window + page_bytes);
        check("not busy", (u32)(*entry >> 40) & 15, 9);
        check("TR", stored_tr(), tss_selector);
        check("D", (u32)get_pte(&space, window + page_bytes) & p_dirty, 0);
      } else {
        check_done("LLDT writes nothing");
      }
      write_cr0(read_cr0() & ~(u32)cr0_wp);
      run_with(code, 0x200);
      check_done("read-only, no WP");
      check("TSS is busy", (u32)(*entry >> 40) & 15, task ? 11 : 2);
      check("D", (u32)get_pte(&space, window + page_bytes) & p_dirty, task ? p_dirty : 0);
      set_pte(&space, window + page_bytes, (pages + page_bytes) | all);
      invlpg(window + page_bytes);
      own_gdt();
      task_back();
    }
  }
  own_gdt();
  task_back();
  paging_off();
}

// A register takes the selector, zero-extended with a 32-bit operand; memory takes 16 bits always. Every ring may ask.
SNIPPET(store_both,
        "sldt eax\n sldt bx\n sldt word ptr [esi]\n data16 sldt word ptr [esi + 4]\n"
        "str ecx\n str dx\n str word ptr [esi + 8]\n data16 str word ptr [esi + 12]\n" DONE);
SNIPPET(sldt_fault, "sldt word ptr [esi]\n" DONE);
SNIPPET(str_fault, "str word ptr [esi]\n" DONE);

static void store_selectors(void) {
  static u32 memory[4];
  gdt[slot / 8] = descriptor(0, 7, 0x82, 0);
  load_ldt(slot | 3);
  for (u32 ring = 0; ring < 4; ring++) {
    memset(memory, 0xEE, sizeof(memory));
    struct Cpu cpu = ring_cpu(ring, store_both);
    cpu.eax = cpu.ebx = cpu.ecx = cpu.edx = 0xABCDABCD;
    cpu.esi = (u32)memory;
    run_cpu(&cpu);
    check_done("store");
    check("sldt r32", trap.cpu.eax, slot | 3);
    check("sldt r16", trap.cpu.ebx, 0xABCD0000 | slot | 3);
    check("str r32", trap.cpu.ecx, tss_selector);
    check("str r16", trap.cpu.edx, 0xABCD0000 | tss_selector);
    for (u32 i = 0; i < 4; i++) check("memory", memory[i], 0xEEEE0000u | (i < 2 ? slot | 3u : (u32)tss_selector));
    static const u8* const codes[] = {sldt_fault, str_fault};
    for (u32 i = 0; i < 2; i++) {
      cpu = ring_cpu(ring, codes[i]);
      cpu.ds = 0;
      run_cpu(&cpu);
      check_trap("NULL segment", v_protection, 0, codes[i]);
      check_unchanged("NULL segment", &cpu);
    }
  }
  load_ldt(0);
}

SNIPPET(sgdt, "sgdt [ebx]\n" DONE);
SNIPPET(sidt, "sidt [ebx]\n" DONE);
SNIPPET(lgdt16, "data16 lgdt [ebx]\n" DONE);
SNIPPET(lidt16, "data16 lidt [ebx]\n" DONE);

static void load_tables(void) {
  static const u8* const codes[] = {lgdt, lidt, lgdt16, lidt16};
  // 32-bit operand: the whole base. 16-bit: its low 24 bits. The tables in use lie below 16 MiB, so both can go on.
  for (u32 i = 0; i < 4; i++) {
    bool interrupts = i & 1, narrow = i & 2;
    u8 image[8] __attribute__((aligned(8)));
    u16 limit = interrupts ? sizeof(idt) - 1 : sizeof(gdt) - 1;
    u32 base = interrupts ? (u32)idt : (u32)gdt;
    *(u16*)image = limit;
    *(u32*)(image + 2) = base | (narrow ? 0xAB000000u : 0);
    struct Cpu cpu = kernel_cpu(codes[i]);
    cpu.ebx = (u32)image;
    run_cpu(&cpu);
    check_done("load");
    check_unchanged("load", &cpu);
    struct TableRegister got;
    if (interrupts)
      __asm__ volatile("sidt %0" : "=m"(got));
    else
      __asm__ volatile("sgdt %0" : "=m"(got));
    check("limit", got.limit, limit);
    check("base", got.base, base);
  }
  // Any base and limit are taken; nothing is checked before a use.
  static const struct TableRegister odd[] = {{0, 0}, {0xFFFF, 0xFFFFFFFF}, {1, 0x80000001}, {0xFFFE, 0x12345679}};
  for (u32 i = 0; i < ARRAY_SIZE(odd); i++) {
    struct TableRegister own = {sizeof(gdt) - 1, (u32)gdt}, own_idt = {sizeof(idt) - 1, (u32)idt}, got, got_idt;
    __asm__ volatile("lgdt %2\n lidt %2\n sgdt %0\n sidt %1\n lgdt %3\n lidt %4"
                     : "=&m"(got), "=&m"(got_idt)
                     : "m"(odd[i]), "m"(own), "m"(own_idt));
    check_true("GDTR", memcmp(&got, &odd[i], 6) == 0);
    check_true("IDTR", memcmp(&got_idt, &odd[i], 6) == 0);
  }
  // Six bytes are read: across a page border the second page's fault leaves the register alone.
  struct Space space = new_space(false);
  u32 page = new_page();
  map(&space, window, page | p_present | p_write);
  map(&space, window + page_bytes, 0);
  use_space(&space);
  for (u32 i = 0; i < 4; i++) {
    for (u32 inside = 1; inside < 7; inside++) {
      struct TableRegister image =
          (i & 1) ? (struct TableRegister){sizeof(idt) - 1, (u32)idt} : (struct TableRegister){sizeof(gdt) - 1, (u32)gdt};
      memcpy((void*)(page + page_bytes - inside), &image, inside);
      struct Cpu cpu = kernel_cpu(codes[i]);
      cpu.ebx = window + page_bytes - inside;
      run_cpu(&cpu);
      if (inside < 6)
        check_page_fault("second page", 0, window + page_bytes, codes[i]);
      else
        check_done("all in the first page");
      check_unchanged("second page", &cpu);
    }
  }
  paging_off();
}

// All six bytes must lie inside the segment.
static void load_limits(void) {
  static const u8* const codes[] = {lgdt, lidt, lgdt16, lidt16};
  static u8 area[256];
  gdt[slot / 8] = descriptor((u32)area, 0x85, 0x93, 4);
  // A machine that takes limits lightly must not load what follows: it would not live to tell.
  struct Cpu cpu = kernel_cpu(sidt);
  cpu.ds = slot;
  cpu.ebx = 0x81;
  run_cpu(&cpu);
  if (!check_true("limits are checked", trap.vector == v_protection)) return;
  for (u32 i = 0; i < 4; i++) {
    struct TableRegister image =
        (i & 1) ? (struct TableRegister){sizeof(idt) - 1, (u32)idt} : (struct TableRegister){sizeof(gdt) - 1, (u32)gdt};
    memcpy(area + 0x80, &image, 6);
    for (u32 offset = 0x80; offset < 0x82; offset++) {
      cpu = kernel_cpu(codes[i]);
      cpu.ds = slot;
      cpu.ebx = offset;
      run_cpu(&cpu);
      if (offset == 0x80)
        check_done("up to the limit");
      else
        check_trap("past the limit", v_protection, 0, codes[i]);
    }
  }
}

SNIPPET(sgdt16, "data16 sgdt [ebx]\n" DONE);
SNIPPET(sidt16, "data16 sidt [ebx]\n" DONE);

// All 32 bits of the base are stored with either operand size; every ring may ask.
static void store_tables(void) {
  static const u8* const codes[] = {sgdt, sidt, sgdt16, sidt16};
  struct Space space = new_space(false);
  u32 page = new_page();
  map(&space, window, page | p_present | p_write | p_user);
  map(&space, window + page_bytes, 0);
  use_space(&space);
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < 4; i++) {
      memset((void*)page, 0xEE, 32);
      struct Cpu cpu = ring_cpu(ring, codes[i]);
      cpu.ebx = window + 8;
      run_cpu(&cpu);
      check_done("store");
      const struct TableRegister want =
          (i & 1) ? (struct TableRegister){sizeof(idt) - 1, (u32)idt} : (struct TableRegister){sizeof(gdt) - 1, (u32)gdt};
      check_true("image", memcmp((void*)(page + 8), &want, 6) == 0);
      check("nothing before", ((u8*)page)[7], 0xEE);
      check("nothing behind", ((u8*)page)[14], 0xEE);
      cpu.ds = 0;
      run_cpu(&cpu);
      check_trap("NULL segment", v_protection, 0, codes[i]);
      memset((void*)(page + 0xFF0), 0xEE, 16);
      cpu = ring_cpu(ring, codes[i]);
      cpu.ebx = window + 0xFFD;
      run_cpu(&cpu);
      check_page_fault("second page", ring == 3 ? 6 : 2, window + page_bytes, codes[i]);
      check_unchanged("second page", &cpu);
    }
  }
  paging_off();
}

SNIPPET(lgdt_register, ".byte 0x0F, 0x01, 0xD7\n" DONE);
SNIPPET(lidt_register, ".byte 0x0F, 0x01, 0xDF\n" DONE);
SNIPPET(lock_lgdt, ".byte 0xF0, 0x0F, 0x01, 0x13\n" DONE);
SNIPPET(lock_sidt, ".byte 0xF0, 0x0F, 0x01, 0x0B\n" DONE);
SNIPPET(lock_lldt, ".byte 0xF0, 0x0F, 0x00, 0xD0\n" DONE);
SNIPPET(lock_ltr, ".byte 0xF0, 0x0F, 0x00, 0xD8\n" DONE);
SNIPPET(lock_sldt, ".byte 0xF0, 0x0F, 0x00, 0x03\n" DONE);
SNIPPET(lock_str, ".byte 0xF0, 0x0F, 0x00, 0x0B\n" DONE);

static void undefined_forms(void) {
  static const u8* const codes[] = {lgdt_register, lidt_register, lock_lgdt, lock_sidt, lock_lldt, lock_ltr, lock_sldt, lock_str};
  static struct TableRegister scratch;
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
      struct Cpu cpu = ring_cpu(ring, codes[i]);
      scratch = (struct TableRegister){sizeof(gdt) - 1, (u32)gdt};  // harmless where LOCK is taken
      cpu.ebx = (u32)&scratch;
      cpu.eax = 0xFFF8;
      run_cpu(&cpu);
      check_trap("undefined", v_opcode, 0, codes[i]);
      check_unchanged("undefined", &cpu);
    }
  }
}

void guest_main(void) {
  descriptors_init();
  group("LLDT");
  every_type(lldt, false);
  every_type(lldt_memory, false);
  selectors(lldt, false);
  task_back();
  group("LTR");
  every_type(ltr, true);
  every_type(ltr_memory, true);
  gdt[slot / 8] = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
  load_task(slot);
  selectors(ltr, true);
  task_back();
  group("only ring 0");
  only_ring_0();
  group("faults of the table");
  faults_of_the_table();
  group("SLDT and STR");
  store_selectors();
  group("LGDT and LIDT");
  load_tables();
  group("limits of LGDT and LIDT");
  load_limits();
  group("SGDT and SIDT");
  store_tables();
  group("undefined forms");
  undefined_forms();
  finish();
}
