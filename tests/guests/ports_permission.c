// Who may use which port: IN, OUT, INS and OUTS of every size, from each ring with each IOPL, with every state of the permission bits they
// cover, at every place in a byte of the bitmap; bitmaps that end early, lie beyond the TSS, belong to a 16-bit TSS, or lie on pages that
// are absent (SDM vol. 1, 18.5; vol. 2, IN, INS, OUT, OUTS). Order: permission before memory, memory before the port.
//
// qemu: deviates in "string" (accesses through a NULL selector are not checked, REP with ECX = 0 is not asked for permission)
//
// expect:
//   CPL and IOPL: ok
//   permission bits: ok
//   end of the TSS: ok
//   place of the bitmap: ok
//   16-bit TSS: ok
//   bitmap on absent pages: ok
//   string forms: order of the checks: ok
//   string forms: repeats: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, free_port = 0x80, slot = 0x80 };

SNIPPET(in8, "in al, dx\n" DONE);
SNIPPET(in16, "in ax, dx\n" DONE);
SNIPPET(in32, "in eax, dx\n" DONE);
SNIPPET(out8, "out dx, al\n" DONE);
SNIPPET(out16, "out dx, ax\n" DONE);
SNIPPET(out32, "out dx, eax\n" DONE);
SNIPPET(ins8, "insb\n" DONE);
SNIPPET(ins16, "insw\n" DONE);
SNIPPET(ins32, "insd\n" DONE);
SNIPPET(outs8, "outsb\n" DONE);
SNIPPET(outs16, "outsw\n" DONE);
SNIPPET(outs32, "outsd\n" DONE);
SNIPPET(in8_imm, "in al, 0x80\n" DONE);
SNIPPET(in16_imm, "in ax, 0x80\n" DONE);
SNIPPET(in32_imm, "in eax, 0x80\n" DONE);
SNIPPET(out8_imm, "out 0x80, al\n" DONE);
SNIPPET(out16_imm, "out 0x80, ax\n" DONE);
SNIPPET(out32_imm, "out 0x80, eax\n" DONE);

static const struct {
  const u8* code;
  u32 size;
  bool immediate, string;
} forms[] = {
    {in8, 1, false, false},      {in16, 2, false, false},     {in32, 4, false, false},    {out8, 1, false, false},
    {out16, 2, false, false},    {out32, 4, false, false},    {ins8, 1, false, true},     {ins16, 2, false, true},
    {ins32, 4, false, true},     {outs8, 1, false, true},     {outs16, 2, false, true},   {outs32, 4, false, true},
    {in8_imm, 1, true, false},   {in16_imm, 2, true, false},  {in32_imm, 4, true, false}, {out8_imm, 1, true, false},
    {out16_imm, 2, true, false}, {out32_imm, 4, true, false},
};

static u32 scratch[4];

static struct Cpu attempt(u32 form, u32 ring, u32 iopl, u32 port) {
  struct Cpu cpu = ring_cpu(ring, forms[form].code);
  cpu.esi = cpu.edi = (u32)scratch;
  cpu.edx = 0xABC00000 | port;
  cpu.eax = 0;
  cpu.ecx = 0x1234;
  cpu.eflags |= iopl << 12;
  run_cpu(&cpu);
  return cpu;
}

static bool check_refused(const char* what, u32 form, const struct Cpu* cpu) {
  bool good = check_trap(what, v_protection, 0, forms[form].code);
  return check_unchanged(what, cpu) && good;
}

static void set_bit(u32 port, bool denied) {
  u8 bit = (u8)(1u << (port & 7));
  tss.io_map[port / 8] = denied ? tss.io_map[port / 8] | bit : tss.io_map[port / 8] & (u8)~bit;
}

static void cpl_and_iopl(void) {
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 iopl = 0; iopl < 4; iopl++) {
      for (u32 form = 0; form < ARRAY_SIZE(forms); form++) {
        struct Cpu cpu = attempt(form, ring, iopl, free_port);
        if (ring <= iopl)
          check_done("allowed");
        else
          check_refused("refused", form, &cpu);
      }
    }
  }
}

static void permission_bits(void) {
  static u8* const map = tss.io_map;
  for (u32 low = 0; low < 8; low++) {
    const u32 port = free_port + low;
    for (u32 form = 0; form < ARRAY_SIZE(forms); form++) {
      if (forms[form].immediate && low != 0) continue;
      // All allowed but one around and inside the range; all denied but the range.
      for (i32 one = -2; one < 6; one++) {
        memset(map + free_port / 8 - 1, 0, 4);
        set_bit(port + (u32)one, true);
        for (u32 ring = 1; ring < 4; ring++) {
          bool denied = one >= 0 && one < (i32)forms[form].size;
          struct Cpu cpu = attempt(form, ring, 0, port);
          bool good = denied ? check_refused("one bit set", form, &cpu) : check_done("bit outside set");
          if (!good && showing_failures()) printf("       form %u port %x bit %d\n", form, port, one);
        }
      }
      memset(map + free_port / 8 - 1, 0xFF, 4);
      for (u32 i = 0; i < forms[form].size; i++) set_bit(port + i, false);
      attempt(form, 3, 0, port);
      check_done("only its own bits are clear");
    }
  }
  memset(map, 0xFF, sizeof(tss.io_map));
}

// The TSS is loaded with each limit; the bitmap is all zero. Two bytes are read from the map for each access, whatever its size, so the
// byte behind the one that holds the port's bit must lie inside the limit, too.
static void set_limit(u32 limit) {
  gdt[slot / 8] = descriptor((u32)&tss, limit, 0x89, 0);
  load_task(slot);
}

static void end_of_tss(void) {
  memset(tss.io_map, 0, sizeof(tss.io_map));
  const u32 byte = tss.io_base + free_port / 8;
  for (u32 form = 0; form < ARRAY_SIZE(forms); form++) {
    for (u32 limit = byte - 2; limit < byte + 4; limit++) {
      set_limit(limit);
      struct Cpu cpu = attempt(form, 3, 0, free_port);
      if (limit >= byte + 1)
        check_done("inside");
      else
        check_refused("past the limit", form, &cpu);
    }
  }
  // A TSS too short for the map's address itself. It still has the stack of ring 0.
  for (u32 limit = 100; limit < 104; limit++) {
    set_limit(limit);
    tss.io_base = 0;
    struct Cpu cpu = attempt(0, 3, 0, 0);
    if (limit < 103) check_refused("no map address", 0, &cpu);
    tss.io_base = offsetof(struct Tss, io_map);
  }
  // The last port, with the byte of ones that the manual asks for behind the map.
  memset(tss.io_map, 0, 8192);
  tss.io_map[8192] = 0xFF;
  set_limit(sizeof(tss) - 1);
  attempt(0, 3, 0, 0xFFFF);
  check_done("port FFFFh");
  set_limit(sizeof(tss) - 2);
  struct Cpu cpu = attempt(0, 3, 0, 0xFFFF);
  check_refused("port FFFFh without the byte behind", 0, &cpu);
  set_limit(sizeof(tss) - 1);
  // A word at FFFFh reaches into that byte.
  cpu = attempt(1, 3, 0, 0xFFFF);
  check_refused("word at FFFFh", 1, &cpu);
  memset(tss.io_map, 0xFF, sizeof(tss.io_map));
}

static void place_of_map(void) {
  // Anywhere behind the map's address, also inside the rest of the TSS; at or past the limit it denies all.
  memset(tss.io_map, 0xFF, sizeof(tss.io_map));
  set_limit(sizeof(tss) - 1);
  for (u32 place = 0; place < 3; place++) {
    const u32 base = (u32)offsetof(struct Tss, io_map) + (place == 0 ? 0 : place == 1 ? 77 : 4001);
    tss.io_base = (u16)base;
    u8* map = (u8*)&tss + base;
    map[free_port / 8] = 0xFE;
    attempt(0, 3, 0, free_port);
    check_done("moved map");
    struct Cpu cpu = attempt(0, 3, 0, free_port + 1);
    check_refused("moved map", 0, &cpu);
    map[free_port / 8] = 0xFF;
  }
  static const u32 bases[] = {sizeof(tss) - 1, sizeof(tss), sizeof(tss) + 100, 0xFFF0, 0xFFFF};
  memset(tss.io_map, 0, sizeof(tss.io_map));
  for (u32 i = 0; i < ARRAY_SIZE(bases); i++) {
    tss.io_base = (u16)bases[i];
    for (u32 form = 0; form < ARRAY_SIZE(forms); form++) {
      struct Cpu cpu = attempt(form, 3, 0, free_port);
      check_refused("map past the limit", form, &cpu);
    }
    // IOPL makes it all the same.
    attempt(0, 3, 3, free_port);
    check_done("IOPL 3");
    attempt(0, 0, 0, free_port);
    check_done("ring 0");
  }
  tss.io_base = offsetof(struct Tss, io_map);
}

// A 16-bit TSS has no map (18.5.2), whatever stands at the place of a 32-bit one's. Its ring 0 stack must lie below 64 KiB.
static void tss16(void) {
  static struct {
    u16 back, sp0, ss0;
    u8 rest[400];
  } __attribute__((packed, aligned(4))) small = {.sp0 = 0x9000, .ss0 = kernel_data};
  *(u16*)((u8*)&small + 102) = 104;
  gdt[slot / 8] = descriptor((u32)&small, sizeof(small) - 1, 0x81, 0);
  load_task(slot);
  for (u32 form = 0; form < ARRAY_SIZE(forms); form++) {
    for (u32 ring = 0; ring < 4; ring++) {
      struct Cpu cpu = attempt(form, ring, 0, free_port);
      if (ring == 0)
        check_done("ring 0 is not asked");
      else
        check_refused("no map", form, &cpu);
      attempt(form, ring, ring, free_port);
      check_done("IOPL suffices");
    }
  }
  gdt[tss_selector / 8] &= ~(2ull << 40);
  load_task(tss_selector);
}

// The map is read with the supervisor's rights: a page that is absent is a page fault of the instruction.
static void absent_pages(void) {
  struct Space space = new_space(false);
  u32 pages = new_pages(4);
  for (u32 i = 0; i < 3; i++) map(&space, window + i * page_bytes, (pages + i * page_bytes) | p_present | p_write);
  use_space(&space);
  memcpy((void*)pages, &tss, 104);
  struct Tss* copy = (struct Tss*)pages;
  copy->io_base = page_bytes - 1 - free_port / 8;  // the byte of port 80h is the last one of the first page
  memset((u8*)copy + 104, 0, sizeof(tss) - 104);
  gdt[slot / 8] = descriptor(window, 2 * page_bytes + 100, 0x89, 0);
  load_task(slot);
  for (u32 form = 0; form < ARRAY_SIZE(forms); form++) {
    for (u32 ring = 1; ring < 4; ring++) {
      set_pte(&space, window + page_bytes, (pages + page_bytes) | p_present);
      invlpg(window + page_bytes);
      attempt(form, ring, 0, free_port);
      check_done("supervisor's pages");
      check("only read", (u32)get_pte(&space, window + page_bytes) & (p_accessed | p_dirty), p_accessed);
      set_pte(&space, window + page_bytes, 0);
      invlpg(window + page_bytes);
      struct Cpu cpu = attempt(form, ring, 0, free_port);
      check_page_fault("second byte absent", 0, window + page_bytes, forms[form].code);
      check_unchanged("second byte absent", &cpu);
      // IOPL first: then the map is not read.
      attempt(form, ring, ring, free_port);
      check_done("IOPL suffices");
    }
  }
  gdt[tss_selector / 8] &= ~(2ull << 40);
  load_task(tss_selector);
  paging_off();
}

SNIPPET(rep_insb, "rep insb\n" DONE);
SNIPPET(rep_outsd, "rep outsd\n" DONE);
SNIPPET(outs_fs, ".byte 0x64, 0x6E\n" DONE);
SNIPPET(ins16_address, "addr16 insb\n" DONE);

static void order(void) {
  struct Space space = new_space(false);
  u32 page = new_page();
  map(&space, window, page | p_present | p_user);
  map(&space, window + page_bytes, 0);
  use_space(&space);
  memset(tss.io_map, 0xFF, sizeof(tss.io_map));
  for (u32 form = 6; form < 12; form++) {
    const bool input = form < 9;
    for (u32 permitted = 0; permitted < 2; permitted++) {
      struct Cpu cpu = user_cpu(forms[form].code);
      cpu.eflags |= permitted ? f_iopl : 0;
      cpu.edx = free_port;
      cpu.esi = cpu.edi = window + page_bytes;
      run_cpu(&cpu);
      if (permitted)
        check_page_fault("absent page", input ? 6 : 4, window + page_bytes, forms[form].code);
      else
        check_refused("permission first", form, &cpu);
      check_unchanged("string", &cpu);
      cpu.esi = cpu.edi = window;
      run_cpu(&cpu);
      if (permitted && input) {
        check_page_fault("read-only page", 7, window, forms[form].code);
        check_unchanged("string", &cpu);
      } else if (permitted) {
        check_done("read-only page");
      }
      cpu.ds = cpu.es = 0;
      run_cpu(&cpu);
      check_trap("NULL segment", v_protection, 0, forms[form].code);
      check_unchanged("NULL segment", &cpu);
    }
  }
  // The port is read only when the store cannot fault: the two bytes of a latched count come one at each read. (8254: channel 2 in mode 0,
  // its gate closed, so that the count stays as it was written.)
  outb(0x61, inb(0x61) & 0xFC);
  outb(0x43, 0xB0);
  outb(0x42, 0x34);
  outb(0x42, 0x12);
  outb(0x43, 0x80);
  for (u32 i = 0; i < 3; i++) {
    struct Cpu reader = user_cpu(ins8);
    reader.eflags |= f_iopl;
    reader.edx = 0x42;
    reader.edi = window + (i == 1 ? 0 : page_bytes);
    reader.es = i == 2 ? 0 : reader.es;
    run_cpu(&reader);
    check("faults", trap.vector, i == 2 ? v_protection : v_page);
  }
  check("first byte", inb(0x42), 0x34);
  check("second byte", inb(0x42), 0x12);
  // OUTS takes a segment prefix; INS always stores to ES.
  struct Cpu cpu = kernel_cpu(outs_fs);
  cpu.esi = (u32)scratch;
  cpu.edx = free_port;
  cpu.ds = 0;
  run_cpu(&cpu);
  check_done("outs fs:");
  cpu.ds = kernel_data;
  cpu.fs = 0;
  run_cpu(&cpu);
  check_trap("outs fs: NULL", v_protection, 0, outs_fs);
  cpu = kernel_cpu(ins16_address);
  cpu.edx = free_port;
  u8 before = *(volatile u8*)0x500;
  cpu.edi = 0x12340500;
  run_cpu(&cpu);
  check_done("16-bit addressing");
  check("DI alone moves", trap.cpu.edi, 0x12340501);
  *(volatile u8*)0x500 = before;
  paging_off();
}

// Each repeat is a boundary: a fault in the middle leaves the registers of the repeats that were done. And permission is asked for before
// the count (what the host's CPU does).
static void repeats(void) {
  struct Space space = new_space(false);
  u32 page = new_page();
  map(&space, window, page | p_present | p_user | p_write);
  map(&space, window + page_bytes, 0);
  use_space(&space);
  for (u32 backward = 0; backward < 2; backward++) {
    for (u32 count = 0; count < 12; count++) {
      struct Cpu cpu = user_cpu(rep_insb);
      cpu.eflags |= f_iopl | (backward ? f_df : 0);
      cpu.ecx = count;
      cpu.edx = free_port;
      cpu.edi = backward ? window + 4 : window + page_bytes - 5;
      map(&space, window - page_bytes, 0);
      run_cpu(&cpu);
      u32 done = count < 5 ? count : 5;
      if (count > 5)
        check_page_fault("rep insb", 6, backward ? window - 1 : window + page_bytes, rep_insb);
      else
        check_done("rep insb");
      check("ecx", trap.cpu.ecx, count - done);
      check("edi", trap.cpu.edi, cpu.edi + (backward ? 0u - done : done));

      cpu = user_cpu(rep_outsd);
      cpu.eflags |= f_iopl;
      cpu.ecx = count;
      cpu.edx = free_port;
      cpu.esi = window + page_bytes - 20;
      run_cpu(&cpu);
      if (count > 5)
        check_page_fault("rep outsd", 4, window + page_bytes, rep_outsd);
      else
        check_done("rep outsd");
      check("ecx", trap.cpu.ecx, count - done);
      check("esi", trap.cpu.esi, cpu.esi + done * 4);
    }
  }
  struct Cpu cpu = user_cpu(rep_insb);
  cpu.edx = free_port;
  cpu.ecx = 0;
  run_cpu(&cpu);
  check_trap("count 0 without permission", v_protection, 0, rep_insb);
  cpu = user_cpu(rep_insb);
  cpu.edx = free_port;
  cpu.ecx = 0;
  cpu.es = 0;
  cpu.eflags |= f_iopl;
  run_cpu(&cpu);
  check_done("count 0 touches no memory");
  paging_off();
}

void guest_main(void) {
  descriptors_init();
  group("CPL and IOPL");
  cpl_and_iopl();
  group("permission bits");
  permission_bits();
  group("end of the TSS");
  end_of_tss();
  group("place of the bitmap");
  place_of_map();
  group("16-bit TSS");
  tss16();
  group("bitmap on absent pages");
  absent_pages();
  group("string forms: order of the checks");
  order();
  group("string forms: repeats");
  repeats();
  finish();
}
