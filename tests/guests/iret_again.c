// IRET from ring 0 between usual ones, again and again at one place: frames at and across a page's end, every flag that has a meaning
// (VM apart), selectors and descriptors of every kind, data segments that must be dropped, a breakpoint at the target, an interrupt that
// waits, a GDT that is short, moved or misaligned.
//
// qemu: deviates in "segments" (an absent stack segment is #NP, not #SS; NULL data segments keep their RPL)
// qemu: deviates in "frames" (it compares no EIP with limits)
//
// expect:
//   to ring 3: ok
//   to ring 0: ok
//   segments: ok
//   frames: ok
//   tables: ok
//   breakpoint: ok
//   interrupt: ok
// end
#include "lib/guest.h"

enum { free_slot = 0x48, cr0_am = 1 << 18, dr7_fixed = 0x400 };
static void write_dr0(u32 value) { __asm__ volatile("mov %0, %%dr0" ::"r"(value)); }
static void write_dr7(u32 value) { __asm__ volatile("mov %0, %%dr7" ::"r"(value)); }
SNIPPET(iret_, "iretd\n");
SNIPPET(land, "nop\n" LABEL(after_nop) DONE);
extern const u8 after_nop[];

static u8 area[3 * page_bytes] __attribute__((aligned(4096)));
static u32 middle;  // the second page's end, with usual frames below

struct Case {
  struct Cpu cpu;
  u32 eip, cs, eflags, esp, ss;
  u32 vector, error;  // what it must come to: vector_done, or a fault of the IRET
};

static struct Case usual(u32 ring) {
  struct Case c = {.cpu = kernel_cpu(iret_),
                   .eip = (u32)land,
                   .cs = ring ? user_code : kernel_code,
                   .eflags = f_fixed,
                   .esp = (u32)user_stack + 0x8000,
                   .ss = user_data,
                   .vector = vector_done};
  c.cpu.eax = 0x11111111, c.cpu.ebx = 0x22222222, c.cpu.ecx = 0x33333333, c.cpu.edx = 0x44444444;
  c.cpu.esi = 0x55555555, c.cpu.edi = 0x66666666, c.cpu.ebp = 0x77777777;
  c.cpu.eflags |= f_status;
  c.cpu.esp = middle - 0x100;
  if (ring) c.cpu.ds = c.cpu.es = c.cpu.fs = c.cpu.gs = user_data;
  return c;
}

// What a data segment register holds in ring 3.
static u32 kept(u32 selector) { return (selector & 3) == 3 && selector > 3 ? selector : 0; }

static void run(const char* what, const struct Case* c) {
  const u32 items[] = {c->eip, c->cs | 0xABCD0000, c->eflags, c->esp, c->ss | 0x12340000};
  const bool outer = (c->cs & 3) == 3;
  memcpy((void*)c->cpu.esp, items, outer ? 20 : 12);
  struct Cpu cpu = c->cpu;
  run_cpu(&cpu);
  if (c->vector != vector_done) {
    check_trap(what, c->vector, c->error, iret_);
    check_unchanged(what, &cpu);
    return;
  }
  struct Cpu want = cpu;
  want.eip = (u32)after_nop + 2;
  want.cs = c->cs;
  want.eflags = (c->eflags | f_fixed) & ~(u32)f_rf;
  want.ss = outer ? c->ss : kernel_data;
  want.esp = outer ? c->esp : cpu.esp + 12;
  if (outer) want.ds = kept(cpu.ds), want.es = kept(cpu.es), want.fs = kept(cpu.fs), want.gs = kept(cpu.gs);
  if (c->eflags & f_tf) {
    want.eip = (u32)after_nop;
    check_trap(what, v_debug, 0, after_nop);
  } else {
    check_trap(what, vector_done, 0, after_nop + 2);
  }
  check_unchanged(what, &want);
}

static void run_between(const char* what, const struct Case* c) {
  const struct Case plain = usual((c->cs & 3) == 3);
  run("usual, before", &plain);
  run(what, c);
  run(what, c);
  run("usual, behind", &plain);
}

static void flags(u32 ring) {
  group(ring ? "to ring 3" : "to ring 0");
  static const u32 values[] = {f_status,
                               f_cf,
                               f_of,
                               f_zf | f_pf,
                               f_sf | f_af,
                               f_df,
                               f_df | f_status,
                               f_if,
                               f_iopl,
                               f_id,
                               f_ac,
                               f_ac | f_id,
                               f_tf,
                               f_nt,
                               f_nt | f_status,
                               f_rf,
                               f_rf | f_if,
                               0,
                               f_iopl | f_if | f_of};
  for (u32 from = 0; from < 3; from++) {
    for (u32 i = 0; i < ARRAY_SIZE(values); i++) {
      struct Case c = usual(ring);
      c.cpu.eflags = f_fixed | (from == 1 ? f_status | f_df : from == 2 ? f_if | f_ac | f_id | f_iopl : 0);
      c.eflags |= values[i];
      run_between("flags", &c);
    }
  }
  for (u32 i = 0; i < 2; i++) {
    write_cr0(read_cr0() ^ cr0_am);
    struct Case c = usual(ring);
    c.eflags |= f_ac;
    run_between("AC and AM", &c);
  }
  for (u32 i = 0; i < 2; i++) {
    write_cr4(read_cr4() ^ cr4_tsd);
    struct Case c = usual(ring);
    run_between("TSD", &c);
  }
}

static void place(u32 number, u64 what) { gdt[free_slot / 8 + number] = what; }

static void segments(void) {
  group("segments");
  struct Kind {
    u8 access, flags;
    u32 code_vector, stack_vector;
  };
  // Of DPL 3, loaded with RPL 3.
  static const struct Kind kinds[] = {
      {0xFB, 0xC, vector_done, v_protection},   {0xFA, 0xC, vector_done, v_protection},  {0xF9, 0xC, vector_done, v_protection},
      {0xFB, 0xD, vector_done, v_protection},   {0xFF, 0xC, vector_done, v_protection},  {0x9B, 0xC, v_protection, v_protection},
      {0x7B, 0xC, v_not_present, v_protection}, {0xF3, 0xC, v_protection, vector_done},  {0xF2, 0xC, v_protection, vector_done},
      {0xF3, 0xD, v_protection, vector_done},   {0xF1, 0xC, v_protection, v_protection}, {0x93, 0xC, v_protection, v_protection},
      {0x73, 0xC, v_protection, v_stack},       {0xE3, 0xC, v_protection, v_protection}};
  for (u32 i = 0; i < ARRAY_SIZE(kinds); i++) {
    const u64 bytes = descriptor(0, 0xFFFFF, kinds[i].access, kinds[i].flags);
    for (u32 again = 0; again < 2; again++) {
      struct Case c = usual(3);
      place(0, bytes);
      c.cs = free_slot | 3;
      c.vector = kinds[i].code_vector;
      c.error = free_slot;
      run_between("code", &c);
      c = usual(3);
      place(0, bytes);
      c.ss = free_slot | 3;
      c.vector = kinds[i].stack_vector;
      c.error = free_slot;
      run_between("stack", &c);
      // The same under a selector that just worked.
      const u64 code = gdt[user_code / 8], data = gdt[user_data / 8];
      c = usual(3);
      gdt[user_code / 8] = bytes;
      c.vector = kinds[i].code_vector;
      c.error = user_code & ~3u;
      run("code, changed", &c);
      gdt[user_code / 8] = code;
      c = usual(3);
      gdt[user_data / 8] = bytes;
      c.vector = kinds[i].stack_vector;
      c.error = user_data & ~3u;
      // DS and its like are loaded before with what is not data any more.
      c.cpu.ds = c.cpu.es = c.cpu.fs = c.cpu.gs = 0;
      run("stack, changed", &c);
      gdt[user_data / 8] = data;
    }
  }
  static const struct {
    u32 cs, ss, error;
  } selectors[] = {{0, user_data, 0},
                   {3, user_data, 0},
                   {kernel_code | 3, user_data, kernel_code},
                   {user_data, user_data, user_data - 3},
                   {user_code, 0, 0},
                   {user_code, 3, 0},
                   {user_code, kernel_data, kernel_data},
                   {user_code, kernel_data | 3, kernel_data},
                   {user_code, user_data - 3, user_data - 3},
                   {user_code, user_data - 2, user_data - 3},
                   {user_code | 4, user_data, user_code + 1},
                   {user_code, user_data | 4, user_data + 1},
                   {0x203, user_data, 0x200},
                   {user_code, 0x203, 0x200},
                   {0xFFFB, user_data, 0xFFF8},
                   {user_code, 0xFFFB, 0xFFF8},
                   {user_code, tss_selector | 3, tss_selector},
                   {tss_selector | 3, user_data, tss_selector},
                   {kernel_data, user_data, kernel_data},
                   {ring1_code, user_data, 0}};
  for (u32 i = 0; i + 1 < ARRAY_SIZE(selectors); i++) {
    struct Case c = usual(3);
    c.cs = selectors[i].cs;
    c.ss = selectors[i].ss;
    c.vector = v_protection;
    c.error = selectors[i].error;
    run_between("selector", &c);
  }
  // Data segments: NULL with an RPL, of an inner ring, in each register.
  static const u16 data[] = {user_data, 0, 3, 1, kernel_data, ring1_data};
  for (u32 i = 0; i < 4 * ARRAY_SIZE(data); i++) {
    struct Case c = usual(3);
    const u32 value = data[i / 4];
    if (i % 4 == 0) c.cpu.ds = value;
    if (i % 4 == 1) c.cpu.es = value;
    if (i % 4 == 2) c.cpu.fs = value;
    if (i % 4 == 3) c.cpu.gs = value;
    run_between("data segment", &c);
  }
  // Conforming code may stay, whatever its DPL.
  struct Case c = usual(3);
  place(1, descriptor(0, 0xFFFFF, 0x9F, 0xC));
  c.cpu.fs = free_slot + 8;
  const u32 items[] = {c.eip, c.cs, c.eflags, c.esp, c.ss};
  memcpy((void*)c.cpu.esp, items, sizeof(items));
  run_cpu(&c.cpu);
  check_done("conforming");
  check("fs", trap.cpu.fs, free_slot + 8);
  // Within ring 0.
  static const struct Kind inner[] = {{0x9B, 0xC, vector_done, 0},   {0x9A, 0xC, vector_done, 0}, {0x99, 0xC, vector_done, 0},
                                      {0x9B, 0xD, vector_done, 0},   {0x9F, 0xC, vector_done, 0}, {0xFB, 0xC, v_protection, 0},
                                      {0x1B, 0xC, v_not_present, 0}, {0x93, 0xC, v_protection, 0}};
  for (u32 i = 0; i < ARRAY_SIZE(inner); i++) {
    for (u32 again = 0; again < 2; again++) {
      c = usual(0);
      place(0, descriptor(0, 0xFFFFF, inner[i].access, inner[i].flags));
      c.cs = free_slot;
      c.vector = inner[i].code_vector;
      c.error = free_slot;
      run_between("inner code", &c);
    }
  }
}

static void frames(void) {
  group("frames");
  for (u32 ring = 0; ring < 4; ring += 3) {
    for (u32 below = 0; below <= 24; below++) {
      struct Case c = usual(ring);
      c.cpu.esp = middle - below;
      run_between("at a page's end", &c);
    }
  }
  // Limits of code are compared with EIP.
  for (u32 ring = 0; ring < 4; ring += 3) {
    struct Case c = usual(ring);
    place(0, descriptor(0, (u32)land / page_bytes - 1, ring ? 0xFB : 0x9B, 0xC));
    c.cs = free_slot | ring;
    c.vector = v_protection;
    run_between("EIP beyond the limit", &c);
  }
}

static void tables(void) {
  group("tables");
  struct Case c = usual(3);
  static u64 copy[gdt_entries + 1] __attribute__((aligned(8)));
  for (u32 shift = 0; shift < 8; shift += 3) {
    memcpy((u8*)copy + shift, gdt, sizeof(gdt));
    load_gdt((u32)copy + shift, sizeof(gdt) - 1);
    run("a GDT elsewhere", &c);
    run("a GDT elsewhere", &c);
    own_gdt();
    run("usual", &c);
  }
  // Up to the last byte of the stack's descriptor, and less. (Vectors lead to kernel code.)
  for (u32 limit = user_data + 4; limit >= user_data + 3; limit--) {
    load_gdt((u32)gdt, (u16)limit);
    c.vector = limit == user_data + 4 ? vector_done : v_protection;
    c.error = user_data & ~3u;
    c.cpu.ds = c.cpu.es = c.cpu.fs = c.cpu.gs = 0;
    run("short GDT", &c);
    run("short GDT", &c);
  }
  own_gdt();
}

static void breakpoint(void) {
  group("breakpoint");
  for (u32 ring = 0; ring < 4; ring += 3) {
    for (u32 i = 0; i < 6; i++) {
      struct Case c = usual(ring);
      write_dr0((u32)land);
      write_dr7(i < 4 ? dr7_fixed | 2 : dr7_fixed);
      const bool held = i % 2 == 0;
      if (held) c.eflags |= f_rf;
      if (held || i >= 4) {
        run("RF, or no breakpoint", &c);
      } else {
        const u32 items[] = {c.eip, c.cs, c.eflags, c.esp, c.ss};
        memcpy((void*)c.cpu.esp, items, ring ? 20 : 12);
        run_cpu(&c.cpu);
        check_trap("hit", v_debug, 0, land);
      }
      write_dr7(dr7_fixed);
    }
  }
}

static u32 met;
static bool note(struct Frame* frame) {
  met = frame->eip;
  pic_eoi(0);
  pic_mask(0);
  return true;
}

static void interrupt(void) {
  group("interrupt");
  pic_init();
  set_hook(irq_base, note);
  for (u32 ring = 0; ring < 4; ring += 3) {
    for (u32 i = 0; i < 6; i++) {
      struct Case c = usual(ring);
      run("nothing waits", &c);
      pit_oneshot(20);
      wait_irr(1);
      pic_unmask(0);
      met = 0;
      if (i % 2 == 0) {
        run("masked by IF", &c);
        check("no interrupt", met, 0);
      }
      c.eflags |= f_if;
      if (i % 3 == 0) c.eflags |= f_rf;
      run("taken", &c);
      check("before the first instruction", met, (u32)land);
    }
  }
}

void guest_main(void) {
  descriptors_init();
  middle = (u32)area + 2 * page_bytes;
  flags(3);
  flags(0);
  segments();
  frames();
  tables();
  breakpoint();
  interrupt();
  finish();
}
