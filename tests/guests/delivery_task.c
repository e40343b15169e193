// An exception whose IDT entry is a task gate to an available TSS: everything is in order, and what follows, a task switch, is not there.
//
// exit: 10
// stderr: through a task gate
// qemu: deviates (switches tasks)
//
// expect:
//   before: ok
// end
#include "lib/transfer.h"

SNIPPET(do_ud, "ud2\n");

void guest_main(void) {
  static struct Tss other;
  transfer_init();
  gdt[slot / 8] = descriptor((u32)&other, 0x67, 0x89, 0);
  idt[v_opcode] = gate(slot, 0, 0x85);
  struct Cpu cpu = start_in(3, do_ud);
  group("before");
  group(NULL);
  run_cpu(&cpu);
  panic("came back");
}
