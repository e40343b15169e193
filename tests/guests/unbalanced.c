// A million CALLs without RET and a million RETs without CALL, in ring 3 and ring 0, with the timer running; deep recursion; return
// addresses that were changed. Whatever an engine keeps about calls must stay a guess.
//
// expect:
//   calls without returns: ok
//   returns without calls: ok
//   deep recursion: ok
//   changed return addresses: ok
//   coroutines: ok
// end
#include "lib/guest.h"

enum { million = 1000000 };

static struct Cpu cpu_in(u32 ring0, const u8* code) {
  struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
  cpu.eflags |= f_if;
  return cpu;
}

SNIPPET(calls_dropped, "1: call 2f\n2: add esp, 4\ninc eax\ndec ecx\njnz 1b\n" DONE);
SNIPPET(calls_popped, "1: call 2f\nud2\n2: pop edx\ninc eax\ndec ecx\njnz 1b\n" DONE);
SNIPPET(calls_indirect, "mov esi, offset 2f\n1: call esi\nud2\n2: lea esp, [esp + 4]\ninc eax\ndec ecx\njnz 1b\n" DONE);
// The stack really grows: 4 MB.
SNIPPET(calls_kept, "mov ebp, esp\nmov esp, ebx\n1: call 2f\n2: inc eax\ndec ecx\njnz 1b\nmov edx, esp\nmov esp, ebp\n" DONE);

static void calls(u32 big_stack, u32 bytes) {
  static const u8* const codes[] = {calls_dropped, calls_popped, calls_indirect};
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
      struct Cpu cpu = cpu_in(ring0, codes[i]);
      cpu.ecx = million;
      run_cpu(&cpu);
      check_done("calls");
      check("count", trap.cpu.eax, million);
      check("esp", trap.cpu.esp, cpu.esp);
    }
    struct Cpu cpu = cpu_in(ring0, calls_kept);
    cpu.ecx = million;
    cpu.ebx = big_stack + bytes;
    run_cpu(&cpu);
    check_done("calls kept");
    check("count", trap.cpu.eax, million);
    check("stack grew", trap.cpu.edx, big_stack + bytes - 4 * million);
    // Interrupts in ring 0 use this stack too, so only the last return address is looked at.
    check("return address", read32(big_stack + bytes - 4), (u32)calls_kept + 4 + 5);
  }
}

SNIPPET(returns_pushed, "mov esi, offset 2f\n1: push esi\nret\nud2\n2: inc eax\ndec ecx\njnz 1b\n" DONE);
SNIPPET(
    returns_alternating,
    "mov esi, offset 2f\nmov edi, offset 3f\n1: push edi\npush esi\nret\nud2\n2: inc eax\nret\nud2\n3: inc eax\nsub ecx, 2\njnz 1b\n" DONE);
SNIPPET(returns_n, "mov esi, offset 2f\n1: sub esp, 8\npush esi\nret 8\nud2\n2: inc eax\ndec ecx\njnz 1b\n" DONE);
// A stack full of addresses, and nothing but RET: each one goes to the next.
SNIPPET(returns_chain, "mov ebp, esp\nmov esp, ebx\n1: ret\n2: inc eax\nret\n3: mov edx, esp\nmov esp, ebp\n" DONE);
extern const u8 chain_link[], chain_end[];
SNIPPET(returns_chain_parts, "ud2\n" LABEL(chain_link) "inc eax\nret\n" LABEL(chain_end) "mov edx, esp\nmov esp, ebp\n" DONE);

static void returns(u32 big_stack) {
  static const u8* const codes[] = {returns_pushed, returns_alternating, returns_n};
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
      struct Cpu cpu = cpu_in(ring0, codes[i]);
      cpu.ecx = million;
      run_cpu(&cpu);
      check_done("returns");
      check("count", trap.cpu.eax, million);
      check("esp", trap.cpu.esp, cpu.esp);
    }
    // 250,000 at a time, four times. The area below stays free for interrupts of ring 0.
    u32 words = million / 4, total = 0;
    for (u32 round = 0; round < 4; round++) {
      u32* stack = (u32*)(big_stack + 65536);
      for (u32 i = 0; i < words; i++) stack[i] = (u32)chain_link;
      stack[words] = (u32)chain_end;
      struct Cpu cpu = cpu_in(ring0, returns_chain);
      cpu.ebx = (u32)stack;
      run_cpu(&cpu);
      check_done("chain");
      total += trap.cpu.eax;
      check("esp", trap.cpu.edx, (u32)(stack + words + 1));
    }
    check("count", total, million);
  }
}

SNIPPET(recursion, "mov ebp, esp\nmov esp, ebx\ncall 1f\nmov esp, ebp\n" DONE
                   "1: test ecx, ecx\njz 2f\npush ecx\ndec ecx\ncall 1b\npop edx\nadd eax, edx\n2: ret\n");

static void deep(u32 big_stack, u32 bytes) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    struct Cpu cpu = cpu_in(ring0, recursion);
    cpu.ebx = big_stack + bytes;
    cpu.ecx = 400000;
    run_cpu(&cpu);
    check_done("recursion");
    check("sum", trap.cpu.eax, (u32)(400000ull * 400001 / 2));
  }
}

SNIPPET(changed, "1: call 2f\nud2\nadd eax, 1\n3: dec ecx\njnz 1b\n" DONE
                 "2: test ecx, 1\njz 4f\nadd dword ptr [esp], 2\nret\n4: add dword ptr [esp], 5\nret\n");
SNIPPET(skipping, "1: call 2f\n3: dec ecx\njnz 1b\n" DONE "2: call 4f\nud2\n4: inc eax\nadd esp, 4\nret\n");

static void changes(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    struct Cpu cpu = cpu_in(ring0, changed);
    cpu.ecx = 20000;
    run_cpu(&cpu);
    check_done("changed return address");
    check("odd turns add", trap.cpu.eax, 10000);
    cpu = cpu_in(ring0, skipping);
    cpu.ecx = 20000;
    run_cpu(&cpu);
    check_done("return over a frame");
    check("turns", trap.cpu.eax, 20000);
  }
}

// Two stacks that hand over to each other by RET.
SNIPPET(coroutines, "mov edi, ebx\nmov dword ptr [edi - 4], offset 3f\nsub edi, 4\n1: call 2f\ninc eax\ndec ecx\njnz 1b\n" DONE
                    "2: xchg esp, edi\nret\n3: call 2b\nadd edx, 3\njmp 3b\n");

static void handing_over(u32 big_stack) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    struct Cpu cpu = cpu_in(ring0, coroutines);
    cpu.ebx = big_stack + 65536;
    cpu.ecx = 30000;
    run_cpu(&cpu);
    check_done("coroutines");
    check("one", trap.cpu.eax, 30000);
    check("other", trap.cpu.edx, 29999 * 3);
  }
}

void guest_main(void) {
  descriptors_init();
  pic_init();
  pic_unmask(0);
  set_hook(irq_base, count_tick);
  pit_periodic(11931);
  u32 bytes = 8 << 20, big_stack = new_pages(bytes / page_bytes);
  group("calls without returns");
  calls(big_stack, bytes);
  group("returns without calls");
  returns(big_stack);
  group("deep recursion");
  deep(big_stack, bytes);
  group("changed return addresses");
  changes();
  group("coroutines");
  handing_over(big_stack);
}
