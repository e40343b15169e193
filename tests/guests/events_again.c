// INT n, page faults and other exceptions between usual ones, again and again at one place, from ring 3 and ring 0: flags in the frame and
// in the handler, gates, segments and stacks of every kind, frames at and across a page's end, a TSS and an IDT that are short, moved or
// misaligned, a data breakpoint on the frame.
//
// qemu: deviates (faults push no RF, and offsets are compared with no limit)
//
// expect:
//   flags: ok
//   gates: ok
//   handler's segments: ok
//   stacks: ok
//   frames: ok
//   tables: ok
//   breakpoints: ok
//   registers: ok
// end
#include "lib/guest.h"

enum { vector = 0x60, free_slot = 0x48, hole = 0x40000000, dr7_fixed = 0x400, task_slot = 0x58 };
static void write_dr0(u32 value) { __asm__ volatile("mov %0, %%dr0" ::"r"(value)); }
static void write_dr7(u32 value) { __asm__ volatile("mov %0, %%dr7" ::"r"(value)); }

SNIPPET(call_it, "nop\n" LABEL(int_at) "int 0x60\n" LABEL(behind_int));
SNIPPET(touch_it, "push ecx\npush ecx\npop ecx\n" LABEL(load_at) "add eax, [esi]\n" DONE);
SNIPPET(push_it, "push ecx\n" LABEL(push_at) "push dword ptr [esi]\n" DONE);
SNIPPET(store_it, LABEL(store_at) "mov [esi+8], edx\n" DONE);
SNIPPET(divide_it, "nop\n" LABEL(divide_at) "div ebp\n" DONE);
SNIPPET(select_it, "nop\n" LABEL(select_at) "mov fs, edx\n" DONE);
extern const u8 divide_at[], select_at[];
extern const u8 int_at[], behind_int[], load_at[], push_at[], store_at[];
// Notes what it finds, then the usual way.
#define HANDLER(name, number)                                                                                   \
  SNIPPET(name,                                                                                                 \
          "mov handler_esp, esp\npushfd\npop dword ptr handler_flags\nmov handler_cs, cs\nmov handler_ss, ss\n" \
          "jmp dword ptr [trap_entries + 4 * " number "]\n")
HANDLER(on_int, "0x60");
HANDLER(on_page, "14");
HANDLER(on_divide, "0");
HANDLER(on_protection, "13");
u32 handler_esp, handler_flags;
u16 handler_cs, handler_ss;
extern const u32 trap_entries[256];

static struct Space space;
static u8 area[3 * page_bytes] __attribute__((aligned(4096)));
static u32 middle;

enum Kind { interrupt, load, push, store, divide, selector, kinds };

struct Case {
  enum Kind kind;
  struct Cpu cpu;
  u32 esp0;
  u32 cs;  // of the handler
  u32 type;
  u32 vector, error;  // for INT, if it is refused; page faults then make a double fault
};

static struct Case usual(enum Kind kind, u32 ring) {
  static const u8* const code[] = {call_it, touch_it, push_it, store_it, divide_it, select_it};
  struct Case c = {.kind = kind, .cpu = ring_cpu(ring, code[kind]), .esp0 = tss.esp0, .cs = kernel_code, .type = 0xEE};
  c.cpu.eax = 0x11111111, c.cpu.ebx = 0x22222222, c.cpu.ecx = 0x33333333, c.cpu.edx = 0x44444444;
  c.cpu.esi = hole + 0x10, c.cpu.edi = 0x66666666, c.cpu.ebp = kind == divide ? 0 : 0x77777777;
  return c;
}

static const u32 vectors[] = {vector, v_page, v_page, v_page, v_divide, v_protection};
static const u8* const handlers[] = {on_int, on_page, on_page, on_page, on_divide, on_protection};
static void set_gate(const struct Case* c) { idt[vectors[c->kind]] = gate((u16)c->cs, (u32)handlers[c->kind], (u8)c->type); }
static bool has_error(enum Kind kind) { return kind != interrupt && kind != divide; }

static void run(const char* what, const struct Case* c) {
  static const u8* const at[] = {behind_int, load_at, push_at, store_at, divide_at, select_at};
  struct Cpu cpu = c->cpu;
  const bool fault = c->kind != interrupt, outer = (cpu.cs & 3) != 0;
  set_gate(c);
  handler_esp = handler_flags = 0;
  run_cpu(&cpu);
  struct Cpu want = cpu;
  if (c->kind == load || c->kind == push) want.esp -= 4;
  if (!outer) want.esp = trap.cpu.esp;  // that of the frame is told by handler_esp
  want.eip = (u32)at[c->kind];
  if (c->vector) {
    if (c->kind == interrupt) want.eip = (u32)int_at;
    check_trap(what, fault ? v_double : c->vector, fault ? 0 : c->error, (const void*)want.eip);
    check_unchanged(what, &want);
    return;
  }
  const bool wide = (c->type & 8) != 0;
  u32 items = (outer ? 5 : 3) + (has_error(c->kind) ? 1 : 0);
  if (c->kind == interrupt || c->kind == divide)
    check_trap(what, vectors[c->kind], 0, at[c->kind]);
  else if (c->kind == selector)
    check_trap(what, v_protection, cpu.edx & 0xFFFC, select_at);
  else
    check_page_fault(what, (c->kind == store ? e_write : 0) | (outer ? e_user : 0), cpu.esi + (c->kind == store ? 8 : 0), at[c->kind]);
  check_unchanged(what, &want);
  check("RF", trap.cpu.eflags & f_rf, fault ? f_rf : 0);
  check("esp", handler_esp, (outer ? c->esp0 : cpu.esp - (c->kind == load || c->kind == push ? 4 : 0)) - 4 * items);
  check("flags", handler_flags, (cpu.eflags & ~(u32)(f_tf | f_nt | f_rf | ((c->type & 1) == 0 ? f_if : 0))));
  check("cs", handler_cs, c->cs & ~3u);
  check("ss", handler_ss, kernel_data);
}

static void run_between(const char* what, const struct Case* c) {
  const struct Case plain = usual(c->kind, c->cpu.cs & 3);
  run("usual, before", &plain);
  run(what, c);
  run(what, c);
  run("usual, behind", &plain);
}

#define EACH                              \
  for (u32 ring = 0; ring < 4; ring += 3) \
    for (enum Kind kind = 0; kind < kinds; kind++)

static void flags(void) {
  group("flags");
  static const u32 values[] = {0,           f_status,
                               f_cf,        f_of,
                               f_zf | f_pf, f_sf | f_af,
                               f_df,        f_df | f_status,
                               f_if,        f_iopl,
                               f_id,        f_ac,
                               f_nt,        f_nt | f_if | f_iopl | f_of};
  EACH for (u32 i = 0; i < ARRAY_SIZE(values); i++) for (u32 trap_gate = 0; trap_gate < 2; trap_gate++) {
    struct Case c = usual(kind, ring);
    c.cpu.eflags |= values[i];
    c.type += trap_gate;
    if ((values[i] & f_nt) != 0 && ring == 0) continue;  // IRET to the code would be one from a nested task
    run_between("flags", &c);
  }
}

static void gates(void) {
  group("gates");
  static const struct {
    u8 type;
    u32 vector;
  } types[] = {{0x8E, 0},
               {0x8F, 0},
               {0xAE, 0},
               {0x6E, v_not_present},
               {0x6F, v_not_present},
               {0xEC, v_protection},
               {0xE9, v_protection},
               {0xFE, v_protection},
               {0xF3, v_protection}};
  EACH for (u32 i = 0; i < ARRAY_SIZE(types); i++) {
    struct Case c = usual(kind, ring);
    c.type = types[i].type;
    c.vector = types[i].vector;
    if (ring == 3 && (c.type & 0x60) != 0x60) c.vector = kind == interrupt ? v_protection : 0;
    c.error = vector * 8 + 2;
    run_between("type", &c);
  }
}

static void segments(void) {
  group("handler's segments");
  static const struct {
    u8 access, flags;
    u32 vector;
  } codes[] = {
      {0x9B, 0xC, 0},           {0x9A, 0xC, 0}, {0x99, 0xC, 0}, {0x9B, 0xD, 0}, {0x1B, 0xC, v_not_present}, {0x93, 0xC, v_protection},
      {0x89, 0xC, v_protection}};
  EACH {
    for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
      for (u32 changed = 0; changed < 2; changed++) {
        struct Case c = usual(kind, ring);
        gdt[free_slot / 8] = descriptor(0, 0xFFFFF, codes[i].access, codes[i].flags);
        c.cs = free_slot | changed;
        c.vector = codes[i].vector;
        c.error = free_slot;
        run_between("code", &c);
      }
    }
    static const struct {
      u16 selector;
      u32 error;
    } others[] = {{0, 0}, {3, 0}, {kernel_code | 4, kernel_code | 4}, {kernel_data, kernel_data}, {0x200, 0x200}, {0xFFF8, 0xFFF8}};
    for (u32 i = 0; i < ARRAY_SIZE(others); i++) {
      struct Case c = usual(kind, ring);
      c.cs = others[i].selector;
      c.vector = v_protection;
      c.error = others[i].error;
      run_between("selector", &c);
    }
    struct Case c = usual(kind, ring);
    gdt[free_slot / 8] = descriptor(0, (u32)on_int / page_bytes - 1, 0x9B, 0xC);
    c.cs = free_slot;
    c.vector = v_protection;
    run_between("beyond the limit", &c);
  }
}

// INT from ring 3, and the double fault's handler needs the same stack: only where the stack can be had in the end.
static void stacks(void) {
  group("stacks");
  const u32 old = tss.esp0;
  for (enum Kind kind = 0; kind < kinds; kind++) {
    static const struct { u8 access, flags; } datas[] = {{0x93, 0xC}, {0x92, 0xC}, {0x93, 0xD}};
    for (u32 i = 0; i < ARRAY_SIZE(datas); i++) {
      struct Case c = usual(kind, 3);
      run("usual", &c);
      gdt[free_slot / 8] = descriptor(0, 0xFFFFF, datas[i].access, datas[i].flags);
      tss.ss0 = free_slot;
      struct Cpu cpu = c.cpu;
      for (u32 again = 0; again < 2; again++) {
        set_gate(&c);
        run_cpu(&cpu);
        check("ss", handler_ss, free_slot);
        check("accessed", (u32)(gdt[free_slot / 8] >> 40) & 1, 1);
      }
      tss.ss0 = kernel_data;
      run("usual", &c);
    }
    // A whole page, and misaligned: the frame may end anywhere.
    for (u32 below = 0; below <= 28; below++) {
      tss.esp0 = middle - below;
      struct Case c = usual(kind, 3);
      run("esp0", &c);
      tss.esp0 = middle + below;
      c.esp0 = tss.esp0;
      run("esp0", &c);
      tss.esp0 = old;
      c.esp0 = old;
      run("usual", &c);
    }
    // The TSS may be anywhere, too, and short.
    static u8 tasks[3 * page_bytes] __attribute__((aligned(4096)));
    for (u32 i = 0; i < 12; i++) {
      const u32 base = (u32)tasks + page_bytes - i;
      memcpy((void*)base, &tss, 104);
      gdt[task_slot / 8] = descriptor(base, i % 2 ? 103 : 9, 0x89, 0);
      load_task(task_slot);
      struct Case c = usual(kind, 3);
      if (kind == interrupt || i % 2) run("TSS", &c);
      gdt[tss_selector / 8] &= ~(2ull << 40);
      load_task(tss_selector);
      run("usual", &c);
    }
  }
  // Within ring 0.
  for (enum Kind kind = 0; kind < kinds; kind++) {
    for (u32 below = 0; below <= 28; below++) {
      struct Case c = usual(kind, 0);
      c.cpu.esp = middle - below;
      run("esp", &c);
      c.cpu.esp = middle + below + 24;
      run("esp", &c);
    }
  }
}

// Bytes of the frame, and what is beside it.
static void frames(void) {
  group("frames");
  EACH for (u32 again = 0; again < 4; again++) {
    struct Case c = usual(kind, ring);
    set_gate(&c);
    u32* const top = (u32*)(middle - 0x100);
    for (u32 i = 0; i < 16; i++) top[(i32)i - 12] = 0xA5A5A5A5;
    const u32 old = tss.esp0;
    tss.esp0 = (u32)top;
    if (ring == 0) c.cpu.esp = (u32)top;
    c.cpu.eflags |= f_cf | f_id;
    handler_esp = 0;
    run_cpu(&c.cpu);
    tss.esp0 = old;
    const u32* const frame = (const u32*)handler_esp;
    u32 n = 0;
    if (has_error(kind)) check("error", frame[n++], kind == selector ? 0x4444 : (kind == store ? e_write : 0) | (ring ? e_user : 0));
    n++;
    check("cs", frame[n++], ring ? user_code : kernel_code);
    check("flags", frame[n++], c.cpu.eflags | (kind == interrupt ? 0 : f_rf));
    if (ring) {
      check("esp", frame[n++], c.cpu.esp - (kind == load || kind == push ? 4 : 0));
      check("ss", frame[n++], user_data);
      check("above", frame[n], 0xA5A5A5A5);
    }
  }
}

static void tables(void) {
  group("tables");
  static u64 copy[257] __attribute__((aligned(8)));
  EACH for (u32 shift = 0; shift < 8; shift += 3) {
    struct Case c = usual(kind, ring);
    run("usual", &c);
    memcpy((u8*)copy + shift, idt, sizeof(idt));
    load_idt((u8*)copy + shift, sizeof(idt) - 1);
    run("an IDT elsewhere", &c);
    run("an IDT elsewhere", &c);
    load_idt(idt, sizeof(idt) - 1);
    run("usual", &c);
  }
  for (u32 ring = 0; ring < 4; ring += 3) {
    for (u32 limit = vector * 8 + 8; limit >= vector * 8 + 6; limit--) {
      struct Case c = usual(interrupt, ring);
      run("usual", &c);
      load_idt(idt, (u16)limit);
      if (limit < vector * 8 + 7) c.vector = v_protection, c.error = vector * 8 + 2;
      run("short IDT", &c);
      load_idt(idt, sizeof(idt) - 1);
    }
    for (u32 limit = kernel_data + 8; limit >= kernel_data + 7; limit--) {
      struct Case c = usual(interrupt, ring);
      run("usual", &c);
      c.cpu.ds = c.cpu.es = c.cpu.fs = c.cpu.gs = ring ? user_data : kernel_data;
      run("usual", &c);
      own_gdt();
    }
  }
}

static void breakpoints(void) {
  group("breakpoints");
  EACH for (u32 i = 0; i < 3; i++) {
    struct Case c = usual(kind, ring);
    if (ring == 0 && kind != load && kind != push) continue;  // run_cpu writes where the frame will be
    run("usual", &c);
    const u32 old = tss.esp0;
    tss.esp0 = middle - 0x100;
    if (ring == 0) c.cpu.esp = middle - 0x100;
    set_gate(&c);
    write_dr0(middle - (ring == 0 ? 0x114 : 0x10C));
    write_dr7(dr7_fixed | 2 | 0xD0000);
    run_cpu(&c.cpu);
    write_dr7(dr7_fixed);
    tss.esp0 = old;
    check_trap("frame", v_debug, 0, handlers[kind]);
    run("usual", &c);
  }
}

// Nothing but the frame changes, whatever the registers hold.
static void registers(void) {
  group("registers");
  u32 state = 0x12345;
  EACH for (u32 i = 0; i < 50; i++) {
    struct Case c = usual(kind, ring);
    c.cpu.eax = next_random(&state), c.cpu.ebx = next_random(&state), c.cpu.ecx = next_random(&state);
    c.cpu.edx = next_random(&state) | 0x8004, c.cpu.edi = next_random(&state), c.cpu.ebp = kind == divide ? 0 : next_random(&state);
    c.cpu.esi = hole + (next_random(&state) & 0xFF0);
    c.cpu.eflags |= next_random(&state) & (f_status | f_df);
    run("registers", &c);
  }
}

void guest_main(void) {
  descriptors_init();
  middle = (u32)area + 2 * page_bytes;
  space = new_space(false);
  map(&space, hole + page_bytes, new_page() | p_present | p_write | p_user);
  use_space(&space);
  flags();
  gates();
  segments();
  stacks();
  frames();
  tables();
  breakpoints();
  registers();
  finish();
}
