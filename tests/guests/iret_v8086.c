// IRET of ring 0 with VM in the popped flags: v8086 mode is not there.
//
// exit: 10
// stderr: IRET to v8086 mode
// qemu: deviates (enters v8086 mode)
//
// expect:
//   before: ok
// end
#include "lib/transfer.h"

SNIPPET(iret_, "iretd\n");

void guest_main(void) {
  transfer_init();
  struct Cpu cpu = start_in(0, iret_);
  cpu.esp -= 36;
  memset((void*)cpu.esp, 0, 36);
  write32(cpu.esp + 8, 0x20002);
  group("before");
  group(NULL);
  run_cpu(&cpu);
  panic("came back");
}
