// IRET with NT set whose back link leads to a busy TSS: everything is in order, and what follows, a task switch, is not there.
//
// exit: 10
// stderr: IRET from a nested task
// qemu: deviates (switches tasks)
//
// expect:
//   before: ok
// end
#include "lib/transfer.h"

SNIPPET(iret_, "iretd\n");

void guest_main(void) {
  transfer_init();
  gdt[slot / 8] = descriptor((u32)&tss, 0x67, 0x8B, 0);
  tss.back_link = slot;
  struct Cpu cpu = start_in(3, iret_);
  cpu.eflags |= f_nt;
  group("before");
  group(NULL);
  run_cpu(&cpu);
  panic("came back");
}
