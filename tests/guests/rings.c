// Between the rings: IRET out and interrupts in, many times and preempted by the timer; stack switches through the TSS; call gates with
// parameters; conforming code; far returns that release parameters; flags that IRET may and may not load (SDM vol. 3, 5.8 and 6.12).
//
// qemu: deviates in "task register" (LTR takes NULL)
//
// expect:
//   round trips: ok
//   preempted loops: ok
//   stack switch: ok
//   call gates: ok
//   call gate faults: ok
//   conforming code: ok
//   IRET and flags: ok
//   task register: ok
// end
#include "lib/guest.h"

SNIPPET(count_traps, "1: inc ebx\nint 0x81\nadd ebx, eax\ndec ecx\njnz 1b\n" DONE);

static u32 calls;
static bool system_call(struct Frame* frame) {
  calls++;
  frame->eax = frame->ecx & 1;
  return true;
}

static void round_trips(void) {
  idt[0x81] |= 3ull << 45;
  set_hook(0x81, system_call);
  struct Cpu cpu = user_cpu(count_traps);
  cpu.ecx = 50000;
  run_cpu(&cpu);
  check_done("round trips");
  check("calls", calls, 50000);
  check("sum", trap.cpu.ebx, 75000);
  check("esp", trap.cpu.esp, cpu.esp);
  set_hook(0x81, NULL);
}

static volatile u32 ticks, outside;
static bool on_timer(struct Frame* frame) {
  ticks++;
  if ((frame->cs & 3) != 3 || (frame->ss & 0xFFFF) != user_data || (frame->ds & 0xFFFF) != user_data) outside++;
  pic_eoi(0);
  return true;
}

SNIPPET(checksum,
        "mov eax, 0x12345678\n1: imul eax, eax, 1664525\nadd eax, 1013904223\nmov edx, eax\nshr edx, 7\nxor ebx, edx\nrol ebx, 3\n"
        "push ebx\npop edi\nadc esi, edi\nloop 1b\n" DONE);

static void preempted(void) {
  struct Cpu cpu = user_cpu(checksum);
  cpu.ecx = 200000;
  run_cpu(&cpu);
  check_done("alone");
  struct Cpu alone = trap.cpu;
  pic_init();
  pic_unmask(0);
  set_hook(irq_base, on_timer);
  pit_periodic(250);
  cpu.eflags |= f_if;
  do {
    run_cpu(&cpu);
    check_done("preempted");
    check("eax", trap.cpu.eax, alone.eax);
    check("ebx", trap.cpu.ebx, alone.ebx);
    check("esi", trap.cpu.esi, alone.esi);
    check("edi", trap.cpu.edi, alone.edi);
    check("flags", trap.cpu.eflags & f_status, alone.eflags & f_status);
  } while (ticks < 100);
  pic_mask(0);
  check("interrupts found ring 3", outside, 0);
}

SNIPPET(trap_now, "int 0x80\n");

static void stack_switch(void) {
  static u8 other[4096] __attribute__((aligned(16)));
  memset(other, 0xEE, sizeof(other));
  u32 good = tss.esp0;
  tss.esp0 = (u32)other + sizeof(other);
  struct Cpu cpu = user_cpu(trap_now);
  cpu.esp = 0x12345679;  // never used by the entry
  cpu.eflags |= f_cf | f_df | f_of;
  run_cpu(&cpu);
  tss.esp0 = good;
  u32* top = (u32*)(other + sizeof(other));
  check("ss", top[-1] & 0xFFFF, user_data);
  check("esp", top[-2], 0x12345679);
  check("eflags", top[-3], f_fixed | f_cf | f_df | f_of);
  check("cs", top[-4] & 0xFFFF, user_code);
  check("eip", top[-5], (u32)trap_now + 2);
}

// Called through the gate: ESI = CS, EDI = ESP; the parameters; returns and releases 12 bytes.
SNIPPET(
    gate_target,
    "mov esi, cs\nmov edi, esp\nmov eax, [esp + 8]\nmov ebx, [esp + 12]\nmov ecx, [esp + 16]\nmov edx, ss\nmov ebp, [esp + 20]\nretf 12\n");
SNIPPET(gate_call,
        "push 3\npush 2\npush 1\nlcall 0x40, 0xDEADBEEF\nmov [gate_out], esp\nmov [gate_out + 4], ds\nmov [gate_out + 8], cs\n" DONE);
SNIPPET(gate_call_3, "lcall 0x43, 0\n" DONE);
SNIPPET(gate_call_0, "sub esp, 12\nlcall 0x40, 0\n" DONE);
SNIPPET(gate_jump, "ljmp 0x43, 0\n");
SNIPPET(gate_far_back, "mov ecx, cs\nmov edx, ss\nmov eax, esp\n" DONE);
__asm__(".pushsection .data\n.globl gate_out\ngate_out: .skip 16\n.popsection\n");
extern u32 gate_out[4];

static u64 call_gate(u16 selector, u32 offset, u32 dpl, u32 parameters) {
  return gate(selector, offset, (u8)(0x8C | dpl << 5)) | (u64)parameters << 32;
}

static void call_gates(void) {
  gdt[first_free / 8] = call_gate(kernel_code, (u32)gate_target, 3, 3);
  struct Cpu cpu = user_cpu(gate_call);
  cpu.ds = user_data;
  run_cpu(&cpu);
  check_done("call through the gate");
  check("runs in ring 0", trap.cpu.esi, kernel_code);
  check("ss", trap.cpu.edx, kernel_data);
  check("esp", trap.cpu.edi, tss.esp0 - 4 * (2 + 3 + 2));
  check("first parameter", trap.cpu.eax, 1);
  check("second parameter", trap.cpu.ebx, 2);
  check("third parameter", trap.cpu.ecx, 3);
  check("old esp on the new stack", trap.cpu.ebp, cpu.esp - 12);
  check("parameters released on the old stack", gate_out[0], cpu.esp);
  check("back in ring 3", gate_out[2] & 0xFFFF, user_code);
  check("ds stays", gate_out[1] & 0xFFFF, user_data);
  // From ring 0 no stack is switched and nothing is copied.
  cpu = kernel_cpu(gate_call_0);
  run_cpu(&cpu);
  check_done("from ring 0");
  check("same stack", trap.cpu.edi, cpu.esp - 12 - 8);
}

static void call_gate_faults(void) {
  static const struct {
    const char* what;
    u16 target;
    u32 dpl;
    bool present;
    u32 vector, error;
  } rows[] = {
      {"DPL of the gate", kernel_code, 0, true, v_protection, first_free},
      {"gate not present", kernel_code, 3, false, v_not_present, first_free},
      {"NULL target", 0, 3, true, v_protection, 0},
      {"data target", kernel_data, 3, true, v_protection, kernel_data},
      {"target past the limit", 0x200, 3, true, v_protection, 0x200},
  };
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    gdt[first_free / 8] = call_gate(rows[i].target, (u32)gate_far_back, rows[i].dpl, 0);
    if (!rows[i].present) gdt[first_free / 8] &= ~(1ull << 47);
    struct Cpu cpu = user_cpu(gate_call_3);
    run_cpu(&cpu);
    check_trap(rows[i].what, rows[i].vector, rows[i].error, gate_call_3);
    check("esp kept", trap.cpu.esp, cpu.esp);
  }
  // JMP through a gate stays in its ring.
  gdt[first_free / 8] = call_gate(kernel_code, (u32)gate_far_back, 3, 0);
  struct Cpu cpu = user_cpu(gate_jump);
  run_cpu(&cpu);
  check_trap("jump to an inner ring", v_protection, kernel_code, gate_jump);
  gdt[first_free / 8] = call_gate(user_code & ~3u, (u32)gate_far_back, 3, 0);
  cpu = user_cpu(gate_jump);
  run_cpu(&cpu);
  check_done("jump within the ring");
  check("cs", trap.cpu.ecx, user_code);
  check("no stack switch", trap.cpu.eax, cpu.esp);
}

SNIPPET(conforming_call, "lcall 0x40, offset 1f\nmov edi, cs\n" DONE "1: mov esi, cs\nmov edx, ss\nretf\n");

static void conforming(void) {
  gdt[first_free / 8] = descriptor(0, 0xFFFFF, 0x9E, 0xC);  // conforming, readable, DPL 0
  struct Cpu cpu = user_cpu(conforming_call);
  run_cpu(&cpu);
  check_done("conforming code");
  check("CPL stays 3", trap.cpu.esi, first_free | 3);
  check("ss stays", trap.cpu.edx, user_data);
  check("back", trap.cpu.edi, user_code);
}

SNIPPET(iret_flags, "push ebx\npush 0x1B\npush offset 1f\niretd\nud2\n1: pushfd\npop ecx\npush 2\npopfd\n" DONE);

static void iret(void) {
  // In ring 3 with IOPL 0, IRET leaves IF and IOPL (SDM vol. 2, IRET).
  struct Cpu cpu = user_cpu(iret_flags);
  cpu.ebx = f_fixed | f_if | f_iopl | f_cf | f_zf | f_id;
  run_cpu(&cpu);
  check_done("same ring");
  check("IF and IOPL stay", trap.cpu.ecx, f_fixed | f_cf | f_zf | f_id);
  cpu.eflags |= f_iopl;
  run_cpu(&cpu);
  check("IOPL 3: IF is loaded", trap.cpu.ecx, f_fixed | f_if | f_iopl | f_cf | f_zf | f_id);
}

SNIPPET(do_ltr, "ltr ax\n" DONE);

static void task_register(void) {
  static struct {
    u32 selector, vector, error;
  } bad[] = {{0, v_protection, 0},
             {kernel_data, v_protection, kernel_data},
             {tss_selector, v_protection, tss_selector},
             {0x200, v_protection, 0x200}};
  for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
    struct Cpu cpu = kernel_cpu(do_ltr);
    cpu.eax = bad[i].selector;
    run_cpu(&cpu);
    check_trap("ltr refused", bad[i].vector, bad[i].error, do_ltr);  // the loaded TSS is busy
  }
  check("busy bit", (u32)(gdt[tss_selector / 8] >> 41) & 1, 1);
  gdt[first_free / 8] = descriptor((u32)&tss, sizeof(tss) - 1, 0x09, 0);
  struct Cpu cpu = kernel_cpu(do_ltr);
  cpu.eax = first_free;
  run_cpu(&cpu);
  check_trap("not present", v_not_present, first_free, do_ltr);
  gdt[first_free / 8] = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
  run_cpu(&cpu);
  check_done("another TSS");
  u32 selector;
  __asm__ volatile("str %0" : "=r"(selector));
  check("str", selector, first_free);
  check("busy now", (u32)(gdt[first_free / 8] >> 40) & 0xF, 0xB);
}

void guest_main(void) {
  descriptors_init();
  group("round trips");
  round_trips();
  group("preempted loops");
  preempted();
  group("stack switch");
  stack_switch();
  group("call gates");
  call_gates();
  group("call gate faults");
  call_gate_faults();
  group("conforming code");
  conforming();
  group("IRET and flags");
  iret();
  group("task register");
  task_register();
}
