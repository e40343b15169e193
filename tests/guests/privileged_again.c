// Privileged instructions again and again at the same place, with operands of the usual kind between others: CLTS and MOV CR0 around FPU
// use, RDMSR and WRMSR of SYSENTER's registers and of others, LGDT and LIDT of operands in one page and across two.
//
// qemu: deviates (it takes PG without PE, and does not come back)
//
// expect:
//   task switched: ok
//   cr0: ok
//   msr: ok
//   descriptor tables: ok
// end
#include "lib/guest.h"

enum { cr0_align = 1 << 18 };

SNIPPET(set_cr0, "mov cr0, eax\nmov ebx, cr0\n" DONE);
SNIPPET(clear_ts, "clts\nmov ebx, cr0\n" DONE);
SNIPPET(set_and_use, "mov cr0, eax\n" LABEL(use_after_set) "fld1\nfistp dword ptr [esi]\nmov ebx, cr0\n" DONE);
SNIPPET(clear_and_use, "clts\nfld1\nfiadd dword ptr [esi]\nfistp dword ptr [esi]\nmov ebx, cr0\n" DONE);
extern const u8 use_after_set[];
SNIPPET(read_one_msr, "rdmsr\n" DONE);
SNIPPET(write_one_msr, "wrmsr\n" DONE);
SNIPPET(load_and_store_gdt, "lgdt [esi]\nsgdt [edi]\n" DONE);
SNIPPET(load_and_store_idt, "sidt [ebx]\nlidt [esi]\nsidt [edi]\nlidt [ebx]\n" DONE);

static u32 number;

static void task_switched(void) {
  u32 plain = (read_cr0() & ~(cr0_ts | cr0_em)) | cr0_mp;
  __asm__ volatile("fninit");
  for (u32 n = 0; n < 40; n++) {
    struct Cpu cpu = kernel_cpu(set_and_use);
    bool closed = n % 3 != 0;
    cpu.eax = plain | (closed ? cr0_ts : 0);
    cpu.esi = (u32)&number;
    number = n;
    run_cpu(&cpu);
    if (closed) {
      check_trap("TS set", v_no_fpu, 0, use_after_set);
    } else {
      check_done("TS clear");
      check("the FPU works", number, 1);
      check("cr0", trap.cpu.ebx, plain);
    }
    if (n % 4 == 3) continue;
    cpu = kernel_cpu(clear_and_use);
    cpu.esi = (u32)&number;
    number = n;
    run_cpu(&cpu);
    check_done("after CLTS");
    check("the FPU works", number, n + 1);
    check("cr0", trap.cpu.ebx, plain);
  }
  // CLTS does not open what EM closes.
  for (u32 n = 0; n < 3; n++) {
    write_cr0(plain | cr0_em | cr0_ts);
    struct Cpu cpu = kernel_cpu(clear_and_use);
    cpu.esi = (u32)&number;
    run_cpu(&cpu);
    check("EM", trap.vector, v_no_fpu);
    check("cr0", read_cr0(), plain | cr0_em);
    write_cr0(plain);
    run_cpu(&cpu);
    check_done("EM clear");
  }
}

static void cr0_values(void) {
  u32 plain = read_cr0() & ~(u32)(cr0_ts | cr0_align);
  static const u32 changes[] = {0, cr0_ts, 0, cr0_align, cr0_align | cr0_ts, 1 << 16, 1 << 16 | cr0_ts, 0, cr0_ts};
  for (u32 n = 0; n < 4 * ARRAY_SIZE(changes); n++) {
    struct Cpu cpu = kernel_cpu(set_cr0);
    cpu.eax = plain | changes[n % ARRAY_SIZE(changes)];
    cpu.eflags |= f_cf | f_of | f_zf;
    run_cpu(&cpu);
    check_done("mov cr0");
    check("value", trap.cpu.ebx, cpu.eax);
    check("flags", trap.cpu.eflags & f_status, f_cf | f_of | f_zf);
    cpu = kernel_cpu(clear_ts);
    cpu.eflags |= f_cf | f_af | f_sf;
    run_cpu(&cpu);
    check_done("clts");
    check("value", trap.cpu.ebx, (plain | changes[n % ARRAY_SIZE(changes)]) & ~(u32)cr0_ts);
    check("flags", trap.cpu.eflags & f_status, f_cf | f_af | f_sf);
    // Refused: PG without PE; and an undefined bit is not kept.
    cpu = kernel_cpu(set_cr0);
    cpu.eax = (plain | 1u << 31) & ~1u;
    run_cpu(&cpu);
    check_trap("PG without PE", v_protection, 0, set_cr0);
    cpu.eax = plain | 1 << 6;
    run_cpu(&cpu);
    check("undefined bit", trap.cpu.ebx, plain);
    cpu.eax = plain & ~0x10u;
    run_cpu(&cpu);
    check("ET stays", trap.cpu.ebx, plain | 0x10);
  }
  write_cr0(plain);
}

static void msrs(void) {
  static const u32 numbers[] = {0x174, 0x173, 0x175, 0x176, 0x177, 0x174, 0x8B, 0x175, 0xFFFFFFFF, 0x176};
  u32 kept[3] = {0, 0, 0};
  for (u32 n = 0; n < 5 * ARRAY_SIZE(numbers); n++) {
    u32 which = numbers[n % ARRAY_SIZE(numbers)];
    bool exists = which == 0x8B || (which >= 0x174 && which <= 0x176);
    struct Cpu cpu = kernel_cpu(write_one_msr);
    cpu.ecx = which;
    cpu.eax = 0x01010101 * n;
    cpu.edx = which == 0x8B ? n : 0;
    cpu.eflags |= f_cf | f_of;
    run_cpu(&cpu);
    if (exists) {
      check_done("wrmsr");
      check("flags", trap.cpu.eflags & f_status, f_cf | f_of);
    } else {
      check_trap("wrmsr of none", v_protection, 0, write_one_msr);
    }
    if (which >= 0x174 && which <= 0x176) kept[which - 0x174] = cpu.eax;
    cpu = kernel_cpu(read_one_msr);
    cpu.ecx = which;
    cpu.eax = cpu.edx = 0xEEEEEEEE;
    cpu.eflags |= f_zf | f_of;
    run_cpu(&cpu);
    if (exists) {
      check_done("rdmsr");
      check("eax", trap.cpu.eax, 0x01010101 * n);
      check("edx", trap.cpu.edx, which == 0x8B ? n : 0);
      check("ecx", trap.cpu.ecx, which);
      check("flags", trap.cpu.eflags & f_status, f_zf | f_of);
    } else {
      check_trap("rdmsr of none", v_protection, 0, read_one_msr);
      check_unchanged("changes nothing", &cpu);
    }
    for (u32 i = 0; i < 3; i++) check("the others", (u32)read_msr(0x174 + i), kept[i]);
    struct Cpu user = user_cpu(n & 1 ? read_one_msr : write_one_msr);
    user.ecx = which;
    run_cpu(&user);
    check("ring 3", trap.vector, v_protection);
  }
}

static void descriptor_tables(void) {
  u8* pages = (u8*)new_pages(2);
  struct TableRegister stored;
  for (u32 n = 0; n < 40; n++) {
    // Around the border of two pages, aligned and not.
    struct TableRegister* at = (struct TableRegister*)(pages + page_bytes - 20 + n);
    *at = (struct TableRegister){(u16)(sizeof(gdt) - 1 - n), (u32)gdt};
    struct Cpu cpu = kernel_cpu(load_and_store_gdt);
    cpu.esi = (u32)at;
    cpu.edi = (u32)&stored;
    cpu.eflags |= f_cf | f_pf;
    run_cpu(&cpu);
    check_done("lgdt");
    check("limit", stored.limit, at->limit);
    check("base", stored.base, (u32)gdt);
    check("flags", trap.cpu.eflags & f_status, f_cf | f_pf);
    own_gdt();
    struct TableRegister own;
    *at = (struct TableRegister){(u16)(n * 7), 0x12340000 + n};
    cpu = kernel_cpu(load_and_store_idt);
    cpu.ebx = (u32)&own;
    cpu.esi = (u32)at;
    cpu.edi = (u32)&stored;
    run_cpu(&cpu);
    check_done("lidt");
    check("limit", stored.limit, n * 7);
    check("base", stored.base, 0x12340000 + n);
  }
}

void guest_main(void) {
  descriptors_init();
  group("task switched");
  task_switched();
  group("cr0");
  cr0_values();
  group("msr");
  msrs();
  group("descriptor tables");
  descriptor_tables();
}
