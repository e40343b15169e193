// Loops of each kind, interrupted by a fast timer wherever it meets them: what was begun is whole or not begun, and nothing of how the
// engine stops a loop shows in the guest's flags.
//
// expect:
//   ring 0: ok
//   ring 3: ok
// end
#include "lib/guest.h"

enum { ticks_each = 3, words = 1100 };

SNIPPET(jump, "1: jmp 1b\n");
SNIPPET(count, "1: inc eax\ndec ecx\njnz 1b\njmp 1b\n");
SNIPPET(flags, "1: pushfd\npop eax\nor ebx, eax\npush eax\npopfd\njmp 1b\n");
SNIPPET(short_rep, "1: mov ecx, 8\nmov edi, esi\nrep stosd\njmp 1b\n");
SNIPPET(long_rep, "1: mov ecx, 1050\nmov edi, esi\nrep stosd\njmp 1b\n");
SNIPPET(compare_rep, "1: mov ecx, 64\nmov edi, esi\nrepe cmpsb\nsub esi, 64\njmp 1b\n");
SNIPPET(elements, "1: mov edi, esi\nstosd\nlodsd\nsub esi, 4\njmp 1b\n");
SNIPPET(calls, "1: call 2f\njmp 1b\n2: push eax\npop edx\nret\n");
SNIPPET(pushes, "1: push eax\npush ebx\npush ecx\nadd esp, 12\njmp 1b\n");
SNIPPET(counted, "1: mov ecx, 100\n2: loop 2b\njmp 1b\n");
SNIPPET(unaligned, "1: mov [esi + 1], eax\nadd eax, [esi + 1]\nxor eax, [esi + 5]\njmp 1b\n");
SNIPPET(indirect, "call 1f\n1: pop edx\ninc edx\n2: lea eax, [edx + 1]\njmp edx\n");
SNIPPET(opened, "1: cli\nsti\nnop\njmp 1b\n");

static const struct Loop {
  const char* what;
  const u8* code;
  bool ring3;
} loops[] = {{"jump to itself", jump, true},    {"counting", count, true},          {"PUSHF and POPF", flags, true},
             {"short REP", short_rep, true},    {"REP over pages", long_rep, true}, {"REPE CMPS", compare_rep, true},
             {"STOS and LODS", elements, true}, {"CALL and RET", calls, true},      {"PUSH", pushes, true},
             {"LOOP", counted, true},           {"misaligned", unaligned, true},    {"indirect jump", indirect, true},
             {"CLI and STI", opened, false}};

static u32 memory[words];
static volatile u32 ticks;

static bool on_tick(struct Frame* frame) {
  (void)frame;
  pic_eoi(0);
  return ++ticks < ticks_each;
}

static void run_loop(const struct Loop* loop, bool ring3) {
  struct Cpu cpu = ring3 ? user_cpu(loop->code) : kernel_cpu(loop->code);
  const u32 top = cpu.esp;
  cpu.eflags |= f_if;
  cpu.eax = cpu.ebx = cpu.edx = 0;
  cpu.ecx = 0x10000000;
  cpu.esi = cpu.edi = (u32)memory;
  ticks = 0;
  run_cpu(&cpu);
  bool good = check("vector", trap.vector, irq_base);
  good &= check("ticks", ticks, ticks_each);
  good &= check("TF", trap.cpu.eflags & f_tf, 0);
  good &= check("TF that it saw", trap.cpu.ebx & f_tf, 0);
  good &= check("IF", trap.cpu.eflags & f_if, f_if);
  good &= check_true("esp", top - trap.cpu.esp <= 12 && (top - trap.cpu.esp) % 4 == 0);
  if (loop->code == count) good &= check_true("counted", trap.cpu.eax + trap.cpu.ecx - 0x10000000 <= 1);
  if (loop->code == short_rep || loop->code == long_rep) {
    const u32 all = loop->code == short_rep ? 8 : 1050;
    const u32 done = (trap.cpu.edi - (u32)memory) / 4;
    good &= check_true("elements", done <= all && (done == 0 || done == all || trap.cpu.ecx == all - done));
  }
  if (!good && showing_failures()) printf("       %s\n", loop->what);
}

static void run_all(bool ring3) {
  for (u32 i = 0; i < ARRAY_SIZE(loops); i++)
    if (!ring3 || loops[i].ring3) run_loop(&loops[i], ring3);
}

void guest_main(void) {
  descriptors_init();
  set_hook(irq_base, on_tick);
  pic_init();
  pic_unmask(0);
  pit_periodic(1000);
  group("ring 0");
  run_all(false);
  group("ring 3");
  run_all(true);
}
