// I/O breakpoints (SDM vol. 3, 17.2.4 and 17.3.1.2; CR4.DE): every instruction that accesses ports, the lengths with their alignment mask;
// the trap comes after the access, for repeated string instructions after each iteration. Port 80h and its neighbours: nobody is there.
//
// qemu: deviates in "lengths and alignment" (compares the first port alone, and the breakpoint's unaligned)
// qemu: deviates in "string instructions" (a REP reports once, before its element)
// qemu: deviates in "with other traps" (one at a time)
//
// expect:
//   lengths and alignment: ok
//   string instructions: ok
//   with other traps: ok
//   permission comes first: ok
// end
#include "lib/debug.h"

static u8 buffer[64] __attribute__((aligned(64)));

SNIPPET(in8, "in al, dx\n" LABEL(in8_after) "nop\n" DONE);
SNIPPET(in16, "in ax, dx\n" LABEL(in16_after) "nop\n" DONE);
SNIPPET(in32, "in eax, dx\n" LABEL(in32_after) "nop\n" DONE);
SNIPPET(out8, "out dx, al\n" LABEL(out8_after) "nop\n" DONE);
SNIPPET(out16, "out dx, ax\n" LABEL(out16_after) "nop\n" DONE);
SNIPPET(out32, "out dx, eax\n" LABEL(out32_after) "nop\n" DONE);
SNIPPET(in_imm, "in al, 0x80\n" LABEL(in_imm_after) "nop\n" DONE);
SNIPPET(out_imm, "out 0x80, al\n" LABEL(out_imm_after) "nop\n" DONE);
SNIPPET(outsb_1, "outsb\n" LABEL(outsb_1_after) "nop\n" DONE);
SNIPPET(insd_1, "insd\n" LABEL(insd_1_after) "nop\n" DONE);
SNIPPET(rep_outsb, "rep outsb\n" LABEL(rep_outsb_after) "nop\n" DONE);
SNIPPET(rep_insb, "rep insb\n" LABEL(rep_insb_after) "nop\n" DONE);
extern const u8 in8_after[], in16_after[], in32_after[], out8_after[], out16_after[], out32_after[], in_imm_after[], out_imm_after[],
    outsb_1_after[], insd_1_after[], rep_outsb_after[], rep_insb_after[];

static struct Cpu cpu_for(const u8* code, u32 port, bool ring0) {
  struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
  if (!ring0) cpu.eflags |= f_iopl;
  cpu.edx = port;
  cpu.esi = (u32)buffer;
  cpu.edi = (u32)buffer + 32;
  cpu.ecx = 3;
  return cpu;
}

static void lengths(void) {
  static const struct {
    const u8 *code, *after;
    u32 size;
  } accesses[] = {{in8, in8_after, 1}, {in16, in16_after, 2}, {in32, in32_after, 4}, {out8, out8_after, 1}, {out16, out16_after, 2},
                  {out32, out32_after, 4}};
  static const struct {
    u32 code, bytes;
  } kinds[] = {{length_1, 1}, {length_2, 2}, {length_4, 4}};
  u32 round = 0;
  for (u32 a = 0; a < ARRAY_SIZE(accesses); a++)
    for (u32 k = 0; k < ARRAY_SIZE(kinds); k++)
      for (u32 at = 0x84; at < 0x87; at++)
        for (u32 port = 0x81; port <= 0x88; port++) {
          u32 first = at & ~(kinds[k].bytes - 1);
          bool hit = port < first + kinds[k].bytes && first < port + accesses[a].size;
          u32 n = round++ & 3;
          struct Cpu cpu = cpu_for(accesses[a].code, port, round & 8);
          start_log();
          no_breakpoints();
          breakpoint(n, at, on_io, kinds[k].code);
          run_cpu(&cpu);
          no_breakpoints();
          check_done("access");
          check("hits", event_count, hit);
          if (hit) check_event("trap", 0, accesses[a].after, 1u << n, 0);
        }
  // Data breakpoints with the port's number, and I/O breakpoints above the ports, are something else.
  for (u32 i = 0; i < 3; i++) {
    static const struct {
      u32 at, on;
    } others[] = {{0x80, on_write}, {0x80, on_access}, {0x10080, on_io}};
    struct Cpu cpu = cpu_for(out8, 0x80, true);
    start_log();
    breakpoint(i, others[i].at, others[i].on, length_1);
    run_cpu(&cpu);
    no_breakpoints();
    check_events("not this port", 0);
  }
  for (u32 i = 0; i < 2; i++) {
    struct Cpu cpu = cpu_for(i ? in_imm : out_imm, 0, true);
    start_log();
    breakpoint(0, 0x80, on_io, length_1);
    run_cpu(&cpu);
    no_breakpoints();
    check_events("port in the instruction", 1);
    check_event("port in the instruction", 0, i ? in_imm_after : out_imm_after, 1, 0);
  }
}

static void string_instructions(void) {
  for (u32 i = 0; i < 2; i++) {
    struct Cpu cpu = cpu_for(i ? insd_1 : outsb_1, 0x80, i);
    start_log();
    breakpoint(i, 0x80, on_io, length_1);
    run_cpu(&cpu);
    no_breakpoints();
    check_events("one element", 1);
    check_event("one element", 0, i ? insd_1_after : outsb_1_after, 1u << i, 0);
    cpu = cpu_for(i ? rep_insb : rep_outsb, 0x80, i);
    start_log();
    breakpoint(i, 0x80, on_io, length_1);
    run_cpu(&cpu);
    no_breakpoints();
    check_done("repeated");
    check_events("each of three", 3);
    for (u32 n = 0; n < 3; n++) {
      check_event("each", n, n < 2 ? (i ? rep_insb : rep_outsb) : (i ? rep_insb_after : rep_outsb_after), 1u << i, n < 2 ? f_rf : 0);
      check("ecx", events[n].ecx, 2 - n);
    }
  }
}

static void other_traps(void) {
  struct Cpu cpu = cpu_for(insd_1, 0x80, false);
  start_log();
  breakpoint(0, 0x80, on_io, length_1);
  breakpoint(1, (u32)buffer + 32, on_write, length_1);
  breakpoint(2, 0x80, on_io, length_4);
  run_cpu(&cpu);
  check_events("one trap", 1);
  check_event("port and memory", 0, insd_1_after, 7, 0);
  start_log();
  hook_clears = f_tf;
  cpu.eflags |= f_tf;
  run_cpu(&cpu);
  hook_clears = 0;
  check_events("and the single step", 1);
  check_event("port, memory and step", 0, insd_1_after, dr6_bs | 7, 0);
  no_breakpoints();
}

static void permission(void) {
  memset(tss.io_map, 0xFF, sizeof(tss.io_map));
  struct Cpu cpu = cpu_for(out8, 0x80, false);
  cpu.eflags &= ~(u32)f_iopl;
  start_log();
  breakpoint(0, 0x80, on_io, length_1);
  run_cpu(&cpu);
  check_trap("refused", v_protection, 0, out8);
  check_events("no access, no trap", 0);
  no_breakpoints();
}

void guest_main(void) {
  descriptors_init();
  set_hook(v_debug, log_debug);
  write_cr4(read_cr4() | cr4_de);
  group("lengths and alignment");
  lengths();
  group("string instructions");
  string_instructions();
  group("with other traps");
  other_traps();
  group("permission comes first");
  permission();
}
