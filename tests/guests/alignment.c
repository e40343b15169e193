// Alignment checks at CPL 3 (SDM vol. 3, 6.15, interrupt 17): on only with CR0.AM and EFLAGS.AC, also at a place whose code ran
// misaligned before while they were off.
//
// qemu: deviates in "alignment" (its TCG checks no alignment)
//
// expect:
//   alignment: ok
// end
#include "lib/guest.h"

static u32 cells[4] __attribute__((aligned(16)));
SNIPPET(load, "mov eax, [esi]\n" DONE);

static void go(const char* what, u32 flags, u32 want) {
  struct Cpu cpu = user_cpu(NULL);
  cpu.eip = (u32)load;
  cpu.esi = (u32)cells + 1;
  cpu.eflags |= flags;
  run_cpu(&cpu);
  check(what, trap.vector, want);
}

void guest_main(void) {
  const u32 ac = 1u << 18, am = 1u << 18;
  descriptors_init();
  group("alignment");
  u32 cr0;
  __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
  for (int i = 0; i < 3; i++) go("AC without AM", ac, 0x80);
  __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 | am));
  for (int i = 0; i < 3; i++) go("AC on", ac, 17);
  for (int i = 0; i < 3; i++) go("AC off", 0, 0x80);
  for (int i = 0; i < 3; i++) go("AC on again", ac, 17);
}
