// HLT with interrupts off and no way to wake: the run ends instead of hanging.
//
// qemu: deviates (waits for ever)
//
// expect:
//   about to stop
// end
// exit: 8
#include "lib/guest.h"

void guest_main(void) {
  descriptors_init();
  print("about to stop\n");
  __asm__ volatile("cli; hlt");
}
