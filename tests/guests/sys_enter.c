// SYSENTER and SYSEXIT from every ring and with every kind of IA32_SYSENTER_CS: each check of their pseudo-code (SDM vol. 2), which flags
// stay, selectors that wrap, segments that are flat whatever was loaded, and a target or a stack that is not there: that is a fault behind
// the transfer. (tests/guests/sysenter.c has the round trips.)
//
// qemu: deviates in "SYSENTER" (a NULL selector with RPL bits is taken)
// qemu: deviates in "SYSEXIT" (as above)
// qemu: deviates in "undefined forms" (LOCK is taken)
//
// expect:
//   SYSENTER: ok
//   SYSEXIT: ok
//   flags: ok
//   flat segments: ok
//   absent targets: ok
//   undefined forms: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, slot = 0x80 };

SNIPPET(do_sysenter, "sysenter\n" DONE);
SNIPPET(do_sysexit, "sysexit\n" DONE);
SNIPPET(landing, "mov eax, cs\n mov ebx, ss\n mov ecx, esp\n pushfd\n pop edx\n" DONE);
SNIPPET(user_landing, "mov eax, cs\n mov ebx, ss\n mov edi, esp\n pushfd\n pop ebp\n" DONE);
static u8 entry_stack[4096] __attribute__((aligned(16)));
#define ENTRY_TOP ((u32)entry_stack + sizeof(entry_stack))

static const u16 selectors[] = {0, 1, 2, 3, 4, 8, 9, 10, 11, 0x1233, 0xFFF0, 0xFFF8, 0xFFFC, 0xFFFF};

static void enter(void) {
  write_msr(msr_sysenter_esp, ENTRY_TOP);
  write_msr(msr_sysenter_eip, (u32)landing);
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < ARRAY_SIZE(selectors); i++) {
      write_msr(msr_sysenter_cs, selectors[i]);
      struct Cpu cpu = ring_cpu(ring, do_sysenter);
      cpu.ecx = 0x12345678;
      run_cpu(&cpu);
      if (selectors[i] < 4) {
        check_trap("NULL", v_protection, 0, do_sysenter);
        check_unchanged("NULL", &cpu);
        continue;
      }
      // No descriptor is read, so that any selector will do.
      check_done("sysenter");
      check("cs", trap.cpu.eax, selectors[i] & 0xFFFCu);
      check("ss", trap.cpu.ebx, (u16)((selectors[i] & 0xFFFCu) + 8));
      check("esp", trap.cpu.ecx, ENTRY_TOP);
      check("trap came from ring 0", trap.cpu.cs, selectors[i] & 0xFFFCu);
      check("ds stays", trap.cpu.ds, cpu.ds);
    }
  }
  write_msr(msr_sysenter_cs, kernel_code);
}

static void leave(void) {
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < ARRAY_SIZE(selectors); i++) {
      write_msr(msr_sysenter_cs, selectors[i]);
      struct Cpu cpu = ring_cpu(ring, do_sysexit);
      cpu.ecx = (u32)user_stack + 0x800;
      cpu.edx = (u32)user_landing;
      run_cpu(&cpu);
      if (ring != 0 || selectors[i] < 4) {
        check_trap("refused", v_protection, 0, do_sysexit);
        check_unchanged("refused", &cpu);
        continue;
      }
      check_done("sysexit");
      check("cs", trap.cpu.eax, (u16)((selectors[i] + 16) | 3));
      check("ss", trap.cpu.ebx, (u16)(((selectors[i] + 16) | 3) + 8));
      check("esp", trap.cpu.edi, (u32)user_stack + 0x800);
      check("trap came from ring 3", trap.cpu.cs, (u16)((selectors[i] + 16) | 3));
      check("ds stays", trap.cpu.ds, cpu.ds);
    }
  }
  write_msr(msr_sysenter_cs, kernel_code);
}

// SYSENTER clears IF (and VM and RF); SYSEXIT changes no flag.
static void flags(void) {
  const u32 all = f_status | f_df | f_if | f_nt | f_ac | f_id;
  for (u32 bit = 0; bit < 33; bit++) {
    const u32 chosen = (bit == 32 ? all : 1u << bit) & (all | f_iopl);
    struct Cpu cpu = user_cpu(do_sysenter);
    cpu.eflags |= chosen;
    run_cpu(&cpu);
    check_done("sysenter");
    check("flags", trap.cpu.edx, (f_fixed | chosen) & ~(u32)f_if);
    cpu = kernel_cpu(do_sysexit);
    cpu.ecx = (u32)user_stack + 0x800;
    cpu.edx = (u32)user_landing;
    cpu.eflags |= chosen;
    run_cpu(&cpu);
    check_done("sysexit");
    check("flags", trap.cpu.ebp, f_fixed | chosen);
  }
}

// CS and SS are flat behind the transfer, also if the user's had bases and limits, and DS keeps its own.
SNIPPET(based_sysenter, "sysenter\n");
SNIPPET(flat_landing, "mov eax, ss:[esi]\n mov ebx, cs:[esi]\n mov ecx, [edi]\n" DONE);

static void flat(void) {
  static u32 words[4] = {0x11111111, 0x22222222, 0x33333333, 0x44444444};
  gdt[slot / 8] = descriptor((u32)based_sysenter & ~0xFFFu, 0xFFF, 0xFB, 4);
  gdt[slot / 8 + 1] = descriptor((u32)words, 15, 0xF3, 4);
  write_msr(msr_sysenter_eip, (u32)flat_landing);
  struct Cpu cpu = user_cpu((void*)((u32)based_sysenter & 0xFFF));
  cpu.cs = slot | 3;
  cpu.ss = cpu.ds = (slot + 8) | 3;
  cpu.esp = 8;
  cpu.esi = (u32)&words[1];
  cpu.edi = 8;
  run_cpu(&cpu);
  check_done("flat");
  check("ss", trap.cpu.eax, 0x22222222);
  check("cs", trap.cpu.ebx, 0x22222222);
  check("ds keeps base and limit", trap.cpu.ecx, 0x33333333);
  write_msr(msr_sysenter_eip, (u32)landing);
}

// The transfer itself reads nothing: the fetch behind it faults, in the new ring, at the new place.
static void absent(void) {
  struct Space space = new_space(false);
  use_space(&space);
  map(&space, window, 0);
  write_msr(msr_sysenter_eip, window + 0x123);
  struct Cpu cpu = user_cpu(do_sysenter);
  run_cpu(&cpu);
  check_page_fault("entry", 0, window + 0x123, (void*)(window + 0x123));
  check("in ring 0", trap.cpu.cs, kernel_code);
  write_msr(msr_sysenter_eip, (u32)landing);
  cpu = kernel_cpu(do_sysexit);
  cpu.ecx = (u32)user_stack + 0x800;
  cpu.edx = window + 0x456;
  run_cpu(&cpu);
  check_page_fault("return", e_user, window + 0x456, (void*)(window + 0x456));
  check("in ring 3", trap.cpu.cs, (kernel_code + 16) | 3);
  check("esp", trap.cpu.esp, (u32)user_stack + 0x800);
  // A supervisor's page is not the user's.
  map(&space, window, new_page() | p_present | p_write);
  run_cpu(&cpu);
  check_page_fault("return to a supervisor page", e_present | e_user, window + 0x456, (void*)(window + 0x456));
  paging_off();
}

SNIPPET(lock_sysenter, ".byte 0xF0, 0x0F, 0x34\n" DONE);
SNIPPET(lock_sysexit, ".byte 0xF0, 0x0F, 0x35\n" DONE);

static void undefined_forms(void) {
  static const u8* const codes[] = {lock_sysenter, lock_sysexit};
  for (u32 ring = 0; ring < 4; ring += 3) {
    for (u32 i = 0; i < 2; i++) {
      struct Cpu cpu = ring_cpu(ring, codes[i]);
      cpu.ecx = (u32)user_stack + 0x800;
      cpu.edx = (u32)user_landing;
      run_cpu(&cpu);
      check_trap("LOCK", v_opcode, 0, codes[i]);
      check_unchanged("LOCK", &cpu);
    }
  }
}

void guest_main(void) {
  descriptors_init();
  group("SYSENTER");
  enter();
  group("SYSEXIT");
  leave();
  group("flags");
  flags();
  group("flat segments");
  flat();
  group("absent targets");
  absent();
  group("undefined forms");
  undefined_forms();
  finish();
}
