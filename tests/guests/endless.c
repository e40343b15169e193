// A loop that never ends, with interrupts off and nothing for the machine to do: --timeout ends it all the same.
//
// qemu: deviates (has no --timeout)
// timeout: 2
//
// expect:
//   for ever
// end
// exit: 124
#include "lib/guest.h"

void guest_main(void) {
  print("for ever\n");
  __asm__ volatile("cli\n1: jmp 1b");
}
