// What a guest reads back: CPUID, control registers, segment registers, flags, the state a Multiboot loader must leave (Multiboot
// 0.6.96, 3.2 and 3.3), and RDTSC (SDM vol. 2, CPUID; vol. 3, 2.5).
//
// qemu: deviates (takes CR0.PG without PE, NW without CD and unknown MSRs)
//
// expect:
//   Multiboot state: ok
//   Multiboot information: ok
//   CPUID: ok
//   control registers: ok
//   control register faults: ok
//   EFER and other MSRs: ok
//   ID flag: ok
// end
#include "lib/guest.h"

static void multiboot_state(void) {
  check("magic", multiboot_magic, 0x2BADB002);
  check("protected mode, no paging", read_cr0() & (cr0_pe | (u32)cr0_pg), cr0_pe);
  check("interrupts off", read_flags() & f_if, 0);
}

static void multiboot_information(void) {
  const u32* info = (const u32*)multiboot_info;
  check("memory fields", info[0] & 1, 1);
  check("memory map", info[0] & 0x40, 0x40);
  check_true("lower memory in KiB", info[1] >= 512 && info[1] <= 640);
  check_true("upper memory in KiB", info[2] > 30 * 1024);
  check("boot loader name", info[0] & 0x200, 0x200);
  // Walks the map: this image and the test's pages must lie in available memory.
  u32 at = info[12], end = at + info[11];
  bool found = false;
  u32 entries = 0;
  while (at < end && entries < 100) {
    const u32* entry = (const u32*)at;
    u64 base = entry[1] | (u64)entry[2] << 32, length = entry[3] | (u64)entry[4] << 32;
    if (entry[5] == 1 && base <= 1 << 20 && base + length >= 33 << 20) found = true;
    at += entry[0] + 4;
    entries++;
  }
  check("entries fill the map", at, end);
  check_true("memory from 1 MiB up is available", found);
}

SNIPPET(cpuid_user, "cpuid\n" DONE);

static void cpuid_leaves(void) {
  struct Cpuid zero = cpuid(0), one = cpuid(1);
  check_true("highest leaf", zero.eax >= 1 && zero.eax < 0x100);
  check_true("a vendor", zero.ebx && zero.ecx && zero.edx);
  check("FPU", one.edx & 1, 1);
  check("PSE", one.edx >> 3 & 1, 1);
  check("TSC", one.edx >> 4 & 1, 1);
  check("MSR", one.edx >> 5 & 1, 1);
  check("PAE", one.edx >> 6 & 1, 1);
  check("CX8", one.edx >> 8 & 1, 1);
  check("PGE", one.edx >> 13 & 1, 1);
  check("CMOV", one.edx >> 15 & 1, 1);
  check("FXSR", one.edx >> 24 & 1, 1);
  check("SSE2", one.edx >> 26 & 1, 1);
  // Ring 3 gets the same answers.
  struct Cpu cpu = user_cpu(cpuid_user);
  cpu.eax = 1;
  run_cpu(&cpu);
  check_done("ring 3");
  check("eax", trap.cpu.eax, one.eax);
  check("edx", trap.cpu.edx, one.edx);
  check("ecx", trap.cpu.ecx & ~(1u << 27), one.ecx & ~(1u << 27));
  check_true("highest extended leaf", cpuid(0x80000000).eax >= 0x80000000);
  // The physical address width bounds what page tables may hold.
  if (cpuid(0x80000000).eax >= 0x80000008) {
    u32 width = cpuid(0x80000008).eax & 0xFF;
    check_true("address width", width >= 32 && width <= 52);
  }
}

SNIPPET(load_cr0, "mov cr0, eax\n" DONE);
SNIPPET(load_cr4, "mov cr4, eax\n" DONE);

static void control_registers(void) {
  write_cr2(0xDEADBEEF);
  check("cr2", read_cr2(), 0xDEADBEEF);
  write_cr3(0x00345000);
  check("cr3", read_cr3(), 0x00345000);
  write_cr3(0x00345018);  // PWT and PCD
  check("cr3 keeps PWT and PCD", read_cr3(), 0x00345018);
  write_cr3(0);
  u32 cr0 = read_cr0();
  static const u32 bits[] = {cr0_mp, cr0_ts, cr0_ne, cr0_wp, 1u << 18};
  for (u32 i = 0; i < ARRAY_SIZE(bits); i++) {
    write_cr0(cr0 ^ bits[i]);
    check("cr0 bit", read_cr0(), cr0 ^ bits[i]);
    write_cr0(cr0);
  }
  write_cr0(cr0 & ~0x10u);
  check("ET is fixed", read_cr0() & 0x10, 0x10);
  write_cr0(cr0);
  // A bit of CR4 can be set exactly if CPUID announces what it controls (SDM vol. 3, 2.5).
  static const struct {
    u32 bit, feature;  // feature: bit of CPUID(1).EDX
  } bits4[] = {{cr4_tsd, 4}, {8, 2}, {cr4_pse, 3}, {cr4_pae, 6}, {cr4_pge, 13}, {cr4_osfxsr, 24}, {cr4_osxmmexcpt, 25}};
  u32 cr4 = read_cr4();
  for (u32 i = 0; i < ARRAY_SIZE(bits4); i++) {
    struct Cpu cpu = kernel_cpu(load_cr4);
    cpu.eax = cr4 ^ bits4[i].bit;
    run_cpu(&cpu);
    if (cpuid(1).edx >> bits4[i].feature & 1) {
      check_done("cr4 bit");
      check("cr4 bit", read_cr4(), cr4 ^ bits4[i].bit);
    } else {
      check_trap("cr4 bit without the feature", v_protection, 0, load_cr4);
    }
    write_cr4(cr4);
  }
}

SNIPPET(do_rdmsr, "rdmsr\n" DONE);
SNIPPET(do_wrmsr, "wrmsr\n" DONE);

static void control_faults(void) {
  struct Cpu cpu = kernel_cpu(load_cr0);
  cpu.eax = 0x80000010;  // PG without PE
  run_cpu(&cpu);
  check_trap("PG without PE", v_protection, 0, load_cr0);
  cpu.eax = read_cr0() | 0x20000000;  // NW without CD
  run_cpu(&cpu);
  check_trap("NW without CD", v_protection, 0, load_cr0);
  cpu = kernel_cpu(load_cr4);
  cpu.eax = read_cr4() | 0x80000000;
  run_cpu(&cpu);
  check_trap("reserved bit of cr4", v_protection, 0, load_cr4);
}

static void msrs(void) {
  write_msr(MSR_EFER, EFER_NXE);
  check("NXE", (u32)read_msr(MSR_EFER) & EFER_NXE, EFER_NXE);
  write_msr(MSR_EFER, 0);
  check("cleared", (u32)read_msr(MSR_EFER) & EFER_NXE, 0);
  struct Cpu cpu = kernel_cpu(do_rdmsr);
  cpu.ecx = 0x12345678;
  run_cpu(&cpu);
  check_trap("unknown MSR", v_protection, 0, do_rdmsr);
  cpu = kernel_cpu(do_wrmsr);
  cpu.ecx = 0x12345678;
  run_cpu(&cpu);
  check_trap("unknown MSR, write", v_protection, 0, do_wrmsr);
  cpu.ecx = MSR_EFER;
  cpu.eax = 0;
  cpu.edx = 0x80000000;
  run_cpu(&cpu);
  check_trap("reserved bits of EFER", v_protection, 0, do_wrmsr);
  // The time-stamp counter can be written and goes on from there.
  write_msr(0x10, 0x100000000000ull);
  u64 now = rdtsc();
  check_true("TSC", now >= 0x100000000000ull && now < 0x200000000000ull);
}

static void id_flag(void) {
  u32 before = read_flags(), changed;
  __asm__ volatile("push %1; popf; pushf; pop %0" : "=r"(changed) : "r"(before ^ (f_id | f_ac)));
  check("ID and AC toggle", changed ^ before, f_id | f_ac);
  __asm__ volatile("push %0; popf" ::"r"(before));
}

void guest_main(void) {
  group("Multiboot state");
  multiboot_state();
  group("Multiboot information");
  multiboot_information();
  descriptors_init();
  group("CPUID");
  cpuid_leaves();
  group("control registers");
  control_registers();
  group("control register faults");
  control_faults();
  group("EFER and other MSRs");
  msrs();
  group("ID flag");
  id_flag();
}
