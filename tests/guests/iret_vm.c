// VM in the flags that IRET pops outside of ring 0: it is ignored, whatever IOPL is (SDM vol. 2, IRET/IRETD). In ring 0: iret_v8086.c.
//
// qemu: deviates (enters v8086 mode from every ring)
//
// expect:
//   VM is ignored: ok
// end
#include "lib/transfer.h"

enum { f_vm = 0x20000 };
SNIPPET(iret_, "iretd\n");

void guest_main(void) {
  transfer_init();
  group("VM is ignored");
  for (u32 n = 0; n < 4 * 4 * 4; n++) {
    const u32 cpl = n & 3, to = n >> 2 & 3, iopl = n >> 4;
    if (cpl == 0 || to < cpl) continue;
    struct Cpu start = start_in(cpl, iret_), end;
    start.eflags |= iopl << 12;
    const u32 frame[] = {(u32)pad, code_of(to), f_vm | f_cf, (u32)user_stack + 0x800, data_of(to), 0, 0, 0, 0};
    memcpy((void*)start.esp, frame, sizeof(frame));
    end = start;
    end.cs = code_of(to);
    end.eip = (u32)pad;
    end.eflags = f_fixed | f_cf | iopl << 12;
    end.esp += 12;
    if (to != cpl) {
      end.ss = data_of(to);
      end.esp = (u32)user_stack + 0x800;
      end.ds = end.es = end.fs = end.gs = 0;
    }
    landed("flags", &start, &end);
  }
}
