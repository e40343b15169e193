// Faults while handling or delivering faults: a fault inside a handler, contributory faults to #DF, benign first events with the EXT
// bit, #DF on a stack of ring 1, and stacks of the TSS (SDM vol. 3, 6.13 error code, 6.15 table 6-5 and interrupt 8).
//
// qemu: deviates in "benign first" (the EXT bit is never set)
// qemu: deviates in "external interrupt" (as above)
// qemu: deviates in "stacks of the TSS" (as above)
//
// expect:
//   inside a handler: ok
//   benign first: ok
//   contributory twice: ok
//   page fault first: ok
//   contributory, then page fault: ok
//   external interrupt: ok
//   stacks of the TSS: ok
// end
#include "lib/guest.h"

enum { absent = 0x40000000 };
static struct Space space;

SNIPPET(do_ud, "ud2\n");
SNIPPET(do_divide, "xor ecx, ecx\ndiv ecx\n");
SNIPPET(do_gp, "hlt\n");
SNIPPET(do_page, "mov eax, [0x40000000]\n");
SNIPPET(do_int80, DONE);

static u32 hook_depth;
static u32 inner_cr2;
static u32 outer_eip;

static bool page_hook(struct Frame* frame) {
  (void)frame;
  hook_depth++;
  inner_cr2 = read_cr2();
  set_pte(&space, absent, get_pte(&space, absent) | p_present | p_write | p_user);
  return true;
}

static bool gp_hook(struct Frame* frame) {
  outer_eip = frame->eip;
  hook_depth++;
  write32(absent + 0x10, 7);  // faults, is mended, and goes on
  hook_depth++;
  __asm__ volatile("ud2a\n" ::: "memory");
  hook_depth++;
  frame->eip += 1;  // over the HLT
  return true;
}

static bool ud_hook(struct Frame* frame) {
  frame->eip += 2;
  hook_depth++;
  return true;
}

SNIPPET(two_hlts, "hlt\nhlt\n" DONE);

static void inside_handler(void) {
  set_hook(v_page, page_hook);
  set_hook(v_protection, gp_hook);
  set_hook(v_opcode, ud_hook);
  map(&space, absent, new_page());
  use_space(&space);
  struct Cpu cpu = user_cpu(two_hlts);
  run_cpu(&cpu);
  check_done("handlers returned");
  check("depth", hook_depth, 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1);
  check("cr2 of the inner fault", inner_cr2, absent + 0x10);
  check("outer frame kept", outer_eip, (u32)two_hlts + 1);
  set_hook(v_page, NULL);
  set_hook(v_protection, NULL);
  set_hook(v_opcode, NULL);
  set_pte(&space, absent, 0);
  use_space(&space);
}

// The recorded trap's error code; EIP is that of the instruction in all these cases.
static void expect(const char* what, const u8* code, u32 skip, u32 vector, u32 error) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
    if (ring0 && code == do_gp) continue;
    run_cpu(&cpu);
    check_trap(what, vector, error, code + skip);
  }
}

static void broken_gates(void) {
  u64 good_ud = idt[v_opcode], good_divide = idt[v_divide], good_gp = idt[v_protection], good_page = idt[v_page],
      good_np = idt[v_not_present];
  // #UD is benign: what goes wrong in its delivery is reported by itself, with EXT because the instruction asked for nothing.
  group("benign first");
  idt[v_opcode] &= ~(1ull << 47);
  expect("gate not present", do_ud, 0, v_not_present, v_opcode * 8 + 2 + 1);
  idt[v_opcode] = 0;
  expect("no gate", do_ud, 0, v_protection, v_opcode * 8 + 2 + 1);
  idt[v_opcode] = (good_ud & ~0xFFFF0000ull) | (u64)kernel_data << 16;
  expect("gate to data", do_ud, 0, v_protection, kernel_data + 1);
  idt[v_opcode] = good_ud & ~0xFFFF0000ull;
  expect("gate to NULL", do_ud, 0, v_protection, 1);
  idt[v_opcode] = good_ud;

  group("contributory twice");
  idt[v_divide] &= ~(1ull << 47);
  expect("#DE, #NP", do_divide, 2, v_double, 0);
  idt[v_divide] = 0;
  expect("#DE, #GP", do_divide, 2, v_double, 0);
  idt[v_divide] = good_divide;
  idt[v_protection] = 0;
  expect("#GP, #GP", do_gp, 0, v_double, 0);
  idt[v_protection] = good_gp;
  // Benign, contributory, contributory: the second and third make the double fault.
  idt[v_opcode] &= ~(1ull << 47);
  idt[v_not_present] &= ~(1ull << 47);
  expect("#UD, #NP, #NP", do_ud, 0, v_double, 0);
  idt[v_opcode] = good_ud;
  idt[v_not_present] = good_np;

  group("page fault first");
  idt[v_page] &= ~(1ull << 47);
  expect("#PF, #NP", do_page, 0, v_double, 0);
  check("cr2", trap.cr2, absent);
  idt[v_page] = 0;
  expect("#PF, #GP", do_page, 0, v_double, 0);
  idt[v_page] = good_page;
  // An IDT in an absent page: #PF while delivering #PF. The double fault's own gate must be reachable: the table straddles a page
  // border, vectors up to 8 before it.
  u32 table = absent + 0x2000 - 9 * 8;
  map(&space, absent + 0x1000, new_page() | p_present | p_write | p_user);
  map(&space, absent + 0x2000, 0);
  use_space(&space);
  memcpy((void*)table, idt, 9 * 8);
  load_idt((void*)table, sizeof(idt) - 1);
  struct Cpu cpu = kernel_cpu(do_page);
  run_cpu(&cpu);
  load_idt(idt, sizeof(idt) - 1);
  check_trap("#PF, #PF", v_double, 0, do_page);
  check("cr2 of the second", trap.cr2, absent + 0x2000 + (v_page - 9) * 8);
  check("error code of the double fault", trap.error, 0);

  group("contributory, then page fault");
  // #GP, whose IDT entry is absent: #PF, handled by itself. Vector 14 is present, vector 13 is not: the border lies between them.
  u32 base = absent + 0x2000 - 14 * 8;
  map(&space, absent + 0x1000, 0);
  map(&space, absent + 0x2000, new_page() | p_present | p_write | p_user);
  use_space(&space);
  memcpy((void*)(absent + 0x2000), &idt[14], (256 - 14) * 8);
  load_idt((void*)base, sizeof(idt) - 1);
  cpu = user_cpu(do_gp);
  run_cpu(&cpu);
  load_idt(idt, sizeof(idt) - 1);
  check_page_fault("#GP, #PF", 0, absent + 0x2000 - 8, do_gp);
}

SNIPPET(wait_irq, "sti\nnop\nnop\ncli\n" DONE);

static void external(void) {
  pic_init();
  pic_unmask(0);
  u64 good = idt[irq_base];
  idt[irq_base] &= ~(1ull << 47);
  pit_oneshot(100);
  wait_irr(1);
  struct Cpu cpu = kernel_cpu(wait_irq);
  run_cpu(&cpu);
  check_trap("gate not present", v_not_present, irq_base * 8 + 2 + 1, wait_irq + 2);
  check("in service all the same", pic_read_isr() & 1, 1);
  pic_eoi(0);
  idt[irq_base] = good;
}

// A fault from ring 3 whose ring-0 stack is absent: #PF while pushing, then #DF through a gate to ring 1, whose stack is good. The
// handler there mends the TSS and reports through INT 81h.
SNIPPET(ring1_handler_code,
        "mov dword ptr [edx], ecx\npop eax\n"
        "int 0x81\n");

static void tss_stacks(void) {
  u64 good_double = idt[v_double];
  u32 good_esp0 = tss.esp0;
  static u8 ring1_stack[4096] __attribute__((aligned(16)));
  idt[v_double] = gate(ring1_code, (u32)ring1_handler_code, 0x8E);
  idt[0x81] |= 1ull << 45;
  tss.ss1 = ring1_data;
  tss.esp1 = (u32)ring1_stack + sizeof(ring1_stack);
  tss.esp0 = absent + 0x10000;
  struct Cpu cpu = user_cpu(do_ud);
  cpu.edx = (u32)&tss.esp0;
  cpu.ecx = good_esp0;
  cpu.ds = user_data;
  run_cpu(&cpu);
  // #UD is benign, so its #PF is delivered by itself, onto the same absent stack: #PF, #PF, #DF.
  check_trap("#UD, #PF, #PF", 0x81, 0, ring1_handler_code + 2 + 1 + 2);
  check("handler ran in ring 1", trap.cpu.cs, ring1_code);
  check("on its stack", trap.cpu.ss, ring1_data);
  check("error code 0", trap.cpu.eax, 0);
  u32* frame = (u32*)(ring1_stack + sizeof(ring1_stack)) - 5;
  check("stack pointer", trap.cpu.esp, (u32)frame);
  check("eip", frame[0], (u32)do_ud);
  check("cs", frame[1] & 0xFFFF, user_code);
  check("esp", frame[3], cpu.esp);
  check("ss", frame[4] & 0xFFFF, user_data);
  check("cr2", trap.cr2, absent + 0x10000 - 4);
  idt[v_double] = good_double;

  // Bad stack selectors in the TSS: #TS with the selector, EXT for a fault; #DF does not come, since #UD is benign and the #TS is
  // delivered through a gate to ring 1.
  static const struct {
    u32 ss0;
    u32 error;
  } bad[] = {{0, 1}, {user_data, (user_data & ~3u) + 1}, {kernel_code, kernel_code + 1}, {0x200, 0x201}};
  u64 good_tss = idt[v_tss];
  for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
    idt[v_tss] = gate(ring1_code, (u32)ring1_handler_code, 0x8E);
    tss.ss0 = bad[i].ss0;
    cpu = user_cpu(do_ud);
    cpu.edx = (u32)&tss.ss0;
    cpu.ecx = kernel_data;
    run_cpu(&cpu);
    check_trap("bad ss0", 0x81, 0, ring1_handler_code + 5);
    check("#TS names it", trap.cpu.eax, bad[i].error);
    tss.ss0 = kernel_data;
    // INT n asked for it: no EXT.
    tss.ss0 = bad[i].ss0;
    cpu.eip = (u32)do_int80;
    run_cpu(&cpu);
    check("#TS by INT n", trap.cpu.eax, bad[i].error & ~1u);
    tss.ss0 = kernel_data;
  }
  idt[v_tss] = good_tss;
}

void guest_main(void) {
  descriptors_init();
  space = new_space(false);
  use_space(&space);
  group("inside a handler");
  inside_handler();
  broken_gates();
  group("external interrupt");
  external();
  group("stacks of the TSS");
  tss_stacks();
}
