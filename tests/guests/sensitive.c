// The 17 instructions that are sensitive but not privileged (Robin and Irvine's list: SGDT SIDT SLDT SMSW PUSHF POPF LAR LSL VERR VERW
// PUSH POP MOV of segment registers, STR, CALL JMP RET far, INT n): ring 3 gets from each what a real CPU gives.
// qemu: deviates in "moves of segment registers" (a NULL segment can be used)
//
// expect:
//   table registers: ok
//   flags: ok
//   LAR and LSL: ok
//   VERR and VERW: ok
//   moves of segment registers: ok
//   far transfers: ok
//   outward returns: ok
//   LDT: ok
// end
#include "lib/guest.h"

static struct TableRegister stored[4];

SNIPPET(store_tables,
        "sgdt [esi]\nsidt [esi + 6]\nmov eax, -1\nsldt eax\nmov ebx, -1\nstr ebx\nmov ecx, -1\nsmsw ecx\nmov edx, -1\nstr dx\n" DONE);
SNIPPET(store_words, "str [esi]\nsldt [esi + 2]\nsmsw [esi + 4]\n" DONE);

static void tables(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    memset(stored, 0xEE, sizeof(stored));
    struct Cpu cpu = ring0 ? kernel_cpu(store_tables) : user_cpu(store_tables);
    cpu.esi = (u32)stored;
    run_cpu(&cpu);
    check_done("table registers");
    check("gdt limit", stored[0].limit, sizeof(gdt) - 1);
    check("gdt base", stored[0].base, (u32)gdt);
    check("idt limit", stored[1].limit, sizeof(idt) - 1);
    check("idt base", stored[1].base, (u32)idt);
    check("nothing past them", stored[2].base, 0xEEEEEEEE);
    check("sldt", trap.cpu.eax & 0xFFFF, 0);
    check("str", trap.cpu.ebx, tss_selector);
    check("smsw", trap.cpu.ecx & 0xFFFF, read_cr0() & 0xFFFF);
    check("str, 16 bits", trap.cpu.edx, 0xFFFF0000 | tss_selector);
    cpu = ring0 ? kernel_cpu(store_words) : user_cpu(store_words);
    cpu.esi = (u32)stored;
    run_cpu(&cpu);
    check_done("to memory");
    check("str", ((u16*)stored)[0], tss_selector);
    check("sldt", ((u16*)stored)[1], 0);
    check("smsw", ((u16*)stored)[2], read_cr0() & 0xFFFF);
  }
}

// EBX = flags to load, ECX = flags afterwards.
SNIPPET(load_flags, "push ebx\npopfd\npushfd\npop ecx\npush 2\npopfd\n" DONE);
SNIPPET(load_flags16, "push bx\npopfw\npushfd\npop ecx\npush 2\npopfd\n" DONE);
SNIPPET(see_flags, "pushfd\npop ecx\n" DONE);

static void flags(void) {
  const u32 free = f_status | f_df | f_nt | f_ac | f_id;
  // Ring 3, IOPL 0: IF, IOPL, VM, VIF, VIP stay (SDM vol. 2, POPF, table 4-15); PUSHF shows VM and RF as 0.
  struct Cpu cpu = user_cpu(load_flags);
  cpu.ebx = 0xFFFFFFFF & ~(u32)f_tf;
  run_cpu(&cpu);
  check_done("popf, ones");
  check("popf, ones", trap.cpu.ecx, free | f_fixed);
  cpu = user_cpu(load_flags);
  cpu.eflags |= f_if | f_status;
  cpu.ebx = 0;
  run_cpu(&cpu);
  check("popf, zeros", trap.cpu.ecx, f_if | f_fixed);
  cpu = user_cpu(load_flags16);
  cpu.eflags |= f_ac | f_id;
  cpu.ebx = 0xFFFF & ~(u32)f_tf;
  run_cpu(&cpu);
  check("popf, 16 bits", trap.cpu.ecx, f_status | f_df | f_nt | f_ac | f_id | f_fixed);
  // Ring 0 changes IF and IOPL; VM stays, VIP and VIF are cleared.
  cpu = kernel_cpu(load_flags);
  cpu.ebx = 0xFFFFFFFF & ~(u32)(f_tf | f_if);
  run_cpu(&cpu);
  check("ring 0, ones", trap.cpu.ecx, free | f_iopl | f_fixed);
  cpu = user_cpu(see_flags);
  cpu.eflags |= f_if | f_iopl | f_of | f_cf;
  run_cpu(&cpu);
  check("pushf", trap.cpu.ecx, f_fixed | f_if | f_iopl | f_of | f_cf);
}

SNIPPET(do_lar, "lar ebx, ecx\nsetz al\n" DONE);
SNIPPET(do_lar16, "lar bx, cx\nsetz al\n" DONE);
SNIPPET(do_lsl, "lsl ebx, ecx\nsetz al\n" DONE);
SNIPPET(do_verr, "verr cx\nsetz al\n" DONE);
SNIPPET(do_verw, "verw cx\nsetz al\n" DONE);

enum Slots { s_first = first_free };
struct Row {
  u8 access;  // of the descriptor
  u8 ring3;   // what succeeds in ring 3 with RPL 3: 1 LAR, 2 LSL, 4 VERR, 8 VERW
  u8 ring0;   // ring 0 with RPL 0
  u8 ring0_rpl3;
};
// SDM vol. 2: LAR table 3-53, LSL table 3-56, VERR/VERW: type and DPL; conforming code has no DPL check.
static const struct Row rows[] = {
    {0xF3, 15, 15, 15},  // data, writable, DPL 3
    {0xF1, 7, 7, 7},     // data, read-only
    {0xF7, 15, 15, 15},  // data, expand-down, writable
    {0x93, 0, 15, 0},    // data, DPL 0
    {0xB3, 0, 15, 0},    // data, DPL 1
    {0xFB, 7, 7, 7},     // code, readable
    {0xF9, 3, 3, 3},     // code, execute-only
    {0x9B, 0, 7, 0},     // code, DPL 0
    {0x9F, 7, 7, 7},     // code, conforming, readable, DPL 0
    {0x9D, 3, 3, 3},     // code, conforming, execute-only
    {0x73, 15, 15, 15},  // data, not present: none of the four looks at P
    {0xE2, 3, 3, 3},     // LDT
    {0xE9, 3, 3, 3},     // 32-bit TSS, available
    {0xEB, 3, 3, 3},     // 32-bit TSS, busy
    {0xE1, 3, 3, 3},     // 16-bit TSS
    {0xEC, 1, 1, 1},     // 32-bit call gate
    {0xE4, 1, 1, 1},     // 16-bit call gate
    {0xE5, 1, 1, 1},     // task gate
    {0xEE, 0, 0, 0},     // interrupt gate
    {0xEF, 0, 0, 0},     // trap gate
    {0xE0, 0, 0, 0},     // reserved
    {0xE8, 0, 0, 0},     // reserved
    {0x89, 0, 3, 0},     // TSS, DPL 0
};

static struct Cpu ask(const u8* code, bool ring0, u32 selector) {
  struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
  cpu.ecx = selector;
  cpu.ebx = 0x12345678;
  cpu.eflags |= f_zf | f_cf;
  run_cpu(&cpu);
  check_done("descriptor question");
  return trap.cpu;
}

static void each_row(bool verify) {
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    u32 selector = s_first + 8 * i;
    gdt[selector / 8] = descriptor(0x12345678, 0x43210, rows[i].access, 0xC);
    u64 before = gdt[selector / 8];
    for (u32 how = 0; how < 3; how++) {
      u32 want = how == 0 ? rows[i].ring3 : how == 1 ? rows[i].ring0 : rows[i].ring0_rpl3;
      u32 asked = how == 1 ? selector : selector | 3;
      if (verify) {
        check("verr", ask(do_verr, how, asked).eax & 1, want >> 2 & 1);
        check("verw", ask(do_verw, how, asked).eax & 1, want >> 3 & 1);
        check("other flags stay", trap.cpu.eflags & f_cf, f_cf);
        continue;
      }
      struct Cpu cpu = ask(do_lar, how, asked);
      check("lar zf", cpu.eax & 1, want & 1);
      // Bits 19-16 are undefined (SDM vol. 2, LAR).
      check("lar", want & 1 ? cpu.ebx & 0x00F0FF00 : cpu.ebx, want & 1 ? 0x00C00000u | (u32)rows[i].access << 8 : 0x12345678);
      cpu = ask(do_lar16, how, asked);
      check("lar, 16 bits", cpu.ebx, want & 1 ? 0x12340000u | (u32)rows[i].access << 8 : 0x12345678);
      cpu = ask(do_lsl, how, asked);
      check("lsl zf", cpu.eax & 1, want >> 1 & 1);
      check("lsl", cpu.ebx, want & 2 ? 0x43210FFF : 0x12345678);
    }
    check_true("no accessed bit", gdt[selector / 8] == before);
  }
  static const u16 nowhere[] = {0, 3, sizeof(gdt), sizeof(gdt) + 3, 0xFFFF, 4, 0x0C};
  for (u32 i = 0; i < ARRAY_SIZE(nowhere); i++) {
    static const u8* const all[] = {do_lar, do_lsl, do_verr, do_verw};
    for (u32 k = 0; k < 4; k++) {
      check("no descriptor", ask(all[k], false, nowhere[i]).eax & 1, 0);
      check("register kept", trap.cpu.ebx, 0x12345678);
    }
  }
}

SNIPPET(
    read_segments,
    "mov eax, -1\nmov eax, cs\nmov ebx, -1\nmov ebx, ss\nmov ecx, -1\nmov cx, ds\npush es\npop edx\npush fs\nmov esi, esp\npop edi\n" DONE);
SNIPPET(write_segments,
        "mov ds, eax\nmov es, eax\npush eax\npop fs\nmov gs, eax\npush eax\npop ss\nmov edx, ds\nmov ecx, es\nmov ebx, fs\nmov esi, gs\n"
        "mov edi, ss\n" DONE);
SNIPPET(null_segments, "xor eax, eax\nmov ds, eax\nmov ax, 3\nmov es, eax\nmov fs, eax\nmov gs, eax\n" DONE);
SNIPPET(use_null, "xor eax, eax\nmov ds, eax\nmov eax, [0x100000]\n");
SNIPPET(pop_ds_16, "push 0x23\n.byte 0x66\npop ds\npop ax\n" DONE);

static void moves(void) {
  struct Cpu cpu = user_cpu(read_segments);
  run_cpu(&cpu);
  check_done("reads");
  check("cs shows ring 3", trap.cpu.eax, user_code);
  check("ss", trap.cpu.ebx, user_data);
  check("ds, 16 bits", trap.cpu.ecx, 0xFFFF0000 | user_data);
  check("push es", trap.cpu.edx & 0xFFFF, user_data);
  check("push takes 4 bytes", trap.cpu.esi, cpu.esp - 4);
  check("push fs", trap.cpu.edi & 0xFFFF, user_data);
  check("esp", trap.cpu.esp, cpu.esp);

  gdt[first_free / 8] = descriptor(0, 0xFFFFF, 0xF2, 0xC);
  cpu = user_cpu(write_segments);
  cpu.eax = 0xABCD0000 | first_free | 3;
  run_cpu(&cpu);
  check_done("writes");
  check("ds", trap.cpu.edx, first_free | 3);
  check("es", trap.cpu.ecx, first_free | 3);
  check("fs", trap.cpu.ebx, first_free | 3);
  check("gs", trap.cpu.esi, first_free | 3);
  check("ss", trap.cpu.edi, first_free | 3);
  check("accessed bit", (u32)(gdt[first_free / 8] >> 40) & 1, 1);

  cpu = user_cpu(null_segments);
  run_cpu(&cpu);
  check_done("NULL in data segments");
  check("ds", trap.cpu.ds, 0);
  check("es with RPL", trap.cpu.es, 3);
  cpu = user_cpu(use_null);
  run_cpu(&cpu);
  check_trap("use of NULL", v_protection, 0, use_null + 4);
  gdt[first_free / 8] = descriptor(0, 0xFFFFF, 0x73, 0xC);
  cpu = user_cpu(write_segments);
  cpu.eax = first_free | 3;
  run_cpu(&cpu);
  check_trap("not present", v_not_present, first_free, write_segments);
  cpu = user_cpu(pop_ds_16);
  run_cpu(&cpu);
  check_done("pop ds, 16 bits");
  check("esp", trap.cpu.esp, cpu.esp);
}

// RPL 0 in the pointer is as good as 3 for ring 3's own code; CS then shows RPL = CPL.
SNIPPET(far_jump, "ljmp 0x18, offset 1f\nud2\n1: mov eax, cs\n" DONE);
SNIPPET(far_jump_memory, "mov dword ptr [esi], offset 1f\nmov word ptr [esi + 4], 0x1B\nljmp [esi]\nud2\n1: mov eax, cs\n" DONE);
SNIPPET(far_call, "push 77\nmov edi, esp\nlcall 0x1B, offset 2f\nmov edx, esp\n" DONE
                  "2: mov ecx, esp\nmov eax, [esp]\nmov ebx, [esp + 4]\nretf 4\n");
SNIPPET(near_as_far, "push cs\ncall 1f\nmov edx, esp\n" DONE "1: retf\n");

static void transfers(void) {
  static u8 pointer[8];
  struct Cpu cpu = user_cpu(far_jump);
  run_cpu(&cpu);
  check_done("jump");
  check("cs", trap.cpu.eax, user_code);
  cpu = user_cpu(far_jump_memory);
  cpu.esi = (u32)pointer;
  run_cpu(&cpu);
  check_done("jump through memory");
  check("cs", trap.cpu.eax, user_code);
  cpu = user_cpu(far_call);
  run_cpu(&cpu);
  check_done("call");
  check("8 bytes pushed", trap.cpu.ecx, cpu.esp - 4 - 8);
  check("return address", trap.cpu.eax, (u32)far_call + 2 + 2 + 7);
  check("return selector", trap.cpu.ebx & 0xFFFF, user_code);
  check("retf 4", trap.cpu.edx, cpu.esp);
  cpu = user_cpu(near_as_far);
  run_cpu(&cpu);
  check_done("push cs; call near; retf");
  check("esp", trap.cpu.edx, cpu.esp);
}

SNIPPET(retf_outward, "push 0x23\npush ebx\npush 0x1B\npush ecx\nretf 0\n");
SNIPPET(iret_outward, "push 0x23\npush ebx\npush edx\npush 0x1B\npush ecx\niretd\n");
SNIPPET(user_landing, "mov eax, ds\nmov ebx, es\nmov ecx, cs\nmov edx, esp\npushfd\npop esi\n" DONE);

SNIPPET(iret_here, "iretd\n");

static void outward(void) {
  // Data segments whose DPL is below the new CPL become NULL (SDM vol. 2, RET and IRET, "return to outer privilege level").
  for (u32 by_iret = 0; by_iret < 2; by_iret++) {
    struct Cpu cpu = kernel_cpu(by_iret ? iret_outward : retf_outward);
    cpu.ebx = (u32)user_stack + 0x1000;
    cpu.ecx = (u32)user_landing;
    cpu.edx = f_fixed | f_cf | f_nt | f_iopl;
    cpu.es = user_data;
    run_cpu(&cpu);
    check_done("landed");
    check("ds of ring 0 is NULL now", trap.cpu.eax, 0);
    check("es stays", trap.cpu.ebx, user_data);
    check("cs", trap.cpu.ecx, user_code);
    check("esp", trap.cpu.edx, (u32)user_stack + 0x1000);
    if (by_iret) check("flags", trap.cpu.esi, f_fixed | f_cf | f_nt | f_iopl);
  }
  // Checks on the way out.
  static const struct {
    u32 cs, ss, vector, error;
  } bad[] = {{0x1B, 0x10, v_protection, 0x10},  {0x1B, 0, v_protection, 0}, {0x1B, 0x1B, v_protection, 0x18},
             {0x23, 0x23, v_protection, 0x20},  {3, 0x23, v_protection, 0}, {0x0B, 0x23, v_protection, 8},
             {0x1B, 0x203, v_protection, 0x200}};
  for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
    static u32 frame[5];
    frame[0] = (u32)user_landing;
    frame[1] = bad[i].cs;
    frame[2] = f_fixed;
    frame[3] = (u32)user_stack + 0x1000;
    frame[4] = bad[i].ss;
    // The frame lies at the end of the stack from which IRET pops.
    struct Cpu cpu = kernel_cpu(iret_here);
    cpu.esp -= 256;
    memcpy((void*)cpu.esp, frame, sizeof(frame));
    run_cpu(&cpu);
    check_trap("iret to a bad place", bad[i].vector, bad[i].error, iret_here);
  }
}

SNIPPET(with_ldt, "mov ds, eax\nmov ebx, [0]\nsldt ecx\nmov edx, ds\n" DONE);
SNIPPET(do_lldt, "lldt ax\n" DONE);

static void ldt(void) {
  static u64 table[4] __attribute__((aligned(8)));
  static u32 word = 0x600DF00D;
  table[2] = descriptor((u32)&word, 3, 0xF2, 4);
  gdt[first_free / 8] = descriptor((u32)table, sizeof(table) - 1, 0x82, 0);
  struct Cpu cpu = kernel_cpu(do_lldt);
  cpu.eax = first_free;
  run_cpu(&cpu);
  check_done("lldt");
  cpu = user_cpu(with_ldt);
  cpu.eax = 2 * 8 | 4 | 3;
  run_cpu(&cpu);
  check_done("segment of the LDT");
  check("its base", trap.cpu.ebx, 0x600DF00D);
  check("sldt", trap.cpu.ecx & 0xFFFF, first_free);
  check("selector", trap.cpu.edx, 2 * 8 | 4 | 3);
  check("accessed bit in the LDT", (u32)(table[2] >> 40) & 1, 1);
  cpu.eax = 3 * 8 | 4 | 3;
  run_cpu(&cpu);
  check_trap("empty entry", v_protection, 3 * 8 | 4, with_ldt);
  cpu.eax = 4 * 8 | 4 | 3;
  run_cpu(&cpu);
  check_trap("past the limit", v_protection, 4 * 8 | 4, with_ldt);
  // What LLDT refuses.
  static const struct {
    u32 selector, vector, error;
  } bad[] = {{kernel_data, v_protection, kernel_data},
             {2 * 8 | 4, v_protection, 2 * 8 | 4},
             {0x200, v_protection, 0x200},
             {first_free + 8, v_not_present, first_free + 8}};
  gdt[first_free / 8 + 1] = descriptor((u32)table, sizeof(table) - 1, 0x02, 0);
  for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
    cpu = kernel_cpu(do_lldt);
    cpu.eax = bad[i].selector;
    run_cpu(&cpu);
    check_trap("lldt refused", bad[i].vector, bad[i].error, do_lldt);
  }
  cpu = kernel_cpu(do_lldt);
  run_cpu(&cpu);
  check_done("lldt NULL");
  cpu = user_cpu(with_ldt);
  cpu.eax = 2 * 8 | 4 | 3;
  run_cpu(&cpu);
  check_trap("no LDT", v_protection, 2 * 8 | 4, with_ldt);
}

void guest_main(void) {
  descriptors_init();
  group("table registers");
  tables();
  group("flags");
  flags();
  group("LAR and LSL");
  each_row(false);
  group("VERR and VERW");
  each_row(true);
  group("moves of segment registers");
  moves();
  group("far transfers");
  transfers();
  group("outward returns");
  outward();
  group("LDT");
  ldt();
  finish();
}
