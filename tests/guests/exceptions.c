// Exceptions that an instruction raises by itself: vector, error code, and the EIP and registers that the handler sees (SDM vol. 3, chapter
// 6). Faults leave everything as it was before the instruction; traps (INT3, INTO, INT n) push the EIP after it.
//
// expect:
//   divide errors: ok
//   divide results: ok
//   breakpoint and overflow: ok
//   bound: ok
//   undefined opcodes: ok
//   software interrupts: ok
// end
#include "lib/guest.h"

static const char* const ring_name[2] = {"ring 3", "ring 0"};
static struct Cpu cpu_for(u32 ring0, const void* eip) { return ring0 ? kernel_cpu(eip) : user_cpu(eip); }

SNIPPET(div8, "div cl\n" DONE);
SNIPPET(div16, "div cx\n" DONE);
SNIPPET(div32, "div ecx\n" DONE);
SNIPPET(idiv8, "idiv cl\n" DONE);
SNIPPET(idiv16, "idiv cx\n" DONE);
SNIPPET(idiv32, "idiv ecx\n" DONE);
SNIPPET(aam_0, ".byte 0xD4, 0\n" DONE);
SNIPPET(div_memory, "push ecx\n" LABEL(div_memory_at) "div dword ptr [esp]\n" DONE);

struct Divide {
  const char* what;
  const u8* code;
  u32 eax, edx, ecx;
  bool faults;
  u32 want_eax, want_edx;
};

// Quotients at the edge of the range on both sides (SDM vol. 2, DIV and IDIV: #DE when the quotient does not fit).
static const struct Divide divides[] = {
    {"div8 by 0", div8, 0x1234, 0, 0, true, 0, 0},
    {"div8 overflow", div8, 0x0200, 0, 2, true, 0, 0},
    {"div8 largest", div8, 0xAABB01FF, 0, 2, false, 0xAABB01FF, 0},
    {"div16 by 0", div16, 1, 0, 0x10000, true, 0, 0},
    {"div16 overflow", div16, 0, 3, 3, true, 0, 0},
    {"div16 largest", div16, 0x5555FFFF, 0xAAAA0002, 3, false, 0x5555FFFF, 0xAAAA0002},
    {"div32 by 0", div32, 1, 0, 0, true, 0, 0},
    {"div32 overflow", div32, 0, 5, 5, true, 0, 0},
    {"div32 largest", div32, 0xFFFFFFFF, 4, 5, false, 0xFFFFFFFF, 4},
    {"idiv8 by 0", idiv8, 1, 0, 0, true, 0, 0},
    {"idiv8 overflow", idiv8, 0x0100, 0, 2, true, 0, 0},
    {"idiv8 128 / -1", idiv8, 0xFF80, 0, 0xFF, true, 0, 0},
    {"idiv8 smallest", idiv8, 0xFF00, 0, 2, false, 0x0080, 0},
    {"idiv16 smallest / -1", idiv16, 0x8000, 0xFFFF, 0xFFFF, true, 0, 0},
    {"idiv16 smallest", idiv16, 0x8000, 0xFFFF, 1, false, 0x8000, 0},
    {"idiv32 by 0", idiv32, 1, 0, 0, true, 0, 0},
    {"idiv32 smallest / -1", idiv32, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF, true, 0, 0},
    {"idiv32 smallest", idiv32, 0x80000000, 0xFFFFFFFF, 1, false, 0x80000000, 0},
    {"idiv32 negative remainder", idiv32, -7, 0xFFFFFFFF, 2, false, -3, -1},
    {"aam 0", aam_0, 0x55, 0, 0, true, 0, 0},
};

static void check_divides(bool faulting) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    for (u32 i = 0; i < ARRAY_SIZE(divides); i++) {
      const struct Divide* d = &divides[i];
      if (d->faults != faulting) continue;
      struct Cpu cpu = cpu_for(ring0, d->code);
      cpu.eax = d->eax;
      cpu.edx = d->edx;
      cpu.ecx = d->ecx;
      cpu.ebx = 0x11111111;
      cpu.esi = 0x22222222;
      cpu.edi = 0x33333333;
      cpu.ebp = 0x44444444;
      cpu.eflags = f_fixed | f_cf | f_zf | f_of;
      run_cpu(&cpu);
      if (faulting) {
        check_trap(d->what, v_divide, 0, d->code);
        check("eax kept", trap.cpu.eax, d->eax);
        check("edx kept", trap.cpu.edx, d->edx);
        check("ecx kept", trap.cpu.ecx, d->ecx);
        check("ebx kept", trap.cpu.ebx, 0x11111111);
        check("esi kept", trap.cpu.esi, 0x22222222);
        check("edi kept", trap.cpu.edi, 0x33333333);
        check("ebp kept", trap.cpu.ebp, 0x44444444);
        check("esp kept", trap.cpu.esp, cpu.esp);
        check(ring_name[ring0], trap.cpu.cs, cpu.cs);
      } else {
        check_done(d->what);
        check("quotient", trap.cpu.eax, d->want_eax);
        check("remainder", trap.cpu.edx, d->want_edx);
      }
    }
    if (!faulting) continue;
    struct Cpu cpu = cpu_for(ring0, div_memory);
    run_cpu(&cpu);
    extern const u8 div_memory_at[];
    check_trap("div of memory by 0", v_divide, 0, div_memory_at);
    check("esp after push", trap.cpu.esp, cpu.esp - 4);
  }
}

SNIPPET(int3_short, "int3\nnop\n" DONE);
SNIPPET(int3_long, ".byte 0xCD, 3\nnop\n" DONE);
SNIPPET(into_set, "mov al, 0x7F\ninc al\ninto\nnop\n" DONE);
SNIPPET(into_clear, "xor eax, eax\ninto\nmov ebx, 77\n" DONE);

static void check_breakpoints(void) {
  // Ring 3 needs a gate with DPL 3, or the INT is a general protection fault with the IDT bit and the vector.
  struct Cpu cpu = user_cpu(int3_short);
  run_cpu(&cpu);
  check_trap("int3 closed to ring 3", v_protection, 3 * 8 + 2, int3_short);
  cpu = user_cpu(into_set);
  run_cpu(&cpu);
  check_trap("into closed to ring 3", v_protection, 4 * 8 + 2, into_set + 4);
  check("of stays", trap.cpu.eflags & f_of, f_of);

  idt[3] |= 3ull << 45;
  idt[4] |= 3ull << 45;
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    cpu = cpu_for(ring0, int3_short);
    run_cpu(&cpu);
    check_trap("int3", v_breakpoint, 0, int3_short + 1);
    cpu = cpu_for(ring0, int3_long);
    run_cpu(&cpu);
    check_trap("int 3", v_breakpoint, 0, int3_long + 2);
    cpu = cpu_for(ring0, into_set);
    run_cpu(&cpu);
    check_trap("into with of", v_overflow, 0, into_set + 5);
    cpu = cpu_for(ring0, into_clear);
    run_cpu(&cpu);
    check_done("into without of");
    check("goes on", trap.cpu.ebx, 77);
  }
}

SNIPPET(bound32, "bound eax, [esi]\n" DONE);
SNIPPET(bound16, "bound ax, [esi]\n" DONE);
SNIPPET(bound_register, ".byte 0x62, 0xC0\n" DONE);

static void check_bound(void) {
  static const i32 bounds32[2] = {-5, 10};
  static const u16 bounds16[2] = {(u16)-5, 10};
  static const struct {
    i32 index;
    bool inside;
  } cases[] = {{-6, false}, {-5, true}, {0, true}, {10, true}, {11, false}, {-0x8000, false}, {0x7FFF, false}};
  for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
    for (u32 size16 = 0; size16 < 2; size16++) {
      const u8* code = size16 ? bound16 : bound32;
      struct Cpu cpu = user_cpu(code);
      cpu.eax = size16 ? 0x7FFF0000u | (u16)cases[i].index : (u32)cases[i].index;
      cpu.esi = size16 ? (u32)bounds16 : (u32)bounds32;
      run_cpu(&cpu);
      if (cases[i].inside)
        check_done("bound inside");
      else
        check_trap("bound outside", v_bound, 0, code);
    }
  }
  struct Cpu cpu = user_cpu(bound_register);
  run_cpu(&cpu);
  check_trap("bound with register", v_opcode, 0, bound_register);
}

SNIPPET(ud2_code, "ud2\n" DONE);
SNIPPET(ud1_code, ".byte 0x0F, 0xB9, 0xC0\n" DONE);
SNIPPET(lea_register, ".byte 0x8D, 0xC0\n" DONE);
SNIPPET(mov_to_cs, ".byte 0x8E, 0xC8\n" DONE);
SNIPPET(mov_sreg_6, ".byte 0x8C, 0xF0\n" DONE);
SNIPPET(group5_7, ".byte 0xFF, 0xF8\n" DONE);
SNIPPET(group4_2, ".byte 0xFE, 0xD0\n" DONE);
SNIPPET(far_jump_register, ".byte 0xFF, 0xE8\n" DONE);
SNIPPET(cmpxchg8b_register, ".byte 0x0F, 0xC7, 0xC8\n" DONE);
SNIPPET(mov_from_cr1, ".byte 0x0F, 0x20, 0xC8\n" DONE);

static void check_undefined(void) {
  static const struct {
    const char* what;
    const u8* code;
    bool ring0_only;
  } cases[] = {
      {"ud2", ud2_code, false},
      {"ud1", ud1_code, false},
      {"lea of register", lea_register, false},
      {"mov to cs", mov_to_cs, false},
      {"mov from segment register 6", mov_sreg_6, false},
      {"FF /7", group5_7, false},
      {"FE /2", group4_2, false},
      {"far jump with register", far_jump_register, false},
      {"cmpxchg8b with register", cmpxchg8b_register, false},
      {"mov from cr1", mov_from_cr1, true},
  };
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
      if (cases[i].ring0_only && !ring0) continue;
      struct Cpu cpu = cpu_for(ring0, cases[i].code);
      run_cpu(&cpu);
      check_trap(cases[i].what, v_opcode, 0, cases[i].code);
    }
  }
}

SNIPPET(int_81, "int 0x81\n" DONE);
SNIPPET(int_82, "int 0x82\n" DONE);
SNIPPET(int_83, "int 0x83\n" DONE);
SNIPPET(int_f0, "int 0xF0\n" DONE);
SNIPPET(int_0d, "int 13\n" DONE);

static void check_software_interrupts(void) {
  struct Cpu cpu = user_cpu(int_81);
  run_cpu(&cpu);
  check_trap("gate with DPL 0 from ring 3", v_protection, 0x81 * 8 + 2, int_81);
  cpu = kernel_cpu(int_81);
  run_cpu(&cpu);
  check_trap("gate with DPL 0 from ring 0", 0x81, 0, int_81 + 2);
  idt[0x81] |= 3ull << 45;
  cpu = user_cpu(int_81);
  run_cpu(&cpu);
  check_trap("gate with DPL 3 from ring 3", 0x81, 0, int_81 + 2);

  // The gate's DPL is checked before its present bit (SDM vol. 2, INT n, protected mode).
  idt[0x82] &= ~(1ull << 47);
  cpu = user_cpu(int_82);
  run_cpu(&cpu);
  check_trap("DPL before present", v_protection, 0x82 * 8 + 2, int_82);
  idt[0x82] |= 3ull << 45;
  cpu = user_cpu(int_82);
  run_cpu(&cpu);
  check_trap("gate not present", v_not_present, 0x82 * 8 + 2, int_82);

  idt[0x83] = descriptor(0, 0xFFFFF, 0xF3, 0xC);
  cpu = kernel_cpu(int_83);
  run_cpu(&cpu);
  check_trap("not a gate", v_protection, 0x83 * 8 + 2, int_83);
  static const struct {
    u16 selector;
    u32 vector, error;
  } targets[] = {
      {0, v_protection, 0},                        // NULL
      {kernel_data, v_protection, kernel_data},    // not code
      {0x1F8 + 8, v_protection, 0x200},            // past the limit
      {user_code, v_protection, user_code & ~3u},  // outward
      {first_free, v_not_present, first_free},     // code, not present
  };
  gdt[first_free / 8] = descriptor(0, 0xFFFFF, 0x1B, 0xC);
  for (u32 i = 0; i < ARRAY_SIZE(targets); i++) {
    extern const u32 trap_entries[256];
    idt[0x83] = gate(targets[i].selector, trap_entries[0x83], 0x8E);
    cpu = kernel_cpu(int_83);
    run_cpu(&cpu);
    check_trap("gate with a bad target", targets[i].vector, targets[i].error, int_83);
  }

  load_idt(idt, 0xF0 * 8 + 6);
  cpu = kernel_cpu(int_f0);
  run_cpu(&cpu);
  check_trap("past the IDT limit", v_protection, 0xF0 * 8 + 2, int_f0);
  load_idt(idt, sizeof(idt) - 1);

  // INT n pushes no error code, whatever the vector: the recorder takes the return EIP for one.
  cpu = kernel_cpu(int_0d);
  run_cpu(&cpu);
  check("int 13 vector", trap.vector, v_protection);
  check("int 13 pushes no error code", trap.error, (u32)(int_0d + 2));
}

void guest_main(void) {
  descriptors_init();
  group("divide errors");
  check_divides(true);
  group("divide results");
  check_divides(false);
  group("breakpoint and overflow");
  check_breakpoints();
  group("bound");
  check_bound();
  group("undefined opcodes");
  check_undefined();
  group("software interrupts");
  check_software_interrupts();
  finish();
}
