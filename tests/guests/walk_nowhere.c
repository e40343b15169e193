// A directory where there is no memory: nothing is mapped, neither the next instruction nor the IDT, so the processor shuts down (SDM
// vol. 3, 6.15). The run ends as for every triple fault.
//
// qemu: deviates (its status is 0)
//
// expect:
//   MOV CR3 to nowhere
// end
// exit: 6
// stderr: triple fault
#include "lib/guest.h"

void guest_main(void) {
  descriptors_init();
  struct Space space = new_space(false);
  use_space(&space);
  print("MOV CR3 to nowhere\n");
  write_cr3(0xF0000000);
  print("still here\n");
}
