// CLI, STI, PUSHF and POPF in protected mode: every ring with every IOPL, both operand sizes, every flag of the image by itself, and the
// faults of their stack accesses. What changes is computed from the pseudo-code of SDM vol. 2, POPF and STI, and vol. 3, 2.3.
//
// qemu: deviates in "stack faults" (no limits are checked on data accesses)
// qemu: deviates in "LOCK" (it is taken)
//
// expect:
//   CLI and STI: ok
//   LOCK: ok
//   PUSHF: ok
//   POPF, 32 bits: ok
//   POPF, 16 bits: ok
//   POPF and TF: ok
//   stack faults: ok
// end
#include "lib/guest.h"

enum { slot = 0x80, f_vm = 0x20000, f_vif = 0x80000, f_vip = 0x100000 };

SNIPPET(do_cli, "cli\n" DONE);
SNIPPET(do_sti, "sti\n nop\n" DONE);
SNIPPET(lock_cli, ".byte 0xF0, 0xFA\n" DONE);
SNIPPET(lock_sti, ".byte 0xF0, 0xFB\n" DONE);
SNIPPET(lock_popf, ".byte 0xF0, 0x9D\n" DONE);
SNIPPET(lock_pushf, ".byte 0xF0, 0x9C\n" DONE);

static void cli_and_sti(void) {
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 iopl = 0; iopl < 4; iopl++) {
      for (u32 before = 0; before < 2; before++) {
        for (u32 set = 0; set < 2; set++) {
          const u8* code = set ? do_sti : do_cli;
          struct Cpu cpu = ring_cpu(ring, code);
          cpu.eflags |= iopl << 12 | (before ? f_if : 0) | f_status | f_df | f_nt | f_id;
          run_cpu(&cpu);
          if (ring > iopl) {
            check_trap("refused", v_protection, 0, code);
          } else {
            check_done("allowed");
            cpu.eflags = set ? cpu.eflags | f_if : cpu.eflags & ~(u32)f_if;
          }
          check_unchanged("flags", &cpu);
        }
      }
    }
  }
}

static void locked(void) {
  static const u8* const undefined[] = {lock_cli, lock_sti, lock_popf, lock_pushf};
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < ARRAY_SIZE(undefined); i++) {
      struct Cpu cpu = ring_cpu(ring, undefined[i]);
      run_cpu(&cpu);
      check_trap("LOCK", v_opcode, 0, undefined[i]);
      check_unchanged("LOCK", &cpu);
    }
  }
}

SNIPPET(push_both, "pushfd\n pop ebx\n pushfw\n pop cx\n" DONE);

static void pushf(void) {
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 iopl = 0; iopl < 4; iopl++) {
      static const u32 flags[] = {0, f_status, f_df, f_if, f_nt, f_ac, f_id, f_rf, f_status | f_df | f_if | f_nt | f_ac | f_id};
      for (u32 i = 0; i < ARRAY_SIZE(flags); i++) {
        struct Cpu cpu = ring_cpu(ring, push_both);
        cpu.eflags |= flags[i] | iopl << 12;
        cpu.ecx = 0xEEEE0000;
        run_cpu(&cpu);
        check_done("pushf");
        check("pushfd", trap.cpu.ebx, cpu.eflags & ~(u32)f_rf);  // RF and VM read as 0
        check("pushfw", trap.cpu.ecx, 0xEEEE0000 | (cpu.eflags & 0xFFFF));
        cpu.ebx = trap.cpu.ebx;
        cpu.ecx = trap.cpu.ecx;
        cpu.eflags &= ~(u32)f_rf;
        check_unchanged("nothing else", &cpu);
      }
    }
  }
}

SNIPPET(pop32, "popfd\n" DONE);
SNIPPET(pop16, "popfw\n" DONE);

static u32 expected(u32 old, u32 image, u32 ring, bool wide) {
  u32 iopl = old >> 12 & 3;
  u32 writable = f_status | f_tf | f_df | f_nt;
  if (wide) writable |= f_ac | f_id;
  if (ring == 0)
    writable |= f_if | f_iopl;
  else if (ring <= iopl)
    writable |= f_if;
  return (old & ~writable & ~(u32)f_rf) | (image & writable);
}

static void one(u32 ring, u32 iopl, u32 start, u32 image, bool wide) {
  struct Cpu cpu = ring_cpu(ring, wide ? pop32 : pop16);
  cpu.eflags |= start | iopl << 12;
  cpu.esp -= 16;
  ((u32*)cpu.esp)[0] = image;
  run_cpu(&cpu);
  check_done("popf");
  u32 want = expected(cpu.eflags, image, ring, wide);
  bool good = check("flags", trap.cpu.eflags, want);
  cpu.eflags = want;
  cpu.esp += wide ? 4 : 2;
  good &= check_unchanged("nothing else", &cpu);
  if (!good && showing_failures()) printf("       ring %u, iopl %u, start %x, image %x\n", ring, iopl, start, image);
}

static void popf(bool wide) {
  const u32 all = f_status | f_df | f_if | f_nt | f_ac | f_id;
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 iopl = 0; iopl < 4; iopl++) {
      for (u32 bit = 0; bit < 32; bit++) {
        if (bit == 8) continue;  // TF: below
        one(ring, iopl, 0, 1u << bit, wide);
        one(ring, iopl, all, ~(1u << bit) & ~(u32)f_tf, wide);
        one(ring, iopl, f_rf, 1u << bit, wide);
      }
      for (u32 new_iopl = 0; new_iopl < 4; new_iopl++) {
        one(ring, iopl, 0, new_iopl << 12 | f_if, wide);
        one(ring, iopl, f_if, new_iopl << 12, wide);
      }
    }
  }
}

// A TF that POPF sets traps behind the next instruction, one that it clears still traps behind POPF (vol. 3, 17.3.1.4).
SNIPPET(pop32_nops, "popfd\n nop\n nop\n" DONE);

static void single_step(void) {
  for (u32 ring = 0; ring < 4; ring += 3) {
    for (u32 before = 0; before < 2; before++) {
      for (u32 after = 0; after < 2; after++) {
        struct Cpu cpu = ring_cpu(ring, pop32_nops);
        cpu.eflags |= before ? f_tf : 0;
        cpu.esp -= 16;
        *(u32*)cpu.esp = after ? f_tf : 0;
        run_cpu(&cpu);
        if (!before && !after)
          check_done("no TF");
        else
          check_trap("single step", v_debug, 0, pop32_nops + (before ? 1 : 2));
        if (trap.vector == v_debug) check("TF of the image", trap.cpu.eflags & f_tf, after ? f_tf : 0);
      }
    }
  }
}

SNIPPET(push32, "pushfd\n" DONE);
SNIPPET(push16, "pushfw\n" DONE);

static void stack_faults(void) {
  enum { window = 0x40000000 };
  static const struct {
    const u8* code;
    u32 size;
    bool push;
  } rows[] = {{pop32, 4, false}, {pop16, 2, false}, {push32, 4, true}, {push16, 2, true}};
  struct Space space = new_space(false);
  map(&space, window, new_page() | p_present | p_write | p_user);
  map(&space, window + page_bytes, 0);
  map(&space, window - page_bytes, 0);
  use_space(&space);
  gdt[slot / 8] = descriptor(window, 0x7FF, 0xF3, 4);
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    // Pages: the border, from both sides.
    for (u32 inside = 0; inside <= rows[i].size; inside++) {
      struct Cpu cpu = user_cpu(rows[i].code);
      cpu.eflags |= f_status | f_nt;
      cpu.esp = rows[i].push ? window + inside : window + page_bytes - inside;
      run_cpu(&cpu);
      if (inside == rows[i].size) {
        check_done("inside the page");
        continue;
      }
      u32 at = rows[i].push ? window + inside - rows[i].size : window + page_bytes;
      check_page_fault("page", rows[i].push ? 6 : 4, at, rows[i].code);
      check_unchanged("page", &cpu);
    }
    // The limit of SS.
    for (u32 past = 0; past < 3; past++) {
      struct Cpu cpu = user_cpu(rows[i].code);
      cpu.eflags |= f_status | f_nt;
      cpu.ss = slot | 3;
      cpu.esp = 0x800 - (rows[i].push ? 0 : rows[i].size) + past;
      run_cpu(&cpu);
      if (past == 0) {
        check_done("inside the limit");
        continue;
      }
      check_trap("limit", v_stack, 0, rows[i].code);
      check_unchanged("limit", &cpu);
    }
  }
  paging_off();
}

void guest_main(void) {
  descriptors_init();
  group("CLI and STI");
  cli_and_sti();
  group("LOCK");
  locked();
  group("PUSHF");
  pushf();
  group("POPF, 32 bits");
  popf(true);
  group("POPF, 16 bits");
  popf(false);
  group("POPF and TF");
  single_step();
  group("stack faults");
  stack_faults();
  finish();
}
