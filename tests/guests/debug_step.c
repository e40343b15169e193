// Single step through every kind of instruction (SDM vol. 3, 17.3.1.4): after each instruction and each element of a repeated one; INT n,
// INT 3 and INTO clear TF; POPF and IRET that set it take effect one instruction later; MOV SS and POP SS suppress it (6.8.3); far
// transfers, SYSENTER and HLT; ICEBP; the order against breakpoints and external interrupts (table 6-2).
//
// qemu: deviates (never wakes from a stepped HLT; pushes no RF between elements of a REP; single-steps no LSS)
//
// expect:
//   straight lines: ok
//   strings: ok
//   setting and clearing TF: ok
//   software interrupts: ok
//   stack segment: ok
//   system entry: ok
//   faults: ok
//   ICEBP: ok
//   with breakpoints: ok
//   with interrupts: ok
// end
#include "lib/debug.h"

static u8 buffer[64] __attribute__((aligned(64)));

// Runs `code` in ring 0 or 3 and compares the places of the traps with the list that 0 ends.
static struct Cpu step(const char* what, const u8* code, bool ring0, u32 flags, const u8* const* places) {
  struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
  cpu.esi = (u32)buffer;
  cpu.edi = (u32)buffer + 32;
  cpu.ecx = 3;
  cpu.eflags |= flags;
  start_log();
  run_cpu(&cpu);
  u32 count = 0;
  while (places[count]) count++;
  check_events(what, count);
  for (u32 i = 0; i < count; i++) {
    check_event(what, i, places[i], dr6_bs, places[i] == code && i ? f_rf : 0);
    check("TF is pushed", i < event_count ? events[i].eflags & f_tf : f_tf, f_tf);
  }
  check("TF at the end", trap.cpu.eflags & f_tf, flags & f_tf);
  return cpu;
}

#define PLACES(...) ((const u8* const[]){__VA_ARGS__, NULL})

SNIPPET(plain, "inc eax\nadd [esi], eax\nxor ebx, ebx\ncpuid\nrdtsc\npushfd\npop ecx\nnop\n" DONE);
SNIPPET(jumps, "jmp 1f\nnop\n1: jz 2f\nclc\n2: jc 3f\nmov ecx, 1\n3: loop 3b\ncall 4f\ninc eax\njmp 5f\n4: ret\n5: nop\n" DONE);
SNIPPET(near_indirect, "mov eax, offset 1f\njmp eax\n1: push offset 2f\nret\n2: nop\n" DONE);

static void straight(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++)
    for (u32 round = 0; round < 3; round++) {
      const u8* p = plain;
      step("plain", p, ring0, f_tf, PLACES(p + 1, p + 3, p + 5, p + 7, p + 9, p + 10, p + 11, p + 12));
      // In the image that PUSHF stores, TF is as it is.
      check("PUSHF shows TF", trap.cpu.ecx & f_tf, f_tf);
      p = jumps;
      step("jumps", p, ring0, f_tf,
           PLACES(p + 3, p + 5, p + 6, p + 8, p + 13, p + 15, p + 23, p + 20, p + 21, p + 24, p + 25));
      p = near_indirect;
      step("indirect", p, ring0, f_tf, PLACES(p + 5, p + 7, p + 12, p + 13, p + 14));
    }
}

SNIPPET(rep_stos, "rep stosb\n" LABEL(rep_stos_after) "nop\n" DONE);
SNIPPET(rep_movs, "rep movsd\n" LABEL(rep_movs_after) "nop\n" DONE);
SNIPPET(rep_lods, "rep lodsw\n" LABEL(rep_lods_after) "nop\n" DONE);
SNIPPET(rep_cmps, "repe cmpsb\n" LABEL(rep_cmps_after) "nop\n" DONE);
SNIPPET(rep_scas, "repne scasb\n" LABEL(rep_scas_after) "nop\n" DONE);
SNIPPET(single_stos, "stosb\n" LABEL(single_stos_after) "nop\n" DONE);
extern const u8 rep_stos_after[], rep_movs_after[], rep_lods_after[], rep_cmps_after[], rep_scas_after[], single_stos_after[];

static void strings(void) {
  memset(buffer, 7, sizeof(buffer));
  static const struct {
    const u8 *code, *after;
  } repeated[] = {{rep_stos, rep_stos_after}, {rep_movs, rep_movs_after}, {rep_lods, rep_lods_after}, {rep_cmps, rep_cmps_after}, {rep_scas, rep_scas_after}};
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    for (u32 i = 0; i < ARRAY_SIZE(repeated); i++) {
      const u8 *code = repeated[i].code, *after = repeated[i].after;
      struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
      cpu.esi = (u32)buffer;
      cpu.edi = (u32)buffer + 32;
      cpu.ecx = 3;
      cpu.eflags |= f_tf;
      start_log();
      run_cpu(&cpu);
      check_done("repeated");
      check_events("each element", 4);
      for (u32 n = 0; n < 3; n++) {
        check_event("element", n, n < 2 ? code : after, dr6_bs, n < 2 ? f_rf : 0);
        check("ecx", events[n].ecx, 2 - n);
      }
      check_event("and the next", 3, after + 1, dr6_bs, 0);
      // Nothing to do: one instruction like another.
      cpu.ecx = 0;
      start_log();
      run_cpu(&cpu);
      check_events("no element", 2);
      check_event("no element", 0, after, dr6_bs, 0);
    }
    step("not repeated", single_stos, ring0, f_tf, PLACES(single_stos_after, single_stos_after + 1));
  }
}

SNIPPET(popf_sets, "push 0x102\npopfd\n" LABEL(popf_sets_1) "inc eax\n" LABEL(popf_sets_2) "inc eax\n" LABEL(popf_sets_3) DONE);
SNIPPET(popf_clears, "push 2\n" LABEL(popf_clears_1) "popfd\n" LABEL(popf_clears_2) "inc eax\ninc eax\n" DONE);
SNIPPET(iret_sets,
        "push 0x102\npush cs\npush offset iret_sets_1\niretd\n" LABEL(iret_sets_1) "inc eax\n" LABEL(iret_sets_2) "inc eax\n" LABEL(
            iret_sets_3) DONE);
SNIPPET(iret_clears,
        "push 2\n" LABEL(iret_clears_1) "push cs\n" LABEL(iret_clears_2) "push offset iret_clears_4\n" LABEL(iret_clears_3) "iretd\n" LABEL(
            iret_clears_4) "inc eax\n" DONE);
SNIPPET(popf16_sets, "push 0x102\npopfw\n" LABEL(popf16_1) "inc eax\n" LABEL(popf16_2) "pop ax\n" LABEL(popf16_3) DONE);
extern const u8 popf_sets_1[], popf_sets_2[], popf_sets_3[], popf_clears_1[], popf_clears_2[], iret_sets_1[], iret_sets_2[], iret_sets_3[],
    iret_clears_1[], iret_clears_2[], iret_clears_3[], iret_clears_4[], popf16_1[], popf16_2[], popf16_3[];

static void setting(const char* what, const u8* code, bool ring0, const u8* const* places, u32 flags, u32 tf_at_end) {
  struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
  cpu.eflags |= flags;
  start_log();
  run_cpu(&cpu);
  check_done(what);
  u32 count = 0;
  while (places[count]) count++;
  check_events(what, count);
  for (u32 i = 0; i < count; i++) check_event(what, i, places[i], dr6_bs, 0);
  check("TF at the end", trap.cpu.eflags & f_tf, tf_at_end);
}

static void setting_and_clearing(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++)
    for (u32 round = 0; round < 3; round++) {
      setting("popf sets", popf_sets, ring0, PLACES(popf_sets_2, popf_sets_3), 0, f_tf);
      setting("popf clears", popf_clears, ring0, PLACES(popf_clears_1, popf_clears_2), f_tf, 0);
      setting("iret sets", iret_sets, ring0, PLACES(iret_sets_2, iret_sets_3), 0, f_tf);
      setting("iret clears", iret_clears, ring0, PLACES(iret_clears_1, iret_clears_2, iret_clears_3, iret_clears_4), f_tf, 0);
      setting("popf with 16 bits", popf16_sets, ring0, PLACES(popf16_2, popf16_3), 0, f_tf);
    }
}

SNIPPET(handler_iret, "inc edx\ninc edx\niretd\n");
SNIPPET(int_n, "nop\n" LABEL(int_n_1) "int 0x90\n" LABEL(int_n_2) "nop\n" LABEL(int_n_3) DONE);
SNIPPET(int_3, "nop\n" LABEL(int_3_1) "int3\n" LABEL(int_3_2) "nop\n" LABEL(int_3_3) DONE);
SNIPPET(into_taken, "mov al, 0x7F\n" LABEL(into_1) "add al, 1\n" LABEL(into_2) "into\n" LABEL(into_3) "nop\n" LABEL(into_4) DONE);
SNIPPET(into_not, "xor eax, eax\n" LABEL(into_not_1) "into\n" LABEL(into_not_2) "nop\n" LABEL(into_not_3) DONE);
extern const u8 int_n_1[], int_n_2[], int_n_3[], int_3_1[], int_3_2[], int_3_3[], into_1[], into_2[], into_3[], into_4[], into_not_1[],
    into_not_2[], into_not_3[];

// The handler runs without TF; IRET brings it back, and the trap comes one instruction after that.
static void software_interrupts(void) {
  u64 old3 = idt[3], old4 = idt[4];
  for (u32 trap_gate = 0; trap_gate < 2; trap_gate++) {
    u8 access = trap_gate ? 0xEF : 0xEE;
    idt[0x90] = gate(kernel_code, (u32)handler_iret, access);
    idt[3] = gate(kernel_code, (u32)handler_iret, access);
    idt[4] = gate(kernel_code, (u32)handler_iret, access);
    for (u32 ring0 = 0; ring0 < 2; ring0++) {
      setting("int n", int_n, ring0, PLACES(int_n_1, int_n_3), f_tf, f_tf);
      check("the handler ran", trap.cpu.edx, 2);
      setting("int 3", int_3, ring0, PLACES(int_3_1, int_3_3), f_tf, f_tf);
      setting("into", into_taken, ring0, PLACES(into_1, into_2, into_4), f_tf, f_tf);
      setting("into, not taken", into_not, ring0, PLACES(into_not_1, into_not_2, into_not_3), f_tf, f_tf);
    }
  }
  idt[3] = old3;
  idt[4] = old4;
}

SNIPPET(mov_ss, "mov eax, ss\n" LABEL(mov_ss_1) "mov ss, eax\nnop\n" LABEL(mov_ss_3) "nop\n" LABEL(mov_ss_4) DONE);
SNIPPET(pop_ss, "push ss\n" LABEL(pop_ss_1) "pop ss\nnop\n" LABEL(pop_ss_3) "nop\n" LABEL(pop_ss_4) DONE);
SNIPPET(lss_, "mov [esi], esp\n" LABEL(lss_1) "mov [esi + 4], ss\n" LABEL(lss_2) "lss esp, [esi]\n" LABEL(lss_3) "nop\n" LABEL(lss_4) DONE);
SNIPPET(mov_ds, "mov eax, ds\n" LABEL(mov_ds_1) "mov ds, eax\n" LABEL(mov_ds_2) "nop\n" LABEL(mov_ds_3) DONE);
SNIPPET(mov_ss_int, "mov eax, ss\n" LABEL(mov_ss_int_1) "mov ss, eax\nint 0x90\n" LABEL(mov_ss_int_2) "nop\n" LABEL(mov_ss_int_3) DONE);
extern const u8 mov_ss_1[], mov_ss_3[], mov_ss_4[], pop_ss_1[], pop_ss_3[], pop_ss_4[], lss_1[], lss_2[], lss_3[], lss_4[], mov_ds_1[],
    mov_ds_2[], mov_ds_3[], mov_ss_int_1[], mov_ss_int_2[], mov_ss_int_3[];

static void stack_segment(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    setting("mov ss", mov_ss, ring0, PLACES(mov_ss_1, mov_ss_3, mov_ss_4), f_tf, f_tf);
    setting("pop ss", pop_ss, ring0, PLACES(pop_ss_1, pop_ss_3, pop_ss_4), f_tf, f_tf);
    setting("mov ds", mov_ds, ring0, PLACES(mov_ds_1, mov_ds_2, mov_ds_3), f_tf, f_tf);
    setting("mov ss, int n", mov_ss_int, ring0, PLACES(mov_ss_int_1, mov_ss_int_3), f_tf, f_tf);
    // LSS leaves nothing half done.
    struct Cpu cpu = ring0 ? kernel_cpu(lss_) : user_cpu(lss_);
    cpu.esi = (u32)buffer;
    cpu.eflags |= f_tf;
    start_log();
    run_cpu(&cpu);
    check_events("lss", 4);
    check_event("lss", 2, lss_3, dr6_bs, 0);
  }
}

SNIPPET(far_call, ".byte 0x9A\n.long far_target\n.word 0x1B\n" LABEL(far_call_1) "nop\n" LABEL(far_call_2) DONE);
SNIPPET(far_target, "inc eax\n" LABEL(far_target_1) "retf\n");
SNIPPET(gate_call, ".byte 0x9A\n.long 0\n.word 0x43\n" LABEL(gate_call_1) "nop\n" LABEL(gate_call_2) DONE);
SNIPPET(gate_target, "inc eax\n" LABEL(gate_target_1) "retf\n");
SNIPPET(do_sysenter, "sysenter\n");
SNIPPET(sysenter_target, "nop\n" LABEL(sysenter_target_1) "mov ecx, esp\n" LABEL(sysenter_target_2) "mov edx, offset sysexit_target\n" LABEL(
                             sysenter_target_3) "sysexit\n");
SNIPPET(sysexit_target, "nop\n" LABEL(sysexit_target_1) DONE);
SNIPPET(halt, "hlt\n" LABEL(halt_1) "nop\n" LABEL(halt_2) DONE);
SNIPPET(sti_, "sti\n" LABEL(sti_1) "nop\n" LABEL(sti_2) "cli\n" LABEL(sti_3) DONE);
SNIPPET(moves_cr, "mov eax, cr0\n" LABEL(moves_cr_1) "mov cr0, eax\n" LABEL(moves_cr_2) "mov eax, cr3\n" LABEL(moves_cr_3) "mov cr3, eax\n" LABEL(
                      moves_cr_4) DONE);
SNIPPET(moves_dr, "mov eax, dr7\n" LABEL(moves_dr_1) "mov dr7, eax\n" LABEL(moves_dr_2) DONE);
extern const u8 far_call_1[], far_call_2[], far_target_1[], gate_call_1[], gate_call_2[], gate_target_1[], sysenter_target_1[],
    sysenter_target_2[], sysenter_target_3[], sysexit_target_1[], halt_1[], halt_2[], sti_1[], sti_2[], sti_3[], moves_cr_1[], moves_cr_2[],
    moves_cr_3[], moves_cr_4[], moves_dr_1[], moves_dr_2[];

static void system_entry(void) {
  setting("far call and return", far_call, false, PLACES(far_target, far_target_1, far_call_1, far_call_2), f_tf, f_tf);
  gdt[first_free / 8] = gate(kernel_code, (u32)gate_target, 0xEC);
  setting("call gate", gate_call, false, PLACES(gate_target, gate_target_1, gate_call_1, gate_call_2), f_tf, f_tf);
  setting("hlt", halt, true, PLACES(halt_1, halt_2), f_tf, f_tf);
  setting("sti", sti_, true, PLACES(sti_1, sti_2, sti_3), f_tf, f_tf);
  setting("control registers", moves_cr, true, PLACES(moves_cr_1, moves_cr_2, moves_cr_3, moves_cr_4), f_tf, f_tf);
  setting("debug registers", moves_dr, true, PLACES(moves_dr_1, moves_dr_2), f_tf, f_tf);
  // SYSENTER keeps TF: the first trap is at the kernel's entry.
  static u8 entry_stack[4096] __attribute__((aligned(16)));
  write_msr(msr_sysenter_cs, kernel_code);
  write_msr(msr_sysenter_esp, (u32)entry_stack + sizeof(entry_stack));
  write_msr(msr_sysenter_eip, (u32)sysenter_target);
  setting("sysenter", do_sysenter, false,
          PLACES(sysenter_target, sysenter_target_1, sysenter_target_2, sysenter_target_3, sysexit_target, sysexit_target_1), f_tf, f_tf);
}

SNIPPET(step_ud, "nop\nud2\n");
SNIPPET(step_divide, "xor ecx, ecx\ndiv ecx\n");
SNIPPET(step_gp, "nop\nmov eax, 0x1234\nmov ds, eax\n");

static void faults(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    step("ud2", step_ud, ring0, f_tf, PLACES(step_ud + 1));
    check_trap("#UD", v_opcode, 0, step_ud + 1);
    check("flags pushed", trap.cpu.eflags & (f_tf | f_rf), f_tf | f_rf);
    step("div", step_divide, ring0, f_tf, PLACES(step_divide + 2));
    check_trap("#DE", v_divide, 0, step_divide + 2);
    step("mov ds", step_gp, ring0, f_tf, PLACES(step_gp + 1, step_gp + 6));
    check_trap("#GP", v_protection, 0x1234, step_gp + 6);
  }
}

SNIPPET(icebp, "nop\n.byte 0xF1\n" LABEL(icebp_after) "nop\n" DONE);
extern const u8 icebp_after[];

// A #DB like a trap, through a gate whose DPL is not looked at; no bit of DR6 tells of it.
static void int_1(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    struct Cpu cpu = ring0 ? kernel_cpu(icebp) : user_cpu(icebp);
    start_log();
    run_cpu(&cpu);
    check_done("icebp");
    check_events("one", 1);
    check_event("behind it", 0, icebp_after, 0, 0);
    cpu.eip++;
    cpu.eflags |= f_rf;
    start_log();
    run_cpu(&cpu);
    check_event("RF was for it alone", 0, icebp_after, 0, 0);
  }
}

SNIPPET(both, "nop\n" LABEL(both_1) "mov [esi], eax\n" LABEL(both_2) "nop\n" LABEL(both_3) DONE);
extern const u8 both_1[], both_2[], both_3[];

static void with_breakpoints(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    struct Cpu cpu = ring0 ? kernel_cpu(both) : user_cpu(both);
    cpu.esi = (u32)buffer;
    cpu.eflags |= f_tf;
    // The trap of the instruction before comes first, then the breakpoint at the same place.
    start_log();
    breakpoint(0, (u32)both_1, on_execute, length_1);
    breakpoint(1, (u32)buffer, on_write, length_4);
    run_cpu(&cpu);
    no_breakpoints();
    check_done("both");
    check_events("both", 4);
    check("single step first", events[0].dr6 & dr6_bs, dr6_bs);
    check("at the breakpoint", events[0].eip, (u32)both_1);
    check("then the breakpoint", events[1].dr6, 1);
    check("at the same place", events[1].eip, (u32)both_1);
    check_event("single step and data", 2, both_2, dr6_bs | 2, 0);
    check_event("single step alone", 3, both_3, dr6_bs, 0);
  }
}

static u32 arrivals, arrived_at, arrived_flags;
static bool on_timer(struct Frame* frame) {
  arrivals++;
  arrived_at = frame->eip;
  arrived_flags = frame->eflags;
  pic_eoi(0);
  return true;
}

SNIPPET(into_interrupt, "nop\n" LABEL(into_interrupt_1) "sti\n" LABEL(into_interrupt_2) "nop\n" LABEL(into_interrupt_3) "nop\ncli\n" DONE);
extern const u8 into_interrupt_1[], into_interrupt_2[], into_interrupt_3[];

static u32 interrupted_step;
static bool step_sees_interrupt(struct Frame* frame) {
  if (frame->eip == (u32)into_interrupt_2 && arrivals == 0) interrupted_step = 1;
  return log_debug(frame);
}

// The single step of the STI comes first, then the interrupt, whose handler is not stepped.
static void with_interrupts(void) {
  set_hook(irq_base, on_timer);
  set_hook(v_debug, step_sees_interrupt);
  pic_init();
  pic_unmask(0);
  pit_quiet();
  arrivals = 0;
  pit_oneshot(100);
  wait_irr(1);
  struct Cpu cpu = kernel_cpu(into_interrupt);
  cpu.eflags |= f_tf;
  start_log();
  run_cpu(&cpu);
  check_done("sti");
  check("one interrupt", arrivals, 1);
  check("trapped before it came", interrupted_step, 1);
  // The delivery of the single step has ended the shadow of STI (SDM vol. 2, STI).
  check("in place of the next instruction", arrived_at, (u32)into_interrupt_2);
  check("TF is in its frame", arrived_flags & f_tf, f_tf);
  check("RF is not", arrived_flags & f_rf, 0);
  check_event("first", 0, into_interrupt_1, dr6_bs, 0);
  check_event("second", 1, into_interrupt_2, dr6_bs, 0);
  check_event("after the handler", 2, into_interrupt_3, dr6_bs, 0);
  check_event("fourth", 3, into_interrupt_3 + 1, dr6_bs, 0);
  check_events("all", 5);
  pit_quiet();
  set_hook(v_debug, log_debug);
}

void guest_main(void) {
  descriptors_init();
  set_hook(v_debug, log_debug);
  group("straight lines");
  straight();
  group("strings");
  strings();
  group("setting and clearing TF");
  setting_and_clearing();
  group("software interrupts");
  software_interrupts();
  group("stack segment");
  stack_segment();
  group("system entry");
  system_entry();
  group("faults");
  faults();
  group("ICEBP");
  int_1();
  group("with breakpoints");
  with_breakpoints();
  group("with interrupts");
  with_interrupts();
}
