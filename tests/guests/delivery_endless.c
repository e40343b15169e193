// #AC whose handler is in ring 3, on a stack that is misaligned: delivering it raises it again, without end (SDM vol. 3, 6.15: two benign
// exceptions are handled one after the other). A real CPU never gets out of this; the run ends with a message, and the process lives.
//
// exit: 10
// stderr: an alignment check that its own delivery raises again
// qemu: deviates (raises no #AC)
//
// expect:
//   before: ok
// end
#include "lib/transfer.h"

SNIPPET(push_misaligned, "push eax\n");

void guest_main(void) {
  transfer_init();
  idt[17] = gate(user_code, (u32)pad, 0x8E);
  write_cr0(read_cr0() | 0x40000);  // AM
  struct Cpu cpu = start_in(3, push_misaligned);
  cpu.esp -= 2;
  cpu.eflags |= f_ac;
  group("before");
  group(NULL);
  run_cpu(&cpu);
  panic("came back");
}
