// CALL to an available TSS: everything is in order, and what follows, a task switch, is not there.
//
// exit: 10
// stderr: hardware task switch
// qemu: deviates (switches tasks)
//
// expect:
//   before: ok
// end
#include "lib/transfer.h"

SNIPPET(call_m, "call fword ptr [ebx]\n");

void guest_main(void) {
  static struct Tss other;
  transfer_init();
  gdt[slot / 8] = descriptor((u32)&other, 0x67, 0xE9, 0);
  far_pointer.selector = slot;
  struct Cpu cpu = start_in(3, call_m);
  group("before");
  group(NULL);
  run_cpu(&cpu);
  panic("came back");
}
