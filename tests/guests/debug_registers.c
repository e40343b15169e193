// The debug registers themselves: what can be written and what is fixed, DR4 and DR5, CR4.DE, general detect, privilege
// (SDM vol. 3, 17.2.1 to 17.2.4 and 2.5; vol. 2, MOV to and from debug registers).
//
// qemu: deviates in "general detect" (TCG knows no GD)
// qemu: deviates in "fixed bits" (TCG stores all of DR6 and DR7)
//
// expect:
//   fixed bits: ok
//   DR4 and DR5: ok
//   general detect: ok
//   privilege: ok
// end
#include "lib/debug.h"

static void fixed_bits(void) {
  check("CPUID announces DE", cpuid(1).edx >> 2 & 1, 1);
  static const u32 patterns[] = {0, 0xFFFFFFFF, 0x12345678, 0xA5A5A5A5, 0x5A5A5A5A};
  for (u32 i = 0; i < ARRAY_SIZE(patterns); i++) {
    u32 p = patterns[i];
    write_dr0(p);
    write_dr1(~p);
    write_dr2(p ^ 0xFF);
    write_dr3(p + 1);
    check("DR0", read_dr0(), p);
    check("DR1", read_dr1(), ~p);
    check("DR2", read_dr2(), p ^ 0xFF);
    check("DR3", read_dr3(), p + 1);
    write_dr6(p);
    check("DR6", read_dr6(), (p & 0xE00F) | 0xFFFF0FF0);
    write_dr7(p & ~(0xFFu | dr7_gd));
    check("DR7, nothing enabled", read_dr7(), (p & 0xFFFF0300) | dr7_fixed);
    // Enabled, at addresses that nothing touches.
    set_breakpoint_address(0, 0x7FFF0000);
    set_breakpoint_address(1, 0x7FFF0100);
    set_breakpoint_address(2, 0x7FFF0200);
    set_breakpoint_address(3, 0x7FFF0300);
    write_dr7(p & ~(u32)dr7_gd & 0x00FFFFFF);
    check("DR7", read_dr7(), (p & 0x00FF03FF) | dr7_fixed);
    write_dr7(0);
    check("DR7 cleared", read_dr7(), dr7_fixed);
  }
  write_dr6(0);
  check("DR6 cleared", read_dr6(), 0xFFFF0FF0);
  // The mod field of the ModRM byte is not looked at: 0F 21 /r and 0F 23 /r with mod = 00.
  u32 value;
  write_dr3(0x1234);
  __asm__ volatile(".byte 0x0F, 0x21, 0x18" : "=a"(value));
  check("mov eax, dr3 with mod 00", value, 0x1234);
  __asm__ volatile(".byte 0x0F, 0x23, 0x18" ::"a"(0x4321));
  check("mov dr3, eax with mod 00", read_dr3(), 0x4321);
}

SNIPPET(from_dr4, "mov eax, dr4\n" DONE);
SNIPPET(from_dr5, "mov eax, dr5\n" DONE);
SNIPPET(to_dr4, "mov dr4, eax\n" DONE);
SNIPPET(to_dr5, "mov dr5, eax\n" DONE);
static const u8* const aliases[] = {from_dr4, from_dr5, to_dr4, to_dr5};

static void dr4_and_dr5(void) {
  u32 value;
  for (u32 round = 0; round < 3; round++) {
    write_cr4(read_cr4() & ~(u32)cr4_de);
    write_dr6(0x4005);
    write_dr7(0x00330300);
    __asm__ volatile("mov %%dr4, %0" : "=r"(value));
    check("DR4 reads DR6", value, 0xFFFF4FF5);
    __asm__ volatile("mov %%dr5, %0" : "=r"(value));
    check("DR5 reads DR7", value, 0x00330700);
    __asm__ volatile("mov %0, %%dr4" ::"r"(2));
    check("DR4 writes DR6", read_dr6(), 0xFFFF0FF2);
    __asm__ volatile("mov %0, %%dr5" ::"r"(0x00110000));
    check("DR5 writes DR7", read_dr7(), 0x00110400);
    write_cr4(read_cr4() | cr4_de);
    check("DE stays set", read_cr4() & cr4_de, cr4_de);
    for (u32 i = 0; i < ARRAY_SIZE(aliases); i++) {
      struct Cpu cpu = kernel_cpu(aliases[i]);
      run_cpu(&cpu);
      check_trap("#UD with DE", v_opcode, 0, aliases[i]);
    }
    check("DR6 untouched", read_dr6(), 0xFFFF0FF2);
    check("DR7 untouched", read_dr7(), 0x00110400);
    write_cr4(read_cr4() & ~(u32)cr4_de);
  }
  no_breakpoints();
}

#define ACCESSES(X)                                                                                                   \
  X(0, "mov eax, dr0") X(1, "mov eax, dr1") X(2, "mov eax, dr2") X(3, "mov eax, dr3") X(4, "mov eax, dr4")            \
  X(5, "mov eax, dr5") X(6, "mov eax, dr6") X(7, "mov eax, dr7") X(8, "mov dr0, eax") X(9, "mov dr1, eax")            \
  X(10, "mov dr2, eax") X(11, "mov dr3, eax") X(12, "mov dr4, eax") X(13, "mov dr5, eax") X(14, "mov dr6, eax")       \
  X(15, "mov dr7, eax")
#define X(n, text) SNIPPET(access_##n, "nop\n" text "\n" DONE);
ACCESSES(X)
#undef X
static const u8* const accesses[] = {
#define X(n, text) access_##n,
    ACCESSES(X)
#undef X
};

static u32 gd_in_handler;
static bool detect(struct Frame* frame) {
  gd_in_handler = read_dr7() & dr7_gd;  // would fault again if GD were still set
  return log_debug(frame);
}

static void general_detect(void) {
  set_hook(v_debug, detect);
  for (u32 i = 0; i < ARRAY_SIZE(accesses); i++) {
    start_log();
    write_dr0(0x55);
    write_dr7(dr7_fixed | dr7_gd);
    struct Cpu cpu = kernel_cpu(accesses[i]);
    cpu.eax = (i & 7) == 7 || (i & 7) == 5 ? dr7_fixed : 0x77;
    run_cpu(&cpu);
    check_done("after the handler it works");
    check_events("one #DB", 1);
    check_event("before the instruction", 0, accesses[i] + 1, dr6_bd, f_rf);
    check("GD is clear in the handler", gd_in_handler, 0);
    check("and afterwards", read_dr7() & dr7_gd, 0);
    if (i == 0) check("read after all", trap.cpu.eax, 0x55);
    if (i == 8) check("written after all", read_dr0(), 0x77);
  }
  // GD goes at every #DB, whatever its cause.
  start_log();
  write_dr7(dr7_fixed | dr7_gd);
  hook_clears = f_tf;
  struct Cpu cpu = kernel_cpu(accesses[0]);
  cpu.eflags |= f_tf;
  run_cpu(&cpu);
  hook_clears = 0;
  check_events("single step", 1);
  check_event("takes GD away", 0, accesses[0] + 1, dr6_bs, 0);
  check("GD is clear", gd_in_handler, 0);
  set_hook(v_debug, NULL);
  no_breakpoints();
}

static void privilege(void) {
  for (u32 i = 0; i < ARRAY_SIZE(accesses); i++) {
    struct Cpu cpu = user_cpu(accesses[i]);
    run_cpu(&cpu);
    check_trap("ring 3", v_protection, 0, accesses[i] + 1);
    cpu = user_cpu(accesses[i]);
    cpu.cs = ring1_code;
    cpu.ss = ring1_data;
    run_cpu(&cpu);
    check_trap("ring 1", v_protection, 0, accesses[i] + 1);
  }
}

void guest_main(void) {
  descriptors_init();
  group("fixed bits");
  fixed_bits();
  group("DR4 and DR5");
  dr4_and_dr5();
  group("general detect");
  general_detect();
  group("privilege");
  privilege();
}
