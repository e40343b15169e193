// When an external interrupt is let in: the shadows of STI and MOV SS / POP SS, POPF and IRET that set IF, CLI, HLT
// (SDM vol. 3, 6.8.1 and 6.8.3; vol. 2, STI, HLT, MOV). The timer's request is pending before each experiment, so the place at which
// the interrupt arrives is exact.
//
// expect:
//   STI: ok
//   POPF and IRET: ok
//   MOV SS and POP SS: ok
//   HLT: ok
//   into ring 3: ok
//   user loops are interrupted: ok
// end
#include "lib/guest.h"

static u32 arrivals;
static u32 arrived_at;
static u32 arrived_flags;

static bool on_timer(struct Frame* frame) {
  arrivals++;
  arrived_at = frame->eip;
  arrived_flags = frame->eflags;
  pic_eoi(0);
  return true;
}

// Runs with one timer request latched and no more to come.
static void run_pending(struct Cpu cpu) {
  pit_quiet();
  arrivals = 0;
  arrived_at = 0;
  pit_oneshot(100);
  wait_irr(1);
  run_cpu(&cpu);
}

static void check_arrival(const char* what, u32 count, const void* at) {
  check_done(what);
  check(what, arrivals, count);
  if (count) check(what, arrived_at, (u32)at);
  // Not taken: take it now, so that the next experiment starts clean.
  if (!count) {
    sti();
    __asm__ volatile("nop");
    cli();
  }
}

SNIPPET(sti_cli, "sti\ncli\n" DONE);
SNIPPET(sti_nop_cli, "sti\nnop\n" LABEL(sti_nop_cli_at) "cli\n" DONE);
SNIPPET(sti_sti_cli, "sti\nsti\n" LABEL(sti_sti_cli_at) "cli\n" DONE);
SNIPPET(sti_long, "sti\nadd eax, 1\n" LABEL(sti_long_at) "add eax, 2\nadd eax, 4\ncli\n" DONE);
SNIPPET(sti_jump, "sti\njmp 1f\nnop\nnop\n" LABEL(sti_jump_at) "1: nop\ncli\n" DONE);
SNIPPET(sti_ret, "push offset 1f\nsti\nret\nnop\n" LABEL(sti_ret_at) "1: nop\ncli\n" DONE);
SNIPPET(sti_store, "sti\nmov [esi], eax\n" LABEL(sti_store_at) "nop\ncli\n" DONE);
SNIPPET(sti_pushf, "sti\npushfd\n" LABEL(sti_pushf_at) "pop ebx\ncli\n" DONE);
SNIPPET(sti_again, "sti\nnop\ncli\nsti\nnop\ncli\n" DONE);
extern const u8 sti_nop_cli_at[], sti_sti_cli_at[], sti_long_at[], sti_jump_at[], sti_ret_at[], sti_store_at[], sti_pushf_at[];

static void after_sti(void) {
  static u32 scratch;
  for (u32 round = 0; round < 20; round++) {
    run_pending(kernel_cpu(sti_cli));
    check_arrival("sti; cli lets none in", 0, NULL);
    run_pending(kernel_cpu(sti_nop_cli));
    check_arrival("sti; nop; cli", 1, sti_nop_cli_at);
    check("IF was set", arrived_flags & f_if, f_if);
    // Only the STI that changes IF from 0 to 1 has a shadow.
    run_pending(kernel_cpu(sti_sti_cli));
    check_arrival("sti; sti; cli", 1, sti_sti_cli_at);
    run_pending(kernel_cpu(sti_long));
    check_arrival("exactly one instruction", 1, sti_long_at);
    check("all ran", trap.cpu.eax, 7);
    run_pending(kernel_cpu(sti_jump));
    check_arrival("sti; jmp", 1, sti_jump_at);
    run_pending(kernel_cpu(sti_ret));
    check_arrival("sti; ret", 1, sti_ret_at);
    struct Cpu cpu = kernel_cpu(sti_store);
    cpu.esi = (u32)&scratch;
    run_pending(cpu);
    check_arrival("sti; mov", 1, sti_store_at);
    run_pending(kernel_cpu(sti_pushf));
    check_arrival("sti; pushf", 1, sti_pushf_at);
    check("pushf shows IF", trap.cpu.ebx & f_if, f_if);
    run_pending(kernel_cpu(sti_again));
    check_arrival("one request, one interrupt", 1, sti_again + 2);
  }
}

SNIPPET(popf_on, "pushfd\nor dword ptr [esp], 0x200\npopfd\n" LABEL(popf_on_at) "cli\n" DONE);
SNIPPET(iret_on, "pushfd\nor dword ptr [esp], 0x200\npush cs\npush offset 1f\niretd\nnop\n" LABEL(iret_on_at) "1: cli\n" DONE);
SNIPPET(popf_same, "pushfd\npopfd\nnop\n" DONE);
extern const u8 popf_on_at[], iret_on_at[];

static void without_shadow(void) {
  for (u32 round = 0; round < 20; round++) {
    run_pending(kernel_cpu(popf_on));
    check_arrival("popf has no shadow", 1, popf_on_at);
    run_pending(kernel_cpu(iret_on));
    check_arrival("iret has no shadow", 1, iret_on_at);
    run_pending(kernel_cpu(popf_same));
    check_arrival("popf with IF = 0", 0, NULL);
  }
}

SNIPPET(sti_mov_ss, "mov ax, ss\nsti\nmov ss, ax\n" LABEL(sti_mov_ss_1) "nop\n" LABEL(sti_mov_ss_2) "nop\ncli\n" DONE);
// With the timer running fast: whenever it comes, never between MOV SS and the instruction after it.
SNIPPET(mov_ss_loop,
        "mov ax, ss\nsti\n1:\n"
        ".rept 8\nmov ss, ax\n.byte 0x8D, 0x75, 0x11\npush ss\npop ss\n.byte 0x8D, 0x75, 0x22\n.endr\n"
        "cmp dword ptr [ebx], 300\njb 1b\ncli\n" DONE);
extern const u8 sti_mov_ss_1[], sti_mov_ss_2[];

static u32 shadow_broken;
static bool on_fast_timer(struct Frame* frame) {
  arrivals++;
  // The instruction after MOV SS / POP SS is `lea esi, [ebp + n]`: 8D 75.
  if (*(const u16*)frame->eip == 0x758D) shadow_broken++;
  pic_eoi(0);
  return true;
}

static void stack_segment_shadow(void) {
  for (u32 round = 0; round < 20; round++) {
    run_pending(kernel_cpu(sti_mov_ss));
    check_done("sti; mov ss");
    check("sti; mov ss", arrivals, 1);
    // Of several shadows in a row only the first is promised (SDM vol. 3, 6.8.3).
    check_true("after mov ss or one later", arrived_at == (u32)sti_mov_ss_1 || arrived_at == (u32)sti_mov_ss_2);
  }
  arrivals = 0;
  set_hook(irq_base, on_fast_timer);
  pit_periodic(400);
  struct Cpu cpu = kernel_cpu(mov_ss_loop);
  cpu.ebx = (u32)&arrivals;
  run_cpu(&cpu);
  check_done("mov ss loop");
  check("never right after mov ss", shadow_broken, 0);
  pit_quiet();
  set_hook(irq_base, on_timer);
}

SNIPPET(sti_hlt, "sti\nhlt\n" LABEL(sti_hlt_at) "cli\nmov eax, 5\n" DONE);
SNIPPET(hlt_wait, "sti\nnop\nhlt\n" LABEL(hlt_wait_at) "cli\n" DONE);
extern const u8 sti_hlt_at[], hlt_wait_at[];

static void halts(void) {
  for (u32 round = 0; round < 20; round++) {
    // The request is pending: HLT is executed in STI's shadow and left at once.
    run_pending(kernel_cpu(sti_hlt));
    check_arrival("sti; hlt with a pending request", 1, sti_hlt_at);
    check("goes on", trap.cpu.eax, 5);
    // The request comes later: HLT waits for it.
    pit_quiet();
    arrivals = 0;
    pit_oneshot(3000);
    struct Cpu cpu = kernel_cpu(sti_hlt);
    run_cpu(&cpu);
    check_arrival("sti; hlt waits", 1, sti_hlt_at);
    // With an instruction between, a tick may come before the HLT; the next one then ends it.
    arrivals = 0;
    pit_periodic(3000);
    cpu = kernel_cpu(hlt_wait);
    run_cpu(&cpu);
    check_done("hlt waits");
    check_true("hlt waits", arrivals >= 1);
    check("after hlt", arrived_at, (u32)hlt_wait_at);
  }
}

SNIPPET(user_entry, "mov eax, 1\nmov ebx, 2\n" DONE);

static void into_ring_3(void) {
  for (u32 round = 0; round < 20; round++) {
    // IRET to ring 3 with IF set: the pending interrupt comes before the first user instruction.
    struct Cpu cpu = user_cpu(user_entry);
    cpu.eflags |= f_if;
    run_pending(cpu);
    check_arrival("before the first user instruction", 1, user_entry);
    check("the code ran afterwards", trap.cpu.ebx, 2);
    cpu.eflags &= ~(u32)f_if;
    run_pending(cpu);
    check_arrival("IF = 0 in ring 3", 0, NULL);
  }
}

SNIPPET(spin, "1: jmp 1b\n");
SNIPPET(spin_memory, "1: cmp dword ptr [ebx], 20\njb 1b\n" DONE);
SNIPPET(spin_calls, "1: call 2f\ncmp dword ptr [ebx], 20\njb 1b\n" DONE "2: ret\n");
SNIPPET(spin_indirect, "mov ecx, offset 1f\n1: cmp dword ptr [ebx], 20\njae 2f\njmp ecx\n2:\n" DONE);
SNIPPET(spin_live_flags, "1: stc\n2: jc 2b\n");
SNIPPET(spin_loop, "1: mov ecx, 1000\n2: loop 2b\ncmp dword ptr [ebx], 20\njb 1b\n" DONE);
SNIPPET(spin_far, "1: cmp dword ptr [ebx], 20\njae 2f\njmp 3f\n.fill 5000, 1, 0x90\n3: jmp 1b\n2:\n" DONE);

static bool on_timer_stop_spin(struct Frame* frame) {
  arrivals++;
  pic_eoi(0);
  if (arrivals >= 20 && (frame->eip == (u32)spin || (frame->eip >= (u32)spin_live_flags && frame->eip <= (u32)spin_live_flags + 1)))
    return false;
  return true;
}

static void loops(void) {
  static const u8* const codes[] = {spin_memory, spin_calls, spin_indirect, spin_loop, spin_far};
  set_hook(irq_base, on_timer_stop_spin);
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
      arrivals = 0;
      pit_periodic(2000);
      struct Cpu cpu = ring0 ? kernel_cpu(codes[i]) : user_cpu(codes[i]);
      cpu.eflags |= f_if;
      cpu.ebx = (u32)&arrivals;
      run_cpu(&cpu);
      check_done("loop");
    }
    arrivals = 0;
    struct Cpu cpu = ring0 ? kernel_cpu(spin) : user_cpu(spin);
    cpu.eflags |= f_if;
    run_cpu(&cpu);
    check_trap("jump to itself", irq_base, 0, spin);
    arrivals = 0;
    cpu.eip = (u32)spin_live_flags;
    run_cpu(&cpu);
    check("loop on a live flag", trap.vector, irq_base);
    check("flag kept", trap.cpu.eflags & f_cf, f_cf);
  }
}

void guest_main(void) {
  descriptors_init();
  pic_init();
  pic_unmask(0);
  set_hook(irq_base, on_timer);
  group("STI");
  after_sti();
  group("POPF and IRET");
  without_shadow();
  group("MOV SS and POP SS");
  stack_segment_shadow();
  group("HLT");
  halts();
  group("into ring 3");
  into_ring_3();
  group("user loops are interrupted");
  loops();
}
