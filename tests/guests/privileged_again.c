// Privileged instructions again and again at the same place, with operands of the usual kind between others: CLTS and MOV CR0 around FPU
// use, RDMSR and WRMSR of SYSENTER's registers and of others, LGDT and LIDT of operands in one page and across two, LTR of a descriptor
// that changes, CPUID of leaves in turn.
//
// qemu: deviates (it takes PG without PE, and does not come back; without that check: it keeps undefined bits of CR0 and upper bits of
// IA32_SYSENTER_CS are lost, MSRs that do not exist and LTR of NULL do not fault)
//
// expect:
//   task switched: ok
//   cr0: ok
//   msr: ok
//   descriptor tables: ok
//   task register: ok
//   identification: ok
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

SNIPPET(load_tr, "ltr ax\nstr bx\n" DONE);
SNIPPET(user_trap, "nop\n" DONE);
static struct Tss other_tss __attribute__((aligned(4096)));

// The one place that loads TR meets a descriptor that is as before, busy, of another TSS, outside of the table, and no TSS.
static void task_register(void) {
  enum { busy = 11, available = 9 };
  static u32 other_stack[1024];
  u64* entry = &gdt[tss_selector / 8];
  other_tss = tss;
  other_tss.esp0 = (u32)(other_stack + ARRAY_SIZE(other_stack));
  for (u32 n = 0; n < 60; n++) {
    bool other = n % 4 == 1;
    *entry = descriptor(other ? (u32)&other_tss : (u32)&tss, sizeof(tss) - 1, 0x89, 0);
    struct Cpu cpu = kernel_cpu(load_tr);
    cpu.eax = 0xABCD0000 | tss_selector;
    cpu.ebx = 0;
    cpu.eflags |= f_cf | f_of | f_pf;
    run_cpu(&cpu);
    check_done("ltr");
    check("str", trap.cpu.ebx, tss_selector);
    check("flags", trap.cpu.eflags & f_status, f_cf | f_of | f_pf);
    check("busy", (u32)(*entry >> 40) & 15, busy);
    // Which TSS it is shows where ring 3 traps to.
    other_stack[ARRAY_SIZE(other_stack) - 1] = 0;
    struct Cpu user = user_cpu(user_trap);
    run_cpu(&user);
    check_done("trap from ring 3");
    check("by the other TSS", other_stack[ARRAY_SIZE(other_stack) - 1] != 0, other);

    run_cpu(&cpu);
    check_trap("busy", v_protection, tss_selector, load_tr);
    check_unchanged("changes nothing", &cpu);
    *entry = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
    load_gdt((u32)gdt, tss_selector + 6);
    run_cpu(&cpu);
    own_gdt();
    check_trap("over the limit", v_protection, tss_selector, load_tr);
    *entry = descriptor((u32)&tss, sizeof(tss) - 1, n & 1 ? 0x09 : 0x82, 0);
    run_cpu(&cpu);
    check_trap("absent, or an LDT", n & 1 ? v_not_present : v_protection, tss_selector, load_tr);
    cpu.eax = n & 1 ? 0 : tss_selector | 4;
    run_cpu(&cpu);
    check_trap("NULL, or of the LDT", v_protection, n & 1 ? 0 : tss_selector | 4, load_tr);
    // Another table in another place: what counts is what lies there.
    u64 copy[ARRAY_SIZE(gdt)] __attribute__((aligned(8)));
    memcpy(copy, gdt, sizeof(gdt));
    copy[tss_selector / 8] = descriptor((u32)&tss, sizeof(tss) - 1, n & 1 ? 0x89 : 0x8B, 0);
    load_gdt((u32)copy, sizeof(gdt) - 1);
    cpu.eax = tss_selector;
    run_cpu(&cpu);
    own_gdt();
    if (n & 1) {
      check_done("ltr of a copy");
      check("busy", (u32)(copy[tss_selector / 8] >> 40) & 15, busy);
    } else {
      check_trap("busy in a copy", v_protection, tss_selector, load_tr);
    }
  }
  *entry = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
  load_task(tss_selector);
}

SNIPPET(identify, "cpuid\n" DONE);

static void identification(void) {
  static const u32 leaves[] = {0, 1, 8, 0, 0, 0x80000000, 0x80000002, 0x80000003, 1, 2, 7, 7};
  struct Cpu first[ARRAY_SIZE(leaves)];
  for (u32 n = 0; n < 6 * ARRAY_SIZE(leaves); n++) {
    u32 which = n % ARRAY_SIZE(leaves);
    struct Cpu cpu = n & 1 ? user_cpu(identify) : kernel_cpu(identify);
    cpu.eax = leaves[which];
    cpu.ecx = which == 11 ? 1 : 0;
    cpu.ebx = cpu.edx = 0x5A5A5A5A;
    cpu.eflags |= f_cf | f_sf | f_of;
    run_cpu(&cpu);
    check_done("cpuid");
    check("flags", trap.cpu.eflags & f_status, f_cf | f_sf | f_of);
    check("esi", trap.cpu.esi, cpu.esi);
    if (n < ARRAY_SIZE(leaves)) first[which] = trap.cpu;
    check("eax", trap.cpu.eax, first[which].eax);
    check("ebx", trap.cpu.ebx, first[which].ebx);
    check("ecx", trap.cpu.ecx, first[which].ecx);
    check("edx", trap.cpu.edx, first[which].edx);
  }
  check_true("the leaves differ", first[0].eax != first[1].eax && first[6].ebx != first[7].ebx);
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
  group("task register");
  task_register();
  group("identification");
  identification();
}
