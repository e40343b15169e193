// External interrupts that come in between the elements of a REP push RF = 1, all others RF = 0 (SDM vol. 3, 17.3.1.1), and the REP goes on
// where it was.
//
// qemu: deviates (RF is never pushed)
// skip: lockstep (it records the fills element by element)
//
// expect:
//   interrupt between elements: ok
// end
#include "lib/guest.h"

SNIPPET(long_rep, "sti\n1: mov ecx, 0x80000\nmov edi, ebx\n" LABEL(long_rep_at) "rep stosb\n" LABEL(long_rep_after) "dec eax\njnz 1b\ncli\n" DONE);
extern const u8 long_rep_at[], long_rep_after[];
static u32 between, before_or_after, wrong_flags;
static bool count_places(struct Frame* frame) {
  if (frame->eip == (u32)long_rep_at && frame->ecx != 0x80000) {
    between++;
    if (!(frame->eflags & f_rf)) wrong_flags++;
  } else {
    before_or_after++;
    if (frame->eflags & f_rf) wrong_flags++;
  }
  pic_eoi(0);
  return true;
}

// A periodic timer over long fills: most interrupts come in between two elements, with RF; all others without.
static void interrupt_between_elements(void) {
  u32 area = new_pages(0x80000 / page_bytes);
  set_hook(irq_base, count_places);
  pit_periodic(1193);
  for (u32 round = 0; round < 200 && between < 3; round++) {
    struct Cpu cpu = kernel_cpu(long_rep);
    cpu.ebx = area;
    cpu.eax = 40;
    run_cpu(&cpu);
    check_done("fill");
    check("ecx", trap.cpu.ecx, 0);
    check("edi", trap.cpu.edi, area + 0x80000);
  }
  pit_quiet();
  check_true("some came between elements", between >= 3);
  check("RF where it belongs", wrong_flags, 0);
}

void guest_main(void) {
  descriptors_init();
  pic_init();
  pic_unmask(0);
  group("interrupt between elements");
  interrupt_between_elements();
}
