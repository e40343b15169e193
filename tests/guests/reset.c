// Port CF9h resets the machine; with --no-reboot the run ends there. The keyboard controller's pulse of the reset line does the same
// (command FEh), and is not reached.
//
// qemu: deviates (its status is 0)
//
// expect:
//   about to reset
// end
// exit: 4
#include "lib/guest.h"

void guest_main(void) {
  print("about to reset\n");
  outb(0xCF9, 2);
  outb(0xCF9, 6);
  for (;;) __asm__ volatile("pause");
}
