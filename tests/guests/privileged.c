// Ring 3 tries everything privileged: each instruction's fault, then what IOPL and the I/O permission bitmap allow, and that nothing
// was changed by the attempts (SDM vol. 3, 5.9; vol. 1, chapter 19 for I/O protection).
// qemu: deviates in "privileged instructions" (ICEBP is undefined there)
//
// expect:
//   privileged instructions: ok
//   nothing changed: ok
//   control transfers to ring 0: ok
//   IOPL 3: ok
//   I/O bitmap: ok
// end
#include "lib/guest.h"

#define CASE(name, text) SNIPPET(code_##name, text "\nnop\n" DONE);
// Name, text, vector, error code. ESI points to 16 writable bytes; EDX = 80h.
#define CASES(X)                                             \
  X(hlt, "hlt", v_protection, 0)                             \
  X(cli, "cli", v_protection, 0)                             \
  X(sti, "sti", v_protection, 0)                             \
  X(in_al_dx, "in al, dx", v_protection, 0)                  \
  X(in_eax_dx, "in eax, dx", v_protection, 0)                \
  X(in_al_imm, "in al, 0x80", v_protection, 0)               \
  X(out_dx_al, "out dx, al", v_protection, 0)                \
  X(out_dx_ax, "out dx, ax", v_protection, 0)                \
  X(out_imm, "out 0x80, eax", v_protection, 0)               \
  X(insb, "insb", v_protection, 0)                           \
  X(outsd, "outsd", v_protection, 0)                         \
  X(rep_insb, "rep insb", v_protection, 0)                   \
  X(read_cr0, "mov eax, cr0", v_protection, 0)               \
  X(write_cr0, "mov cr0, eax", v_protection, 0)              \
  X(read_cr2, "mov eax, cr2", v_protection, 0)               \
  X(write_cr2, "mov cr2, eax", v_protection, 0)              \
  X(read_cr3, "mov eax, cr3", v_protection, 0)               \
  X(write_cr3, "mov cr3, eax", v_protection, 0)              \
  X(read_cr4, "mov eax, cr4", v_protection, 0)               \
  X(write_cr4, "mov cr4, eax", v_protection, 0)              \
  X(read_dr7, "mov eax, dr7", v_protection, 0)               \
  X(write_dr7, "mov dr7, eax", v_protection, 0)              \
  X(read_dr0, "mov eax, dr0", v_protection, 0)               \
  X(lgdt, "lgdt [esi]", v_protection, 0)                     \
  X(lidt, "lidt [esi]", v_protection, 0)                     \
  X(lldt, "lldt ax", v_protection, 0)                        \
  X(ltr, "ltr ax", v_protection, 0)                          \
  X(lmsw, "lmsw ax", v_protection, 0)                        \
  X(clts, "clts", v_protection, 0)                           \
  X(invd, "invd", v_protection, 0)                           \
  X(wbinvd, "wbinvd", v_protection, 0)                       \
  X(invlpg, "invlpg [esi]", v_protection, 0)                 \
  X(rdmsr, "rdmsr", v_protection, 0)                         \
  X(wrmsr, "wrmsr", v_protection, 0)                         \
  X(rdpmc, "rdpmc", v_protection, 0)                         \
  X(rdtsc, "rdtsc", v_protection, 0)                         \
  X(sysexit, "sysexit", v_protection, 0)                     \
  X(rsm, "rsm", v_opcode, 0)                                 \
  X(lldt_memory, "lldt [esi]", v_protection, 0)              \
  X(mov_ss_ring0, "mov ax, 0x10\nmov ss, eax", 0x100, 0x10)  \
  X(mov_ds_ring0, "mov ax, 0x10\nmov ds, eax", 0x100, 0x10)  \
  X(mov_gs_ring0, "mov ax, 0x10\nmov gs, eax", 0x100, 0x10)  \
  X(mov_ss_null, "mov ax, 3\nmov ss, eax", 0x100, 0)         \
  X(mov_ss_code, "mov ax, 0x1B\nmov ss, eax", 0x100, 0x18)   \
  X(mov_ss_rpl, "mov ax, 0x20\nmov ss, eax", 0x100, 0x20)    \
  X(mov_es_tss, "mov ax, 0x2B\nmov es, eax", 0x100, 0x28)    \
  X(mov_fs_past, "mov ax, 0x203\nmov fs, eax", 0x100, 0x200) \
  X(mov_es_ldt, "mov ax, 0x07\nmov es, eax", 0x100, 0x04)    \
  X(icebp, ".byte 0xF1", v_debug, 0)                         \
  X(int_irq, "int 0x20", v_protection, 0x20 * 8 + 2)         \
  X(int_page_fault, "int 14", v_protection, 14 * 8 + 2)

#define X(name, text, vector, error) CASE(name, text)
CASES(X)
#undef X

static const struct Case {
  const char* what;
  const u8* code;
  u32 vector, error;
} cases[] = {
#define X(name, text, vector, error) {#name, code_##name, vector, error},
    CASES(X)
#undef X
};

static u8 scratch[16];

static struct Cpu attempt(const u8* code) {
  struct Cpu cpu = user_cpu(code);
  cpu.esi = (u32)scratch;
  cpu.edi = (u32)scratch;
  cpu.edx = 0x80;
  cpu.ecx = 1;
  return cpu;
}

static void privileged(void) {
  for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
    struct Cpu cpu = attempt(cases[i].code);
    run_cpu(&cpu);
    // 100h: a general protection fault of the instruction after the 4-byte `mov ax, imm16`.
    u32 skip = cases[i].vector == 0x100 ? 4 : cases[i].vector == v_debug ? 1 : 0;
    check_trap(cases[i].what, cases[i].vector == 0x100 ? v_protection : cases[i].vector, cases[i].error, cases[i].code + skip);
    check("esp kept", trap.cpu.esp, cpu.esp);
    check("ecx kept", trap.cpu.ecx, cpu.ecx);
    check("esi kept", trap.cpu.esi, cpu.esi);
    check("edi kept", trap.cpu.edi, cpu.edi);
    check("still ring 3", trap.cpu.cs, user_code);
    check("ss kept", trap.cpu.ss, user_data);
    check("ds kept", trap.cpu.ds, user_data);
  }
}

SNIPPET(far_jump, "ljmp 0x08:0x100000\n");
SNIPPET(far_call, "lcall 0x08:0x100000\n");
SNIPPET(far_call_tss_busy, "lcall 0x28:0\n");
SNIPPET(far_jump_data, "ljmp 0x23:0\n");
SNIPPET(far_jump_null, "ljmp 0:0\n");
SNIPPET(far_ret, "push 0x08\npush 0x100000\nretf\n");
SNIPPET(iret_ring0, "pushfd\npush 0x08\npush 0x100000\niretd\n");

static void transfers(void) {
  // Segment and gate checks name the selector, with RPL bits cleared (SDM vol. 2, JMP, CALL, RET, IRET).
  static const struct {
    const char* what;
    const u8* code;
    u32 vector, error, skip;
  } rows[] = {
      {"far jump", far_jump, v_protection, 8, 0},
      {"far call", far_call, v_protection, 8, 0},
      {"far call of a TSS", far_call_tss_busy, v_protection, 0x28, 0},
      {"far jump to data", far_jump_data, v_protection, 0x20, 0},
      {"far jump to NULL", far_jump_null, v_protection, 0, 0},
      {"far return", far_ret, v_protection, 8, 7},
      {"interrupt return", iret_ring0, v_protection, 8, 8},
  };
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    struct Cpu cpu = user_cpu(rows[i].code);
    run_cpu(&cpu);
    check_trap(rows[i].what, rows[i].vector, rows[i].error, rows[i].code + rows[i].skip);
    check("still ring 3", trap.cpu.cs, user_code);
  }
}

SNIPPET(iopl_cli, "cli\nnop\n" DONE);
SNIPPET(iopl_sti, "sti\nnop\ncli\n" DONE);
SNIPPET(iopl_out, "out dx, al\nin al, dx\noutsb\ninsb\n" DONE);
SNIPPET(iopl_popf,
        "pushfd\nand dword ptr [esp], 0xFFFFCFFF\nor dword ptr [esp], 0x200\npopfd\nnop\npushfd\npop ebx\ncli\npushfd\npop ecx\n" DONE);

static void iopl_3(void) {
  struct Cpu cpu = attempt(iopl_cli);
  cpu.eflags |= f_iopl | f_if;
  run_cpu(&cpu);
  check_done("cli");
  check("cli clears IF", trap.cpu.eflags & f_if, 0);
  cpu = attempt(iopl_sti);
  cpu.eflags |= f_iopl;
  run_cpu(&cpu);
  check_done("sti, cli");
  cpu = attempt(iopl_out);
  cpu.eflags |= f_iopl;
  run_cpu(&cpu);
  check_done("in, out");
  check("outsb and insb", trap.cpu.esi, (u32)scratch + 1);
  check("outsb and insb", trap.cpu.edi, (u32)scratch + 1);
  // POPF in ring 3 changes IF when IOPL allows it, never IOPL itself.
  cpu = attempt(iopl_popf);
  cpu.eflags |= f_iopl;
  run_cpu(&cpu);
  check_done("popf");
  check("popf sets IF, keeps IOPL", trap.cpu.ebx & (f_if | f_iopl), f_if | f_iopl);
  check("cli again", trap.cpu.ecx & (f_if | f_iopl), f_iopl);
  // Everything else stays privileged.
  static const u8* const still[] = {code_hlt, code_read_cr0, code_lgdt, code_clts, code_wbinvd, code_rdmsr};
  for (u32 i = 0; i < ARRAY_SIZE(still); i++) {
    cpu = attempt(still[i]);
    cpu.eflags |= f_iopl;
    run_cpu(&cpu);
    check_trap("still privileged", v_protection, 0, still[i]);
  }
  // IOPL 2 is not enough.
  cpu = attempt(iopl_cli);
  cpu.eflags |= 0x2000;
  run_cpu(&cpu);
  check_trap("cli with IOPL 2", v_protection, 0, iopl_cli);
}

SNIPPET(out8, "out dx, al\n" DONE);
SNIPPET(out16, "out dx, ax\n" DONE);
SNIPPET(out32, "out dx, eax\n" DONE);
static const u8* const outs[] = {out8, out16, out32};

static void allow(u32 port, bool allowed) {
  if (allowed)
    tss.io_map[port / 8] &= (u8) ~(1u << (port & 7));
  else
    tss.io_map[port / 8] |= (u8)(1u << (port & 7));
}

static void io_bitmap(void) {
  // Every bit that the access covers must be clear; ports at which a byte of the map ends and 2 or 4 bits lie in the next one too.
  static const u32 ports[] = {0x80, 0x84, 0x86, 0x87};
  for (u32 p = 0; p < ARRAY_SIZE(ports); p++) {
    for (u32 mask = 0; mask < 16; mask++) {
      for (u32 bit = 0; bit < 4; bit++) allow(ports[p] + bit, mask >> bit & 1);
      for (u32 size = 0; size < 3; size++) {
        u32 need = (1u << (1u << size)) - 1;
        struct Cpu cpu = attempt(outs[size]);
        cpu.edx = ports[p];
        run_cpu(&cpu);
        if ((mask & need) == need)
          check_done("allowed");
        else
          check_trap("denied", v_protection, 0, outs[size]);
      }
    }
    for (u32 bit = 0; bit < 4; bit++) allow(ports[p] + bit, false);
  }
  // A map that lies past the TSS limit denies everything; so does the part past the limit. Ring 0 is not asked.
  allow(0x80, true);
  u16 base = tss.io_base;
  tss.io_base = sizeof(tss) + 1;
  struct Cpu cpu = attempt(out8);
  run_cpu(&cpu);
  check_trap("map past the limit", v_protection, 0, out8);
  tss.io_base = base;
  run_cpu(&cpu);
  check_done("map back");
  allow(0x80, false);
  cpu = kernel_cpu(out8);
  cpu.edx = 0x80;
  run_cpu(&cpu);
  check_done("ring 0");
}

void guest_main(void) {
  descriptors_init();
  write_cr4(read_cr4() | cr4_tsd);
  u32 cr0 = read_cr0(), cr4 = read_cr4();
  group("privileged instructions");
  privileged();
  group("nothing changed");
  check("cr0", read_cr0(), cr0);
  check("cr4", read_cr4(), cr4);
  check("cr3", read_cr3(), 0);
  struct TableRegister table;
  __asm__ volatile("sgdt %0" : "=m"(table));
  check("gdt base", table.base, (u32)gdt);
  __asm__ volatile("sidt %0" : "=m"(table));
  check("idt base", table.base, (u32)idt);
  group("control transfers to ring 0");
  transfers();
  group("IOPL 3");
  iopl_3();
  group("I/O bitmap");
  io_bitmap();
  finish();
}
