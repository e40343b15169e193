// The order among events that come together (SDM vol. 3, table 6-2): traps of the instruction before, external interrupts, instruction
// breakpoints, faults of the fetch (limit, page), of decoding (length, opcode, device not available), of execution.
//
// qemu: deviates (the length of instructions is checked late, RF is not pushed, and see debug_code.c)
//
// expect:
//   fetch, decode, execute: ok
//   trap, then interrupt: ok
//   interrupt, then instruction breakpoint: ok
//   faults between elements: ok
// end
#include "lib/debug.h"

enum { absent = 0x40000000 };
static struct Space space;

SNIPPET(divide_absent, "div dword ptr [0x40000000]\n" DONE);
SNIPPET(hlt_user, "hlt\n" DONE);
SNIPPET(fpu_absent, "fld dword ptr [0x40000000]\n" DONE);
SNIPPET(sse_absent, "addps xmm0, [0x40000004]\n" DONE);
SNIPPET(sse_absent_aligned, "addps xmm0, [0x40000000]\n" DONE);
SNIPPET(lock_undefined, ".byte 0xF0\nmov eax, ds:[0x40000000]\n" DONE);
SNIPPET(ud_user, "ud2\n" DONE);

static void place(u8* at, const u8* bytes, u32 count) {
  for (u32 i = 0; i < count; i++) at[i] = bytes[i];
}

static void expect(const char* what, u32 eip, u32 vector, u32 error, u32 cr2) {
  struct Cpu cpu = user_cpu((void*)eip);
  run_cpu(&cpu);
  if (vector == v_page) {
    check_page_fault(what, error, cr2, (void*)eip);
  } else {
    check_trap(what, vector, error, (void*)eip);
  }
}

static void fetch_decode_execute(void) {
  use_space(&space);
  map(&space, absent, 0);
  u32 page = new_pages(2);
  u8* end = (u8*)0x40002000;  // the page before is there, this one is not
  map(&space, absent + 0x1000, page | p_present | p_write | p_user);
  map(&space, absent + 0x2000, 0);
  memset((u8*)page, 0x90, page_bytes);
  // Fetch before decode: bytes that are no instruction whatever follows are #UD although the next page is absent; one that may still
  // become an instruction is #PF; 15 bytes without an end are #GP only if all of them can be fetched.
  static const u8 ud2[] = {0x0F, 0x0B}, half[] = {0x0F}, prefixes[16] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                                                         0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66};
  place(end - 2, ud2, 2);
  expect("#UD at the page's end", (u32)end - 2, v_opcode, 0, 0);
  place(end - 1, half, 1);
  expect("half an opcode", (u32)end - 1, v_page, 4, (u32)end);
  place(end - 14, prefixes, 14);
  expect("14 prefixes, then nothing", (u32)end - 14, v_page, 4, (u32)end);
  place(end - 15, prefixes, 15);
  expect("15 prefixes", (u32)end - 15, v_protection, 0, 0);
  place(end - 16, prefixes, 16);
  expect("16 prefixes", (u32)end - 16, v_protection, 0, 0);
  // Decoding before execution.
  write_cr0(read_cr0() | cr0_ts);
  expect("#NM before #PF", (u32)fpu_absent, v_no_fpu, 0, 0);
  expect("#NM before #GP of the operand", (u32)sse_absent, v_no_fpu, 0, 0);
  write_cr4(read_cr4() & ~(u32)cr4_osfxsr);
  expect("#UD before #NM", (u32)sse_absent, v_opcode, 0, 0);
  write_cr4(read_cr4() | cr4_osfxsr);
  write_cr0(read_cr0() & ~(u32)cr0_ts);
  expect("#GP of the alignment before #PF", (u32)sse_absent, v_protection, 0, 0);
  expect("#PF", (u32)sse_absent_aligned, v_page, 4, absent);
  expect("#UD of LOCK before #PF", (u32)lock_undefined, v_opcode, 0, 0);
  expect("#PF before #DE", (u32)divide_absent, v_page, 4, absent);
  expect("privilege", (u32)hlt_user, v_protection, 0, 0);
  // The limit comes before the page: code that ends in an absent page, at the limit.
  enum { selector = first_free };
  gdt[selector / 8] = descriptor((u32)end - 1, 0, 0xFA, 4);
  place(end - 1, half, 1);
  struct Cpu cpu = user_cpu(NULL);
  cpu.cs = selector | 3;
  cpu.eip = 0;
  run_cpu(&cpu);
  check_trap("limit inside the instruction", v_protection, 0, NULL);
  gdt[selector / 8] = descriptor((u32)end - 1, 1, 0xFA, 4);
  run_cpu(&cpu);
  check_page_fault("limit behind it", 4, (u32)end, NULL);
  // An instruction breakpoint comes before all of them.
  set_hook(v_debug, log_debug);
  place(end - 2, ud2, 2);
  start_log();
  breakpoint(0, (u32)end - 2, on_execute, length_1);
  expect("then #UD", (u32)end - 2, v_opcode, 0, 0);
  check_events("first the breakpoint", 1);
  check("RF with the fault", trap.cpu.eflags & f_rf, f_rf);
  start_log();
  breakpoint(0, (u32)end, on_execute, length_1);
  expect("then the absent page", (u32)end, v_page, 4, (u32)end);
  check_events("first the breakpoint", 1);
  no_breakpoints();
  paging_off();
}

static u32 arrivals, arrived_at, arrived_flags, debug_before;
static bool on_timer(struct Frame* frame) {
  arrivals++;
  arrived_at = frame->eip;
  arrived_flags = frame->eflags;
  debug_before = event_count;
  pic_eoi(0);
  return true;
}

static void run_pending(struct Cpu cpu) {
  pit_quiet();
  arrivals = 0;
  pit_oneshot(100);
  wait_irr(1);
  start_log();
  run_cpu(&cpu);
}

static u8 buffer[64] __attribute__((aligned(64)));
// POPF lets the interrupt in at the next boundary; the store comes with it.
SNIPPET(popf_store, "pushfd\nor dword ptr [esp], 0x200\npopfd\n" LABEL(popf_store_1) "nop\ncli\n" DONE);
SNIPPET(sti_store, "sti\nmov [esi], eax\n" LABEL(sti_store_1) "nop\ncli\n" DONE);
extern const u8 popf_store_1[], sti_store_1[];

static void trap_then_interrupt(void) {
  hook_sets = 0;  // what the interrupt pushes is not the handler's doing
  for (u32 round = 0; round < 4; round++) {
    struct Cpu cpu = kernel_cpu(sti_store);
    cpu.esi = (u32)buffer;
    breakpoint(0, (u32)buffer, on_write, length_4);
    run_pending(cpu);
    no_breakpoints();
    check_done("store");
    check("one interrupt", arrivals, 1);
    check("at the same boundary", arrived_at, (u32)sti_store_1);
    check("after the trap", debug_before, 1);
    check_event("the trap", 0, sti_store_1, 1, 0);
    check("RF of the interrupt", arrived_flags & f_rf, 0);
  }
  hook_sets = f_rf;
}

static void interrupt_then_breakpoint(void) {
  for (u32 round = 0; round < 4; round++) {
    struct Cpu cpu = kernel_cpu(popf_store);
    breakpoint(0, (u32)popf_store_1, on_execute, length_1);
    run_pending(cpu);
    no_breakpoints();
    check_done("popf");
    check("one interrupt", arrivals, 1);
    check("before the breakpoint", arrived_at, (u32)popf_store_1);
    check("no #DB yet", debug_before, 0);
    check_events("then the breakpoint", 1);
    check_event("then the breakpoint", 0, popf_store_1, 1, 0);
  }
}

SNIPPET(rep_across, "rep stosd\n" DONE);

// A fault of an element pushes RF and the registers of the elements that are done.
static void fault_between_elements(void) {
  use_space(&space);
  map(&space, absent, new_page() | p_present | p_write | p_user);
  map(&space, absent + 0x1000, 0);
  for (u32 round = 0; round < 3; round++) {
    struct Cpu cpu = user_cpu(rep_across);
    cpu.edi = absent + 0xFF0;
    cpu.ecx = 100;
    run_cpu(&cpu);
    check_page_fault("fifth element", 6, absent + 0x1000, rep_across);
    check("ecx", trap.cpu.ecx, 96);
    check("edi", trap.cpu.edi, absent + 0x1000);
    check("RF", trap.cpu.eflags & f_rf, f_rf);
  }
  paging_off();
}

void guest_main(void) {
  descriptors_init();
  space = new_space(false);
  write_cr0(read_cr0() & ~(u32)(cr0_em | cr0_ts));
  write_cr4(read_cr4() | cr4_osfxsr);
  group("fetch, decode, execute");
  fetch_decode_execute();
  set_hook(v_debug, log_debug);
  set_hook(irq_base, on_timer);
  pic_init();
  pic_unmask(0);
  group("trap, then interrupt");
  trap_then_interrupt();
  group("interrupt, then instruction breakpoint");
  interrupt_then_breakpoint();
  group("faults between elements");
  fault_between_elements();
}
