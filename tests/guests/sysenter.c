// SYSENTER and SYSEXIT (SDM vol. 2): targets from the MSRs, flat segments whatever the descriptor tables say, IF and VM cleared,
// ECX and EDX on the way back, and their faults.
//
// qemu: deviates in "faults" (takes a NULL selector with RPL bits for a good one)
// qemu: deviates in "again" (the same)
// qemu: deviates in "other modes" (checks no alignment)
//
// expect:
//   MSRs: ok
//   entry: ok
//   return: ok
//   faults: ok
//   again: ok
//   other modes on the way back: ok
//   round trips under timer interrupts: ok
// end
#include "lib/guest.h"

SNIPPET(do_sysenter, "sysenter\n" DONE);
SNIPPET(do_sysexit, "sysexit\n" DONE);
// What ring 0 finds, in registers that it does not need.
SNIPPET(kernel_landing, "mov eax, cs\nmov ebx, ss\nmov ecx, esp\npushfd\npop edx\nmov esi, ds\nmov edi, es\n" DONE);
SNIPPET(user_landing, "mov eax, cs\nmov ebx, ss\nmov ecx, esp\npushfd\npop edx\nmov esi, ds\n" DONE);

static u8 entry_stack[4096] __attribute__((aligned(16)));
#define ENTRY_TOP ((u32)entry_stack + sizeof(entry_stack))

static void msrs(void) {
  check_true("CPUID announces SEP", (cpuid(1).edx >> 11 & 1) == 1);
  write_msr(msr_sysenter_cs, 0x1234);
  write_msr(msr_sysenter_esp, 0x89ABCDEF);
  write_msr(msr_sysenter_eip, 0xFEDCBA98);
  check("cs", (u32)read_msr(msr_sysenter_cs), 0x1234);
  check("esp", (u32)read_msr(msr_sysenter_esp), 0x89ABCDEF);
  check("eip", (u32)read_msr(msr_sysenter_eip), 0xFEDCBA98);
  write_msr(msr_sysenter_cs, kernel_code);
  write_msr(msr_sysenter_esp, ENTRY_TOP);
  write_msr(msr_sysenter_eip, (u32)kernel_landing);
}

static void entry(void) {
  struct Cpu cpu = user_cpu(do_sysenter);
  cpu.eflags |= f_if | f_cf | f_iopl;
  cpu.es = 0;
  run_cpu(&cpu);
  check_done("sysenter");
  check("cs", trap.cpu.eax, kernel_code);
  check("ss", trap.cpu.ebx, kernel_data);
  check("esp", trap.cpu.ecx, ENTRY_TOP);
  check("flags: IF cleared, others kept", trap.cpu.edx, f_fixed | f_cf | f_iopl);
  check("ds kept", trap.cpu.esi, user_data);
  check("es kept", trap.cpu.edi, 0);
  // From ring 0 as well.
  cpu = kernel_cpu(do_sysenter);
  run_cpu(&cpu);
  check_done("from ring 0");
  check("cs", trap.cpu.eax, kernel_code);
  // RPL bits in the MSR do not count, and the descriptors are not read.
  cpu = user_cpu(do_sysenter);
  write_msr(msr_sysenter_cs, kernel_code | 3);
  run_cpu(&cpu);
  check("RPL cleared", trap.cpu.eax, kernel_code);
  check("RPL of ss", trap.cpu.ebx, kernel_data);
  write_msr(msr_sysenter_cs, first_free);  // empty descriptors
  run_cpu(&cpu);
  check_done("descriptors are not read");
  check("cs", trap.cpu.eax, first_free);
  check("ss", trap.cpu.ebx, first_free + 8);
  write_msr(msr_sysenter_cs, kernel_code);
}

static void back(void) {
  struct Cpu cpu = kernel_cpu(do_sysexit);
  cpu.ecx = (u32)user_stack + 0x800;
  cpu.edx = (u32)user_landing;
  cpu.eflags |= f_cf | f_iopl;
  cpu.ds = user_data;
  run_cpu(&cpu);
  check_done("sysexit");
  check("cs", trap.cpu.eax, kernel_code + 16 + 3);
  check("ss", trap.cpu.ebx, kernel_code + 24 + 3);
  check("esp", trap.cpu.ecx, (u32)user_stack + 0x800);
  check("flags", trap.cpu.edx, f_fixed | f_cf | f_iopl);
  check("ds kept", trap.cpu.esi, user_data);
  check("trap came from ring 3", trap.cpu.cs, user_code);
}

static void faults(void) {
  write_msr(msr_sysenter_cs, 0);
  struct Cpu cpu = user_cpu(do_sysenter);
  run_cpu(&cpu);
  check_trap("sysenter with CS = 0", v_protection, 0, do_sysenter);
  cpu = kernel_cpu(do_sysexit);
  run_cpu(&cpu);
  check_trap("sysexit with CS = 0", v_protection, 0, do_sysexit);
  write_msr(msr_sysenter_cs, 3);
  cpu = user_cpu(do_sysenter);
  run_cpu(&cpu);
  check_trap("sysenter with a NULL selector", v_protection, 0, do_sysenter);
  write_msr(msr_sysenter_cs, kernel_code);
  cpu = user_cpu(do_sysexit);
  run_cpu(&cpu);
  check_trap("sysexit in ring 3", v_protection, 0, do_sysexit);
}

// SYSEXIT where ring 3 is in another mode than the last time: time stamps forbidden, alignment checked.
SNIPPET(read_time, "rdtsc\n" DONE);
SNIPPET(read_misaligned, "mov eax, [ebx + 1]\n" DONE);
static void other_modes(void) {
  enum { cr0_align = 1 << 18, v_alignment = 17 };
  u32 cr0 = read_cr0(), cr4 = read_cr4();
  for (u32 n = 0; n < 12; n++) {
    bool tsd = n % 3 == 1, ac = n % 4 >= 2, am = n % 4 == 3;
    write_cr4(tsd ? cr4 | cr4_tsd : cr4 & ~(u32)cr4_tsd);
    write_cr0(am ? cr0 | cr0_align : cr0 & ~(u32)cr0_align);
    struct Cpu cpu = kernel_cpu(do_sysexit);
    cpu.ds = cpu.es = cpu.fs = cpu.gs = user_data;
    cpu.eflags |= ac ? f_ac : 0;
    cpu.ecx = (u32)user_stack + 0x800;
    cpu.edx = (u32)read_time;
    run_cpu(&cpu);
    if (tsd) {
      check_trap("rdtsc forbidden", v_protection, 0, read_time);
    } else {
      check_done("rdtsc allowed");
    }
    cpu.ebx = (u32)user_stack + 0x900;
    cpu.edx = (u32)read_misaligned;
    run_cpu(&cpu);
    if (ac && am) {
      check_trap("misaligned", v_alignment, 0, read_misaligned);
    } else {
      check_done("misaligned, not checked");
    }
    check("AC kept", trap.cpu.eflags & f_ac, ac ? f_ac : 0);
  }
  write_cr4(cr4);
  write_cr0(cr0);
}

// A small system call: eax = eax * 2 + 1, returns to edx with stack ecx, as Linux's 32-bit entry does.
SNIPPET(system_call, "push ecx\npush edx\nsti\nlea eax, [eax + eax + 1]\nnop\ncli\npop edx\npop ecx\nsti\nsysexit\n");
SNIPPET(user_loop,
        "mov edi, 20000\n1: mov eax, edi\npush ebp\nmov ecx, esp\nmov edx, offset 2f\nsysenter\nud2\n2: pop ebp\n"
        "lea ebx, [edi + edi + 1]\ncmp eax, ebx\njne 3f\ndec edi\njnz 1b\nmov eax, 0x600D\n" DONE "3: ud2\n");

static u32 ticks;
static bool on_timer(struct Frame* frame) {
  (void)frame;
  ticks++;
  pic_eoi(0);
  return true;
}

static void round_trips(void) {
  pic_init();
  pic_unmask(0);
  set_hook(irq_base, on_timer);
  pit_periodic(1500);
  write_msr(msr_sysenter_eip, (u32)system_call);
  struct Cpu cpu = user_cpu(user_loop);
  cpu.eflags |= f_if;
  cpu.ebp = 0x12121212;
  do {
    run_cpu(&cpu);
    check_done("loop");
    check("all answers right", trap.cpu.eax, 0x600D);
    check("ebp", trap.cpu.ebp, 0x12121212);
    check("esp", trap.cpu.esp, cpu.esp);
  } while (ticks < 20);
}

void guest_main(void) {
  descriptors_init();
  group("MSRs");
  msrs();
  group("entry");
  entry();
  group("return");
  back();
  group("faults");
  faults();
  // The tables of the other ring are known by now.
  group("again");
  for (u32 n = 0; n < 3; n++) {
    write_msr(msr_sysenter_eip, (u32)kernel_landing);
    entry();
    back();
    faults();
  }
  group("other modes on the way back");
  other_modes();
  group("round trips under timer interrupts");
  round_trips();
}
