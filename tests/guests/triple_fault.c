// A fault while #DF is delivered shuts the processor down (SDM vol. 3, 6.15); with --no-reboot the run ends with the status of a triple
// fault and the last exceptions on standard error.
//
// qemu: deviates (its status is 0)
//
// expect:
//   about to fault three times
// end
// exit: 6
// stderr: triple fault
#include "lib/guest.h"

void guest_main(void) {
  descriptors_init();
  print("about to fault three times\n");
  load_idt(idt, 0);
  __asm__ volatile("ud2");
}
