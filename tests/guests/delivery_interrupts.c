// Interrupts of the timer through interrupt and trap gates of both sizes, from and to every ring: frame, flags, stack, and no RF (SDM
// vol. 3, 6.8.1, 6.12.1 and 17.3.1.1). Their faults carry EXT, and the interrupt is in service all the same: nested_faults.c.
//
// expect:
//   interrupts: ok
//   conforming handlers: ok
// end
#include "lib/transfer.h"

SNIPPET(endless_loop, "1: jmp 1b\n");

static void interrupt(u32 type, u32 from, u32 ring, u8 code_access, bool inner) {
  const u32 size = type & 8 ? 4 : 2;
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, code_access, 0xC);
  idt[irq_base] = gate(slot, pad_offset, (u8)(0x80 | type));  // an interrupt does not look at the gate's DPL
  struct Cpu start = start_in(from, endless_loop), end;
  start.eflags |= f_if | f_nt | f_cf | f_df | f_id | f_iopl;
  end = start;
  end.cs = slot | ring;
  end.eip = pad_offset;
  end.eflags &= ~(u32)(f_nt | (type & 1 ? 0 : f_if));
  if (inner) {
    end.ss = data_of(ring);
    end.esp = stack_top(ring);
  }
  end.esp -= (inner ? 5 : 3) * size;
  pic_unmask(0);
  pit_oneshot(50);
  // The handler's `int 0x80` comes with the interrupt still in service, so a trap gate's IF does no harm.
  bool good = landed("interrupt", &start, &end);
  pic_mask(0);
  pic_eoi(0);
  const u32 frame[] = {start.eip, start.cs, start.eflags, start.esp, start.ss};
  good &= check_items("frame", end.esp, frame, inner ? 5 : 3, size);
  if (!good && showing_failures()) printf("       gate type %u from %u to %u\n", type, from, ring);
}

void guest_main(void) {
  static const u8 types[] = {6, 7, 14, 15};
  transfer_init();
  pic_init();
  group("interrupts");
  for (u32 n = 0; n < 4 * 4 * 4; n++) {
    const u32 from = n >> 2 & 3, to = n >> 4;
    if (to <= from) interrupt(types[n & 3], from, to, (u8)(0x9B | to << 5), to < from);
  }
  group("conforming handlers");
  for (u32 n = 0; n < 4 * 4 * 4; n++) {
    const u32 from = n >> 2 & 3, dpl = n >> 4;
    if (dpl <= from) interrupt(types[n & 3], from, from, (u8)(0x9F | dpl << 5), false);
  }
}
