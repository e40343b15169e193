// LAR, LSL, VERR and VERW about every kind of descriptor: 32 types, each DPL, present or not, each RPL, from each ring; and ARPL with
// every pair of RPLs. The answers are computed here from the pseudo-code and the type tables of SDM vol. 2, LAR, LSL, VERR/VERW and ARPL.
// That an ARPL which changes nothing does not write (no fault on a read-only page) is what the host's CPU does.
//
// qemu: deviates in "memory operands" (accesses through a NULL selector are not checked)
// qemu: deviates in "ARPL" (it always writes)
// qemu: deviates in "undefined forms" (some take LOCK)
//
// expect:
//   every descriptor: ok
//   outside the tables: ok
//   granularity: ok
//   memory operands: ok
//   tables that fault: ok
//   ARPL: ok
//   undefined forms: ok
// end
#include "lib/guest.h"

enum { slot = 0x80, window = 0x40000000, marker = 0x5A5A5A5A, other_flags = f_status & ~f_zf };

// In: EAX selector. Out: EBX LAR, ECX LSL, SI LAR with 66h, DI LSL with 66h; EBP the ZF of each (enum Answer). No other flag may change.
SNIPPET(ask_all,
        "lar ebx, eax\n setz dl\n lsl ecx, eax\n setz dh\n movzx ebp, dx\n"
        "verr ax\n setz dl\n verw ax\n setz dh\n movzx edx, dx\n lea ebp, [ebp + edx * 2]\n"
        "lar si, ax\n setz dl\n lsl di, ax\n setz dh\n movzx edx, dx\n lea ebp, [ebp + edx * 4]\n" DONE);
enum Answer { lar_zf = 1, lsl_zf = 0x100, verr_zf = 2, verw_zf = 0x200, lar16_zf = 4, lsl16_zf = 0x400 };

static void ask(u16 selector, u32 cpl) {
  struct Cpu cpu = ring_cpu(cpl, ask_all);
  cpu.eax = 0xDEAD0000 | selector;
  cpu.ebx = cpu.ecx = cpu.esi = cpu.edi = marker;
  cpu.eflags |= other_flags | f_zf;
  run_cpu(&cpu);
}

static u32 low16(u32 value) { return (marker & 0xFFFF0000u) | (value & 0xFFFF); }

// `known`: the selector names a descriptor at all.
static bool check_answers(bool known, u64 entry, u32 rpl, u32 cpl) {
  u32 high = (u32)(entry >> 32), type = high >> 8 & 15, dpl = high >> 13 & 3;
  bool segment = high & 0x1000, code = segment && (type & 8), conforming = code && (type & 4);
  bool reach = conforming || (cpl <= dpl && rpl <= dpl);
  const u32 lar_types = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12;
  const u32 lsl_types = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11;
  bool lar = known && reach && (segment || (lar_types >> type & 1));
  bool lsl = known && reach && (segment || (lsl_types >> type & 1));
  bool verr = known && segment && reach && (!code || (type & 2));
  bool verw = known && segment && !code && reach && (type & 2);
  u32 limit = (u32)(entry & 0xFFFF) | (high & 0xF0000);
  if (high & 1 << 23) limit = limit << 12 | 0xFFF;

  bool good = check_done("no fault");
  u32 zf = (lar ? lar_zf | lar16_zf : 0u) | (lsl ? lsl_zf | lsl16_zf : 0u) | (verr ? verr_zf : 0u) | (verw ? verw_zf : 0u);
  good &= check("ZF of each", trap.cpu.ebp, zf);
  good &= check("other flags", trap.cpu.eflags & other_flags, other_flags);
  const u32 undefined = 0xF0000;  // limit bits in the middle of the access rights
  if (lar)
    good &= check("lar", trap.cpu.ebx & ~undefined, high & 0x00F0FF00);
  else
    good &= check("lar keeps its destination", trap.cpu.ebx, marker);
  good &= check("lar16", trap.cpu.esi, lar ? low16(high & 0xFF00) : marker);
  good &= check("lsl", trap.cpu.ecx, lsl ? limit : marker);
  good &= check("lsl16", trap.cpu.edi, lsl ? low16(limit) : marker);
  return good;
}

static void every_descriptor(void) {
  for (u32 access = 0; access < 256; access++) {
    u64 entry = descriptor(0x12345678, 0xA9876, (u8)access, 0x5);
    gdt[slot / 8] = entry;
    for (u32 rpl = 0; rpl < 4; rpl++) {
      for (u32 cpl = 0; cpl < 4; cpl++) {
        ask((u16)(slot | rpl), cpl);
        bool good = check_answers(true, entry, rpl, cpl);
        if (!good && showing_failures()) printf("       access %x rpl %u cpl %u\n", access, rpl, cpl);
      }
    }
    check_true("no accessed bit is set", gdt[slot / 8] == entry);
  }
}

static void outside_tables(void) {
  // NULL selectors, and those beyond the limit. A table must reach over all eight bytes.
  for (u32 rpl = 0; rpl < 4; rpl++) {
    for (u32 cpl = 0; cpl < 4; cpl += 3) {
      ask((u16)rpl, cpl);
      check_answers(false, 0, rpl, cpl);
      ask((u16)(0x200 | rpl), cpl);
      check_answers(false, 0, rpl, cpl);
      ask((u16)(0xFFF8 | rpl), cpl);
      check_answers(false, 0, rpl, cpl);
      ask((u16)(4 | rpl), cpl);  // LDTR is NULL
      check_answers(false, 0, rpl, cpl);
      ask((u16)(0xFFFC | rpl), cpl);
      check_answers(false, 0, rpl, cpl);
    }
  }
  static u64 copy[gdt_entries];
  memcpy(copy, gdt, sizeof(gdt));
  copy[gdt_entries - 1] = descriptor(0, 0x1234, 0xF3, 4);
  for (u32 limit = 0x1F8; limit <= 0x200; limit++) {
    load_gdt((u32)copy, (u16)limit);
    ask(0x1FB, 3);
    check_answers(limit >= 0x1FF, copy[gdt_entries - 1], 3, 3);
  }
  own_gdt();

  // The same in an LDT; index 0 is a descriptor like any other there.
  static u64 local[3];
  local[0] = descriptor(0, 0x4321, 0xF3, 4);
  local[1] = descriptor(0, 0x8765, 0xF3, 4);
  for (u32 limit = 0; limit < 17; limit++) {
    gdt[slot / 8] = descriptor((u32)local, limit, 0x82, 0);
    load_ldt(slot);
    ask(4 | 3, 3);
    check_answers(limit >= 7, local[0], 3, 3);
    ask(8 | 4 | 3, 3);
    check_answers(limit >= 15, local[1], 3, 3);
    ask(16 | 4 | 3, 3);
    check_answers(false, 0, 3, 3);
  }
  load_ldt(0);
  ask(4 | 3, 3);
  check_answers(false, 0, 3, 3);
}

static void granularity(void) {
  static const u32 limits[] = {0, 1, 0xFFF, 0x1000, 0xFFFF, 0x10000, 0xFFFFE, 0xFFFFF};
  for (u32 i = 0; i < ARRAY_SIZE(limits); i++) {
    for (u32 flags = 0; flags < 16; flags++) {
      u64 entry = descriptor(0x87654321, limits[i], 0xF7, (u8)flags);
      gdt[slot / 8] = entry;
      ask(slot | 3, 3);
      check_answers(true, entry, 3, 3);
    }
  }
}

// A selector in memory is 16 bits wide with every operand size.
SNIPPET(lar_memory, "lar ebx, word ptr gs:[eax]\n" DONE);
SNIPPET(lsl_memory, "lsl ebx, word ptr gs:[eax]\n" DONE);
SNIPPET(verr_memory, "verr word ptr gs:[eax]\n" DONE);
SNIPPET(verw_memory, "verw word ptr gs:[eax]\n" DONE);
SNIPPET(arpl_memory, "arpl word ptr gs:[eax], dx\n" DONE);
static const u8* const memory_forms[] = {lar_memory, lsl_memory, verr_memory, verw_memory, arpl_memory};

static void memory_operands(void) {
  u32 page = new_pages(2);
  struct Space space = new_space(false);
  use_space(&space);
  map(&space, window, page | p_present | p_write | p_user);
  map(&space, window + page_bytes, 0);
  write32(page + 0xFFC, (user_data & ~3u) << 16);
  for (u32 i = 0; i < ARRAY_SIZE(memory_forms); i++) {
    struct Cpu cpu = user_cpu(memory_forms[i]);
    cpu.eax = window + 0xFFE;
    cpu.edx = 3;
    run_cpu(&cpu);
    check_done("at the page's end");
    check("answer", trap.cpu.eflags & f_zf, f_zf);
    cpu.eax = window + 0xFFF;
    run_cpu(&cpu);
    check_page_fault("across pages", 4, window + 0x1000, memory_forms[i]);
    check_unchanged("across pages", &cpu);
    cpu.gs = 0;
    run_cpu(&cpu);
    check_trap("NULL segment", v_protection, 0, memory_forms[i]);
    check_unchanged("NULL segment", &cpu);
  }
  paging_off();
}

// The table is read with the rights of the supervisor, whoever asks; a page that is not there faults as a supervisor's read.
static void tables_that_fault(void) {
  static const u8* const queries[] = {lar_memory, lsl_memory, verr_memory, verw_memory};
  struct Space space = new_space(false);
  u32 pages = new_pages(2);
  const u32 base = window + page_bytes - sizeof(gdt);  // selector 200h names the first bytes of the second page
  memcpy((void*)(pages + page_bytes - sizeof(gdt)), gdt, sizeof(gdt));
  *(u64*)(pages + page_bytes) = descriptor(0, 0xFFFF, 0xF3, 4);
  map(&space, window, pages | p_present | p_write);
  map(&space, window + page_bytes, 0);
  use_space(&space);
  load_gdt(base, 0xFFFF);
  static u16 selector = 0x203;
  for (u32 i = 0; i < ARRAY_SIZE(queries); i++) {
    for (u32 ring = 0; ring < 4; ring++) {
      struct Cpu cpu = ring_cpu(ring, queries[i]);
      cpu.eax = (u32)&selector;
      set_pte(&space, window + page_bytes, 0);
      invlpg(window + page_bytes);
      run_cpu(&cpu);
      check_page_fault("table absent", 0, window + page_bytes, queries[i]);
      check_unchanged("table absent", &cpu);
      set_pte(&space, window + page_bytes, (pages + page_bytes) | p_present);
      run_cpu(&cpu);
      check_done("supervisor page");
      check("answer", trap.cpu.eflags & f_zf, f_zf);
      check("page accessed, not written", (u32)get_pte(&space, window + page_bytes) & (p_accessed | p_dirty), p_accessed);
    }
  }
  own_gdt();
  paging_off();
}

SNIPPET(arpl_register, "arpl ax, dx\n" DONE);

static void adjust_rpl(void) {
  struct Space space = new_space(false);
  u32 page = new_page();
  map(&space, window, page | p_present | p_user);
  use_space(&space);
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < 16; i++) {
      u32 to = i >> 2, from = i & 3;
      bool raised = to < from;
      struct Cpu cpu = ring_cpu(ring, arpl_register);
      cpu.eax = 0x12345670 | to;
      cpu.edx = 0x9ABCDEF4 | from;
      cpu.eflags |= other_flags | (raised ? 0 : f_zf);
      run_cpu(&cpu);
      check_done("arpl");
      check("register", trap.cpu.eax, 0x12345670 | (raised ? from : to));
      check("flags", trap.cpu.eflags & f_status, other_flags | (raised ? f_zf : 0));

      write32(page, 0x5670 | to);
      cpu = ring_cpu(ring, arpl_memory);
      cpu.eax = page;
      cpu.edx = from;
      run_cpu(&cpu);
      check("memory", read32(page), 0x5670 | (raised ? from : to));
      write32(page, 0x5670 | to);
      cpu.eax = window;
      run_cpu(&cpu);
      if (raised && ring == 3) {
        check_page_fault("read-only page", 7, window, arpl_memory);
        check_unchanged("read-only page", &cpu);
        check("not written", read32(page), 0x5670 | to);
      } else {
        check_done("read-only page");
      }
    }
  }
  paging_off();
}

SNIPPET(lock_lar, ".byte 0xF0, 0x0F, 0x02, 0xC0\n" DONE);
SNIPPET(lock_lsl, ".byte 0xF0, 0x0F, 0x03, 0xC0\n" DONE);
SNIPPET(lock_verr, ".byte 0xF0, 0x0F, 0x00, 0xE0\n" DONE);
SNIPPET(lock_verw, ".byte 0xF0, 0x0F, 0x00, 0xE8\n" DONE);
SNIPPET(lock_arpl, ".byte 0xF0, 0x63, 0x10\n" DONE);
SNIPPET(group6_6, ".byte 0x0F, 0x00, 0xF0\n" DONE);
SNIPPET(group6_7, ".byte 0x0F, 0x00, 0xF8\n" DONE);

static void undefined_forms(void) {
  static const u8* const codes[] = {lock_lar, lock_lsl, lock_verr, lock_verw, lock_arpl, group6_6, group6_7};
  static u32 scratch;
  for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
    for (u32 ring = 0; ring < 4; ring++) {
      struct Cpu cpu = ring_cpu(ring, codes[i]);
      cpu.eax = (u32)&scratch;
      run_cpu(&cpu);
      check_trap("undefined", v_opcode, 0, codes[i]);
      check_unchanged("undefined", &cpu);
    }
  }
}

void guest_main(void) {
  descriptors_init();
  group("every descriptor");
  every_descriptor();
  group("outside the tables");
  outside_tables();
  group("granularity");
  granularity();
  group("memory operands");
  memory_operands();
  group("tables that fault");
  tables_that_fault();
  group("ARPL");
  adjust_rpl();
  group("undefined forms");
  undefined_forms();
  finish();
}
