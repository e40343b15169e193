// Faults while an event is delivered: every first fault with every second one, by SDM vol. 3, tables 6-4 and 6-5 (one after the other, or
// #DF), page faults in the middle of a frame, which is pushed again after they are mended, page faults on IDT, descriptors and TSS, and
// alignment checks on the stack of ring 3.
//
// qemu: deviates in "first and second" (the EXT bit is never set; an absent stack segment is #TS)
// qemu: deviates in "frames across pages" (the stack of ring 3 is written with the rights of ring 0)
// qemu: deviates in "alignment checks" (it has none)
//
// expect:
//   first and second: ok
//   frames across pages: ok
//   tables in absent pages: ok
//   alignment checks: ok
// end
#include "lib/transfer.h"

enum { absent = 0x40000000, v_bound_range = 5, v_alignment = 17 };
enum Class { benign, contributory, page };

SNIPPET(do_de, "div cl\n");  // A3A4h / A0h does not fit
SNIPPET(do_int1, ".byte 0xF1\n");
SNIPPET(do_bound, "bound ecx, [ebx]\n");
SNIPPET(do_ud, "ud2\n");
SNIPPET(do_nm, "fnop\n");
SNIPPET(do_ts, "iretd\n");
SNIPPET(do_np, "mov fs, ecx\n");
SNIPPET(do_ss, "mov eax, [esp + 0x2000]\n");
SNIPPET(do_gp, "cli\n");
SNIPPET(do_pf, "mov eax, [esi]\n");
SNIPPET(do_int, "int 0x90\n");

static const struct First {
  const char* name;
  const u8* code;
  u8 vector;
  enum Class class;
} firsts[] = {
    {"#DE", do_de, v_divide, contributory},
    {"#DB", do_int1, v_debug, benign},
    {"#BR", do_bound, v_bound_range, benign},
    {"#UD", do_ud, v_opcode, benign},
    {"#NM", do_nm, v_no_fpu, benign},
    {"#TS", do_ts, v_tss, contributory},
    {"#NP", do_np, v_not_present, contributory},
    {"#SS", do_ss, v_stack, contributory},
    {"#GP", do_gp, v_protection, contributory},
    {"#PF", do_pf, v_page, page},
};

static struct Space space;

static void set_page(u32 linear, u64 entry) {
  map(&space, linear, entry);
  invlpg(linear);
}

static struct Cpu start_first(const struct First* f) {
  struct Cpu cpu = start_in(3, f->code);
  cpu.esi = absent + 0x123;
  cpu.ecx = other_slot;  // an absent segment; outside the bounds 0 and 0
  far_pointer.offset = 0;
  far_pointer.selector = far_pointer.unused = 0;
  if (f->code == do_ts) {
    cpu.eflags |= f_nt;
    tss.back_link = 0;
  }
  if (f->code == do_ss) {
    gdt[gate_slot / 8] = descriptor((u32)user_stack, 0x1FFF, 0xF3, 4);
    cpu.ss = gate_slot | 3;
    cpu.esp = 0x1000;
  }
  return cpu;
}

enum Second {
  by_absent_gate,
  by_no_gate,
  by_null_handler,
  by_bad_stack,
  by_absent_stack,
  by_absent_stack_page,
  by_absent_idt_page,
  seconds
};

// What the second fault is by itself.
static const struct {
  const char* name;
  u8 vector;
  enum Class class;
} second_faults[seconds] = {
    {"#NP", v_not_present, contributory},
    {"#GP", v_protection, contributory},
    {"#GP", v_protection, contributory},
    {"#TS", v_tss, contributory},
    {"#SS", v_stack, contributory},
    {"#PF", v_page, page},
    {"#PF", v_page, page},
};

static void first_and_second(void) {
  group("first and second");
  write_cr0(read_cr0() | cr0_ts);
  gdt[other_slot / 8] = descriptor(0, 0xFFFFF, 0x73, 0xC);  // absent data of ring 3
  gdt[slot / 8] = descriptor(0, 0xFFFFF, 0xBB, 0xC);        // code of ring 1
  gdt[stack_slot / 8] = descriptor(0, 0xFFFFF, 0x33, 0xC);  // absent stack of ring 1
  const u32 first_page = new_page();
  for (u32 i = 0; i < ARRAY_SIZE(firsts); i++) {
    for (enum Second second = 0; second < seconds; second++) {
      const struct First* f = &firsts[i];
      const u64 good_gate = idt[f->vector];
      struct Cpu start = start_first(f);
      u32 error = 0, second_cr2 = 0;
      set_page(absent + 0x2000, 0);
      idt[f->vector] = gate(slot, (u32)pad, 0xEE);
      switch (second) {
        case by_absent_gate:
          idt[f->vector] &= ~(1ull << 47);
          error = f->vector * 8u + 3;
          break;
        case by_no_gate:
          idt[f->vector] = 0;
          error = f->vector * 8u + 3;
          break;
        case by_null_handler:
          idt[f->vector] = gate(3, (u32)pad, 0xEE);
          error = 1;
          break;
        case by_bad_stack:
          tss.ss1 = kernel_data;
          error = kernel_data + 1;
          break;
        case by_absent_stack:
          tss.ss1 = stack_slot | 1;
          error = stack_slot + 1;
          break;
        case by_absent_stack_page:
          tss.esp1 = absent + 0x2800;
          error = 2;
          second_cr2 = tss.esp1 - 4;
          break;
        default: {
          // The table straddles two pages. Its entries up to the first fault's are in an absent page and #PF's is not; for #PF itself, the
          // entries from there on are, and #DF's is not.
          const bool low = f->class == page;
          const u32 border = absent + 0x2000, table = border - (low ? v_page * 8 : (f->vector + 1) * 8);
          set_page(border - 0x1000, low ? first_page | p_present | p_write : 0);
          set_page(border, low ? 0 : first_page | p_present | p_write);
          if (low)
            memcpy((void*)table, idt, 14 * 8);
          else
            memcpy((void*)border, &idt[f->vector + 1], (255 - f->vector) * 8);
          load_idt((void*)table, sizeof(idt) - 1);
          second_cr2 = table + f->vector * 8u;
        }
      }
      u32 want_vector = second_faults[second].vector, want_error = error, want_cr2 = second_cr2;
      const enum Class class = second_faults[second].class;
      if ((f->class == contributory && class == contributory) || (f->class == page && class != benign)) {
        want_vector = v_double;
        want_error = 0;
        if (f->class == page && class != page) want_cr2 = start.esi;
      }
      run_cpu(&start);
      load_idt(idt, sizeof(idt) - 1);
      bool good = check_trap(f->name, want_vector, want_error, (void*)start.eip);
      if (want_cr2) good &= check("cr2", trap.cr2, want_cr2);
      good &= check_unchanged("registers", &start);
      if (!good && showing_failures()) printf("       %s, then %s (%u)\n", f->name, second_faults[second].name, second);
      idt[f->vector] = good_gate;
      tss_stacks_init();
    }
  }
  write_cr0(read_cr0() & ~(u32)cr0_ts);
}

// INT n, #UD (nothing is pushed for it) and #GP (an error code is): the frame's lower part is in an absent page.
static void frames_across_pages(void) {
  group("frames across pages");
  const u32 upper = new_page(), lower = new_page(), border = absent + 0x6000;
  static const struct {
    const u8* code;
    u8 vector, past, items;
    bool error;
  } rows[] = {{do_int, 0x90, 2, 5, false}, {do_ud, v_opcode, 0, 5, false}, {do_gp, v_protection, 0, 6, true}};
  set_page(border, upper | p_present | p_write);
  for (u32 n = 0; n < ARRAY_SIZE(rows) * 2 * 5; n++) {
    const u32 i = n % 3, wide = n / 3 & 1, above = 1 + n / 6, size = wide ? 4 : 2, items = rows[i].items;
    if (above >= items) continue;
    const u64 good_gate = idt[rows[i].vector];
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xBB, 0xC);
    idt[rows[i].vector] = gate(slot, pad_offset, wide ? 0xEE : 0xE6);
    struct Cpu start = start_in(3, rows[i].code), end = start;
    tss.esp1 = border + above * size;
    set_page(border - 0x1000, 0);
    refused_by_page("absent", &start, 2, border - size);
    set_page(border - 0x1000, lower | p_present | p_user);
    refused_by_page("read-only", &start, 3, border - size);
    set_page(border - 0x1000, lower | p_present | p_write);
    end.cs = slot | 1;
    end.eip = pad_offset;
    end.ss = ring1_data;
    end.esp = tss.esp1 - items * size;
    landed("again", &start, &end);
    u32 frame[6], k = 0;
    if (rows[i].error) frame[k++] = 0;
    frame[k++] = start.eip + rows[i].past;
    frame[k++] = start.cs;
    frame[k++] = f_fixed;
    frame[k++] = start.esp;
    frame[k++] = start.ss;
    if (wide) write32(end.esp + (rows[i].error ? 12 : 8), read32(end.esp + (rows[i].error ? 12 : 8)) & ~(u32)f_rf);
    check_items("frame", end.esp, frame, items, size);
    // In ring 3 itself: the rights of the user.
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
    start.esp = border + size;
    set_page(border, upper | p_present | p_write | p_user);
    refused_by_page("the supervisor's", &start, 7, border - size);
    set_page(border - 0x1000, 0);
    refused_by_page("the user's, absent", &start, 6, border - size);
    idt[rows[i].vector] = good_gate;
    tss_stacks_init();
  }
}

static void tables_in_absent_pages(void) {
  group("tables in absent pages");
  const u32 table = absent + 0xA000, page = new_page(), other = new_page();
  struct Cpu start = start_in(3, do_int), end = start;
  end.cs = 0x15;
  end.eip = pad_offset;
  end.ss = 0x1D;
  // An IDT that ends in an absent page.
  const u32 idt_at = table - 0x90 * 8;
  set_page(table - 0x1000, other | p_present | p_write);
  set_page(table, 0);
  memcpy((void*)idt_at, idt, 0x90 * 8);
  load_idt((void*)idt_at, sizeof(idt) - 1);
  refused_by_page("gate", &start, 0, table);
  load_idt(idt, sizeof(idt) - 1);
  // Code and stack in an LDT.
  gdt[ldt_slot / 8] = descriptor(table, 0xFFF, 0x82, 0);
  __asm__ volatile("lldt %w0" ::"r"((u32)ldt_slot));
  idt[0x90] = gate(0x14, pad_offset, 0xEE);
  refused_by_page("code", &start, 0, table + 16);
  tss.ss1 = 0x1D;
  idt[0x90] = gate(slot, pad_offset, 0xEE);
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xBB, 0xC);
  refused_by_page("stack", &start, 0, table + 24);
  set_page(table, page | p_present);
  write_cr0(read_cr0() & ~(u32)cr0_wp);
  *(volatile u64*)(table + 16) = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xBB, 0xC);
  *(volatile u64*)(table + 24) = descriptor(0, 0xFFFFF, 0xB3, 0xC);
  write_cr0(read_cr0() | cr0_wp);
  idt[0x90] = gate(0x14, pad_offset, 0xEE);
  end.esp = stack_top(1) - 20;
  landed("all there", &start, &end);
  tss_stacks_init();
  // SS1 in the next page of the TSS.
  const u32 tss_at = table + 0x3000 - 16;
  set_page(table + 0x2000, other | p_present | p_write);
  set_page(table + 0x3000, 0);
  memcpy((void*)tss_at, &tss, 16);
  gdt[other_slot / 8] = descriptor(tss_at, 0x67, 0x89, 0);
  __asm__ volatile("ltr %w0" ::"r"((u32)other_slot));
  refused_by_page("SS1", &start, 0, tss_at + 16);
  gdt[tss_selector / 8] &= ~(2ull << 40);
  __asm__ volatile("ltr %w0" ::"r"((u32)tss_selector));
}

// A handler in ring 3 gets its frame on the stack of ring 3: misaligned, with AC and AM, that is #AC, with EXT for exceptions. The frame
// is one of dwords, or of words.
static void alignment_checks(void) {
  group("alignment checks");
  write_cr0(read_cr0() | 0x40000);
  static const struct {
    const u8* code;
    u8 vector;
    u32 error;
  } rows[] = {{do_int, 0x90, 0}, {do_ud, v_opcode, 1}};
  for (u32 n = 0; n < ARRAY_SIZE(rows) * 2 * 4 * 2; n++) {
    const u32 i = n & 1, wide = n >> 1 & 1, offset = n >> 2 & 3, ac = n >> 4;
    const u64 good_gate = idt[rows[i].vector];
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
    idt[rows[i].vector] = gate(slot, pad_offset, wide ? 0xEE : 0xE6);
    struct Cpu start = start_in(3, rows[i].code);
    start.esp += offset;
    if (ac) start.eflags |= f_ac;
    struct Cpu end = start;
    end.cs = slot | 3;
    end.eip = pad_offset;
    end.esp -= wide ? 12 : 6;
    if (ac && offset % (wide ? 4 : 2))
      refused("misaligned", &start, v_alignment, rows[i].error);
    else
      landed("aligned", &start, &end);
    idt[rows[i].vector] = good_gate;
  }
  // The stack of an inner ring is not checked.
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xBB, 0xC);
  idt[0x90] = gate(slot, pad_offset, 0xEE);
  tss.esp1 -= 3;
  struct Cpu start = start_in(3, do_int), end;
  start.eflags |= f_ac;
  end = start;
  end.cs = slot | 1;
  end.eip = pad_offset;
  end.ss = ring1_data;
  end.esp = tss.esp1 - 20;
  landed("stack of ring 1", &start, &end);
  tss_stacks_init();
  write_cr0(read_cr0() & ~0x40000u);
}

void guest_main(void) {
  transfer_init();
  space = new_space(false);
  use_space(&space);
  write_cr0(read_cr0() | cr0_wp);
  first_and_second();
  frames_across_pages();
  tables_in_absent_pages();
  alignment_checks();
}
