// MOV to and from control registers, LMSW, SMSW, CLTS, RDMSR, WRMSR, RDTSC, RDPMC, CPUID: each check of their pseudo-code (SDM vol. 2) and
// the rules of vol. 3, 2.5: bits that must not be set together, reserved bits, and what CPUID says may be set. What is refused changes
// nothing.
//
// qemu: deviates (reserved bits and combinations of CR0, CR4, EFER and PAT are taken without a fault, unknown MSRs exist, RDPMC does not)
//
// expect:
//   CR0: ok
//   CR2 and CR3: ok
//   CR4: ok
//   registers that are not there: ok
//   encodings: ok
//   LMSW and SMSW: ok
//   CLTS: ok
//   unknown MSRs: ok
//   EFER: ok
//   PAT: ok
//   SYSENTER's and read-only MSRs: ok
//   RDTSC: ok
//   RDPMC: ok
//   CPUID: ok
//   caches: ok
// end
#include "lib/guest.h"

enum { cr0_am = 1 << 18, cr0_nw = 1 << 29, cr0_cd = 1 << 30, cr0_et = 0x10 };

SNIPPET(to_cr0, "mov cr0, eax\n" DONE);
SNIPPET(to_cr2, "mov cr2, eax\n" DONE);
SNIPPET(to_cr3, "mov cr3, eax\n" DONE);
SNIPPET(to_cr4, "mov cr4, eax\n" DONE);

static void run_with(const u8* code, u32 eax, u32 ecx, u32 edx) {
  struct Cpu cpu = kernel_cpu(code);
  cpu.eax = eax;
  cpu.ecx = ecx;
  cpu.edx = edx;
  run_cpu(&cpu);
}

static void test_cr0(void) {
  static const u32 bits[] = {cr0_mp, cr0_em, cr0_ts, cr0_ne, cr0_wp, cr0_am, cr0_nw, cr0_cd};
  struct Space space = new_space(false);
  write_cr3(space.root);
  for (u32 paging = 0; paging < 2; paging++) {
    for (u32 i = 0; i < 256; i++) {
      u32 value = cr0_pe | (paging ? (u32)cr0_pg : 0);
      for (u32 bit = 0; bit < 8; bit++) value |= i >> bit & 1 ? bits[bit] : 0;
      u32 before = cr0_pe | cr0_et | cr0_mp | (paging ? (u32)cr0_pg : 0);
      write_cr0(before);
      run_with(to_cr0, value, 0, 0);
      if ((value & cr0_nw) && !(value & cr0_cd)) {
        check_trap("NW without CD", v_protection, 0, to_cr0);
        check("CR0 stays", read_cr0(), before);
      } else {
        check_done("taken");
        check("CR0", read_cr0(), value | cr0_et);
      }
    }
  }
  // PG without PE, with paging on and off. (PE alone may be cleared: that is real mode.)
  for (u32 paging = 0; paging < 2; paging++) {
    u32 before = cr0_pe | cr0_et | (paging ? (u32)cr0_pg : 0);
    write_cr0(before);
    run_with(to_cr0, (u32)cr0_pg | cr0_et, 0, 0);
    check_trap("PG without PE", v_protection, 0, to_cr0);
    check("CR0 stays", read_cr0(), before);
    run_with(to_cr0, (u32)cr0_pg | cr0_nw | cr0_cd, 0, 0);
    check_trap("PG without PE", v_protection, 0, to_cr0);
    check("CR0 stays", read_cr0(), before);
  }
  write_cr0(cr0_pe);
  // Reserved bits stay clear, ET stays set.
  for (u32 bit = 0; bit < 32; bit++) {
    if (1u << bit & (cr0_pe | cr0_mp | cr0_em | cr0_ts | cr0_ne | cr0_wp | cr0_am | cr0_nw | cr0_cd | (u32)cr0_pg)) continue;
    run_with(to_cr0, cr0_pe | 1u << bit, 0, 0);
    check_done("reserved bit");
    check("reserved bit", read_cr0(), cr0_pe | cr0_et);
  }
}

static void cr2_and_cr3(void) {
  for (u32 bit = 0; bit < 32; bit++) {
    run_with(to_cr2, 1u << bit, 0, 0);
    check("CR2", trap.cr2, 1u << bit);
    if (bit < 12 && bit != 3 && bit != 4) continue;  // ignored: may read as anything
    run_with(to_cr3, 1u << bit, 0, 0);
    check("CR3", read_cr3(), 1u << bit);
  }
  run_with(to_cr3, 0, 0, 0);
  // Exceptions other than page faults leave CR2 alone.
  run_with(to_cr2, 0x87654321, 0, 0);
  static const u8 undefined[] = {0x0F, 0x0B};
  run_with(undefined, 0, 0, 0);
  check_trap("ud2", v_opcode, 0, undefined);
  check("CR2 stays", trap.cr2, 0x87654321);
}

static u32 cr4_bits(void) {
  struct Cpuid one = cpuid(1), seven = cpuid(0).eax >= 7 ? cpuid(7) : (struct Cpuid){0, 0, 0, 0};
  u32 bits = 0x100;                               // PCE has no flag
  if (one.edx & 1 << 1) bits |= 3;                // VME: VME, PVI
  if (one.edx & 1 << 4) bits |= cr4_tsd;          // TSC
  if (one.edx & 1 << 2) bits |= 8;                // DE
  if (one.edx & 1 << 3) bits |= cr4_pse;          // PSE
  if (one.edx & 1 << 6) bits |= cr4_pae;          // PAE
  if (one.edx & 1 << 7) bits |= 0x40;             // MCE
  if (one.edx & 1 << 13) bits |= cr4_pge;         // PGE
  if (one.edx & 1 << 24) bits |= cr4_osfxsr;      // FXSR
  if (one.edx & 1 << 25) bits |= cr4_osxmmexcpt;  // SSE
  if (one.ecx & 1 << 5) bits |= 1 << 13;          // VMX
  if (one.ecx & 1 << 6) bits |= 1 << 14;          // SMX
  if (one.ecx & 1 << 26) bits |= 1 << 18;         // XSAVE
  if (seven.ecx & 1 << 2) bits |= 1 << 11;        // UMIP
  if (seven.ebx & 1) bits |= 1 << 16;             // FSGSBASE
  if (seven.ebx & 1 << 7) bits |= 1 << 20;        // SMEP
  if (seven.ebx & 1 << 20) bits |= 1 << 21;       // SMAP
  if (seven.ecx & 1 << 3) bits |= 1 << 22;        // PKU
  if (seven.edx & 1 << 20) bits |= 1 << 23;       // CET
  if (seven.ecx & 1u << 31) bits |= 1 << 24;      // PKS
  return bits;
}

static void test_cr4(void) {
  const u32 before = read_cr4(), allowed = cr4_bits();
  for (u32 bit = 0; bit < 32; bit++) {
    for (u32 more = 0; more < 2; more++) {
      write_cr4(before);
      const u32 value = 1u << bit | (more ? cr4_pse | cr4_pge : 0);
      run_with(to_cr4, value, 0, 0);
      if (allowed & 1u << bit) {
        check_done("announced bit");
        check("CR4", read_cr4(), value);
      } else {
        check_trap("reserved bit", v_protection, 0, to_cr4);
        check("CR4 stays", read_cr4(), before);
      }
    }
  }
  write_cr4(before);
}

// CR1 and CR5 to CR7 in both directions; LOCK. In ring 3, too, these are undefined before they are privileged.
SNIPPET(to_cr1, ".byte 0x0F, 0x22, 0xC8\n" DONE);
SNIPPET(to_cr5, ".byte 0x0F, 0x22, 0xE8\n" DONE);
SNIPPET(to_cr6, ".byte 0x0F, 0x22, 0xF0\n" DONE);
SNIPPET(to_cr7, ".byte 0x0F, 0x22, 0xF8\n" DONE);
SNIPPET(from_cr1, ".byte 0x0F, 0x20, 0xC8\n" DONE);
SNIPPET(from_cr5, ".byte 0x0F, 0x20, 0xE8\n" DONE);
SNIPPET(from_cr6, ".byte 0x0F, 0x20, 0xF0\n" DONE);
SNIPPET(from_cr7, ".byte 0x0F, 0x20, 0xF8\n" DONE);
SNIPPET(lock_from, ".byte 0xF0, 0x0F, 0x20, 0xC0\n" DONE);
SNIPPET(lock_to, ".byte 0xF0, 0x0F, 0x22, 0xC0\n" DONE);
SNIPPET(lock_clts, ".byte 0xF0, 0x0F, 0x06\n" DONE);
SNIPPET(lock_lmsw, ".byte 0xF0, 0x0F, 0x01, 0xF0\n" DONE);
SNIPPET(lock_smsw, ".byte 0xF0, 0x0F, 0x01, 0xE0\n" DONE);
SNIPPET(lock_rdmsr, ".byte 0xF0, 0x0F, 0x32\n" DONE);
SNIPPET(lock_wrmsr, ".byte 0xF0, 0x0F, 0x30\n" DONE);
SNIPPET(lock_rdtsc, ".byte 0xF0, 0x0F, 0x31\n" DONE);
SNIPPET(lock_cpuid, ".byte 0xF0, 0x0F, 0xA2\n" DONE);
SNIPPET(lock_wbinvd, ".byte 0xF0, 0x0F, 0x09\n" DONE);
SNIPPET(lock_invd, ".byte 0xF0, 0x0F, 0x08\n" DONE);

static void not_there(void) {
  static const u8* const codes[] = {to_cr1,     to_cr5,     to_cr6,     to_cr7,      from_cr1,  from_cr5,  from_cr6,
                                    from_cr7,   lock_from,  lock_to,    lock_clts,   lock_lmsw, lock_smsw, lock_rdmsr,
                                    lock_wrmsr, lock_rdtsc, lock_cpuid, lock_wbinvd, lock_invd};
  for (u32 ring = 0; ring < 4; ring += 3) {
    for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
      struct Cpu cpu = ring_cpu(ring, codes[i]);
      cpu.eax = read_cr0();
      cpu.ecx = msr_sysenter_cs;
      run_cpu(&cpu);
      check_trap("undefined", v_opcode, 0, codes[i]);
      check_unchanged("undefined", &cpu);
    }
  }
}

// The mod field means nothing: always a register. Operand size and address size prefixes change nothing.
SNIPPET(mod_0, ".byte 0x0F, 0x20, 0x03\n inc ecx\n" DONE);
SNIPPET(mod_1, ".byte 0x0F, 0x20, 0x43\n inc ecx\n" DONE);
SNIPPET(mod_2, ".byte 0x0F, 0x20, 0x83\n inc ecx\n" DONE);
SNIPPET(mod_0_disp, ".byte 0x0F, 0x20, 0x05\n inc ecx\n" DONE);
SNIPPET(with_66, ".byte 0x66, 0x0F, 0x20, 0xC3\n inc ecx\n" DONE);
SNIPPET(with_67, ".byte 0x67, 0x0F, 0x20, 0xC3\n inc ecx\n" DONE);
SNIPPET(with_f3, ".byte 0xF3, 0x0F, 0x20, 0xC3\n inc ecx\n" DONE);
SNIPPET(write_mod_0, ".byte 0x0F, 0x22, 0x13\n inc ecx\n" DONE);
SNIPPET(write_66, ".byte 0x66, 0x0F, 0x22, 0xD3\n inc ecx\n" DONE);

static void encodings(void) {
  static const u8* const reads[] = {mod_0, mod_1, mod_2, mod_0_disp, with_66, with_67, with_f3};
  for (u32 i = 0; i < ARRAY_SIZE(reads); i++) {
    struct Cpu cpu = kernel_cpu(reads[i]);
    cpu.ebx = cpu.ebp = 0xFFFFFFFF;
    run_cpu(&cpu);
    check_done("read");
    check("CR0", i == 3 ? trap.cpu.ebp : trap.cpu.ebx, read_cr0());
    check("next instruction", trap.cpu.ecx, 1);
  }
  static const u8* const writes[] = {write_mod_0, write_66};
  for (u32 i = 0; i < 2; i++) {
    struct Cpu cpu = kernel_cpu(writes[i]);
    cpu.ebx = 0x89ABCDEF + i;
    run_cpu(&cpu);
    check_done("write");
    check("CR2", trap.cr2, 0x89ABCDEF + i);
    check("next instruction", trap.cpu.ecx, 1);
  }
}

SNIPPET(lmsw, "lmsw ax\n" DONE);
SNIPPET(lmsw_memory, "lmsw word ptr [esi]\n" DONE);
SNIPPET(smsw, "smsw eax\n smsw bx\n smsw word ptr [esi]\n data16 smsw word ptr [esi + 4]\n" DONE);
SNIPPET(smsw_memory, "smsw word ptr [esi]\n" DONE);

static void machine_status(void) {
  static u32 memory[2];
  const u32 upper = cr0_ne | cr0_wp | cr0_am | cr0_cd;
  for (u32 form = 0; form < 2; form++) {
    for (u32 before = 0; before < 8; before++) {
      for (u32 word = 0; word < 16; word++) {
        u32 start = cr0_pe | cr0_et | upper | before << 1;
        write_cr0(start);
        struct Cpu cpu = kernel_cpu(form ? lmsw_memory : lmsw);
        cpu.eax = 0xFFFF0000 | word | (form ? 0 : 0xFFF0);
        memory[0] = 0xFFFFFFF0 | word;
        cpu.esi = (u32)memory;
        run_cpu(&cpu);
        check_done("lmsw");
        // PE is never cleared; nothing but the low four bits is loaded.
        check("CR0", read_cr0(), cr0_pe | cr0_et | upper | (word & 0xE));
        check_unchanged("lmsw", &cpu);
      }
    }
  }
  for (u32 ring = 0; ring < 4; ring++) {
    memset(memory, 0xEE, sizeof(memory));
    struct Cpu cpu = ring_cpu(ring, smsw);
    cpu.eax = cpu.ebx = 0xABCDABCD;
    cpu.esi = (u32)memory;
    run_cpu(&cpu);
    check_done("smsw");
    check("r32, low half", trap.cpu.eax & 0xFFFF, read_cr0() & 0xFFFF);  // the upper half is undefined
    check("r16", trap.cpu.ebx, 0xABCD0000 | (read_cr0() & 0xFFFF));
    check("m16", memory[0], 0xEEEE0000 | (read_cr0() & 0xFFFF));
    check("m16", memory[1], 0xEEEE0000 | (read_cr0() & 0xFFFF));
    if (ring == 0) continue;
    cpu = ring_cpu(ring, lmsw_memory);
    cpu.esi = 0xF0000000;
    run_cpu(&cpu);
    check_trap("lmsw from an outer ring", v_protection, 0, lmsw_memory);
  }
  write_cr0(cr0_pe);
}

SNIPPET(clts, "clts\n" DONE);

static void clear_ts(void) {
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 set = 0; set < 2; set++) {
      u32 start = cr0_pe | cr0_et | cr0_mp | cr0_wp | (set ? cr0_ts : 0);
      write_cr0(start);
      struct Cpu cpu = ring_cpu(ring, clts);
      run_cpu(&cpu);
      if (ring == 0)
        check_done("clts");
      else
        check_trap("clts", v_protection, 0, clts);
      check("CR0", read_cr0(), ring == 0 ? start & ~(u32)cr0_ts : start);
      check_unchanged("clts", &cpu);
    }
  }
  write_cr0(cr0_pe);
}

SNIPPET(rdmsr, "rdmsr\n" DONE);
SNIPPET(wrmsr, "wrmsr\n" DONE);

static void refuses(const char* what, const u8* code, u32 index, u64 value) {
  struct Cpu cpu = kernel_cpu(code);
  cpu.ecx = index;
  cpu.eax = (u32)value;
  cpu.edx = (u32)(value >> 32);
  run_cpu(&cpu);
  if (!(check_trap(what, v_protection, 0, code) & check_unchanged(what, &cpu)) && showing_failures())
    printf("       MSR %x, value %x %x\n", index, (u32)(value >> 32), (u32)value);
}

static void takes(u32 index, u64 value) {
  run_with(wrmsr, (u32)value, index, (u32)(value >> 32));
  bool good = check_done("wrmsr");
  run_with(rdmsr, 0x11111111, index, 0x22222222);
  good &= check_done("rdmsr");
  good &= check("low half", trap.cpu.eax, (u32)value);
  good &= check("high half", trap.cpu.edx, (u32)(value >> 32));
  if (!good && showing_failures()) printf("       MSR %x\n", index);
}

static void unknown_msrs(void) {
  static const u32 unknown[] = {2,          3,          0x0F,       0x7FF00000, 0x12345678, 0x40000000, 0x4B564D00,
                                0xC0000000, 0xC000007F, 0xC0000200, 0xC0001FFF, 0xFFFFFFFF, 0x80000000, 0x00010000};
  for (u32 i = 0; i < ARRAY_SIZE(unknown); i++) {
    refuses("unknown MSR", rdmsr, unknown[i], 0x1122334455667788);
    refuses("unknown MSR", wrmsr, unknown[i], 0);
  }
  // Those of long mode are not there without it.
  if (!(cpuid(0x80000001).edx & 1 << 29)) {
    for (u32 index = 0xC0000082; index <= 0xC0000084; index++) {
      refuses("long mode", rdmsr, index, 0);
      refuses("long mode", wrmsr, index, 0);
    }
    for (u32 index = 0xC0000100; index <= 0xC0000102; index++) {
      refuses("long mode", rdmsr, index, 0);
      refuses("long mode", wrmsr, index, 0);
    }
  }
}

static void test_efer(void) {
  const u32 features = cpuid(0x80000001).edx;
  u64 allowed = (features & 1 << 11 ? 1 : 0) | (features & 1 << 29 ? 0x500 : 0) | (features & 1 << 20 ? EFER_NXE : 0);
  for (u32 bit = 0; bit < 64; bit++) {
    if (allowed >> bit & 1) continue;
    refuses("reserved bit", wrmsr, MSR_EFER, 1ull << bit);
    refuses("reserved bit beside NXE", wrmsr, MSR_EFER, 1ull << bit | EFER_NXE);
    check("EFER stays", (u32)read_msr(MSR_EFER), 0);
  }
  takes(MSR_EFER, EFER_NXE);
  refuses("reserved bit", wrmsr, MSR_EFER, 1ull << 33);
  check("EFER stays", (u32)read_msr(MSR_EFER), EFER_NXE);
  takes(MSR_EFER, 0);
}

static void test_pat(void) {
  enum { msr_pat = 0x277 };
  const u64 reset = 0x0007040600070406;
  for (u32 entry = 0; entry < 8; entry++) {
    for (u32 type = 0; type < 256; type++) {
      u64 value = (reset & ~(0xFFull << entry * 8)) | (u64)type << entry * 8;
      if (type == 0 || type == 1 || (type >= 4 && type <= 7)) {
        takes(msr_pat, value);
      } else {
        write_msr(msr_pat, reset);
        refuses("reserved memory type", wrmsr, msr_pat, value);
        check_true("PAT stays", read_msr(msr_pat) == reset);
      }
    }
  }
  write_msr(msr_pat, reset);
}

static void other_msrs(void) {
  for (u32 index = msr_sysenter_cs; index <= msr_sysenter_eip; index++) {
    takes(index, index == msr_sysenter_cs ? 0x8 : 0x89ABCDEF);
    takes(index, 0);
  }
  enum { platform_id = 0x17, arch_capabilities = 0x10A, pred_cmd = 0x49 };
  run_with(rdmsr, 0, platform_id, 0);
  if (trap.vector == vector_done) refuses("read-only", wrmsr, platform_id, 0);
  struct Cpuid seven = cpuid(0).eax >= 7 ? cpuid(7) : (struct Cpuid){0, 0, 0, 0};
  run_with(rdmsr, 0, arch_capabilities, 0);
  check("IA32_ARCH_CAPABILITIES is there as announced", trap.vector, seven.edx & 1 << 29 ? vector_done : v_protection);
  refuses("IA32_ARCH_CAPABILITIES is read-only", wrmsr, arch_capabilities, 0);
  refuses("IA32_PRED_CMD is write-only", rdmsr, pred_cmd, 0);
  if (seven.edx & 1 << 26) {
    run_with(wrmsr, 1, pred_cmd, 0);
    check_done("IBPB");
    refuses("reserved bits of IA32_PRED_CMD", wrmsr, pred_cmd, 1ull << 33);
  }
  // From outer rings, whatever the MSR.
  for (u32 ring = 1; ring < 4; ring++) {
    for (u32 i = 0; i < 2; i++) {
      struct Cpu cpu = ring_cpu(ring, i ? wrmsr : rdmsr);
      cpu.ecx = msr_sysenter_cs;
      run_cpu(&cpu);
      check_trap("ring", v_protection, 0, i ? wrmsr : rdmsr);
      check_unchanged("ring", &cpu);
    }
  }
}

SNIPPET(do_rdtsc, "rdtsc\n" DONE);
SNIPPET(do_rdtscp, "rdtscp\n" DONE);
SNIPPET(do_rdpmc, "rdpmc\n" DONE);

static void time_stamp(void) {
  const u32 before = read_cr4();
  const bool has_rdtscp = cpuid(0x80000001).edx >> 27 & 1;
  for (u32 round = 0; round < 4; round++) {
    bool off = round & 1;
    write_cr4(off ? before | cr4_tsd : before & ~(u32)cr4_tsd);
    for (u32 ring = 0; ring < 4; ring++) {
      for (u32 i = 0; i < 2; i++) {
        const u8* code = i ? do_rdtscp : do_rdtsc;
        struct Cpu cpu = ring_cpu(ring, code);
        cpu.ecx = 0x55555555;
        run_cpu(&cpu);
        if (i == 1 && !has_rdtscp) {
          check_trap("rdtscp", v_opcode, 0, code);
        } else if (off && ring != 0) {
          check_trap("TSD", v_protection, 0, code);
          check_unchanged("TSD", &cpu);
        } else {
          check_done("reads");
        }
      }
    }
  }
  write_cr4(before);
  u64 first = rdtsc();
  for (u32 i = 0; i < 1000; i++) {
    u64 next = rdtsc();
    check_true("never back", next >= first);
    first = next;
  }
  write_msr(0x10, 0x123400000000);
  check("written", (u32)(rdtsc() >> 32), 0x1234);
}

// No counters are announced (CPUID leaf 0Ah): every index is one that does not exist.
static void counters(void) {
  const u32 before = read_cr4();
  if (cpuid(0).eax >= 10 && (cpuid(10).eax & 0xFF) != 0) return;
  for (u32 pce = 0; pce < 2; pce++) {
    write_cr4(pce ? before | 0x100 : before & ~0x100u);
    for (u32 ring = 0; ring < 4; ring++) {
      static const u32 indices[] = {0, 1, 0x40000000, 0xFFFFFFFF};
      for (u32 i = 0; i < ARRAY_SIZE(indices); i++) {
        struct Cpu cpu = ring_cpu(ring, do_rdpmc);
        cpu.ecx = indices[i];
        run_cpu(&cpu);
        check_trap("no counter", v_protection, 0, do_rdpmc);
        check_unchanged("no counter", &cpu);
      }
    }
  }
  write_cr4(before);
}

SNIPPET(do_cpuid, "cpuid\n" DONE);

static void identification(void) {
  const u32 highest = cpuid(0).eax, highest_extended = cpuid(0x80000000).eax;
  check_true("extended leaves", highest_extended >= 0x80000004);
  for (u32 ring = 0; ring < 4; ring++) {
    // Every ring may ask, and gets the same; nothing but the four registers changes.
    for (u32 leaf = 0; leaf <= highest; leaf++) {
      struct Cpuid want = cpuid(leaf);
      struct Cpu cpu = ring_cpu(ring, do_cpuid);
      cpu.eax = leaf;
      cpu.eflags |= f_status;
      run_cpu(&cpu);
      check_done("cpuid");
      check("eax", trap.cpu.eax, want.eax);
      check("ebx", trap.cpu.ebx, want.ebx);
      check("ecx", trap.cpu.ecx, want.ecx);
      check("edx", trap.cpu.edx, want.edx);
      cpu.eax = want.eax;
      cpu.ebx = want.ebx;
      cpu.ecx = want.ecx;
      cpu.edx = want.edx;
      check_unchanged("nothing else", &cpu);
    }
  }
  // Beyond the highest leaf: the data of the highest basic leaf.
  static const u32 beyond[] = {1, 100, 0x3FFFFFFF};
  struct Cpuid last = cpuid(highest);
  for (u32 i = 0; i < ARRAY_SIZE(beyond); i++) {
    struct Cpuid got = cpuid(highest + beyond[i]);
    check("beyond, eax", got.eax, last.eax);
    check("beyond, edx", got.edx, last.edx);
    got = cpuid(highest_extended + beyond[i]);
    check("beyond, eax", got.eax, last.eax);
  }
}

SNIPPET(do_wbinvd, "wbinvd\n" DONE);
SNIPPET(do_invd, "invd\n" DONE);

static void caches(void) {
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < 2; i++) {
      if (ring == 0 && i == 1) continue;  // INVD may lose what this test keeps
      const u8* code = i ? do_invd : do_wbinvd;
      struct Cpu cpu = ring_cpu(ring, code);
      cpu.eflags |= f_iopl;
      run_cpu(&cpu);
      if (ring == 0)
        check_done("ring 0");
      else
        check_trap("ring", v_protection, 0, code);
      check_unchanged("caches", &cpu);
    }
  }
}

void guest_main(void) {
  descriptors_init();
  group("CR0");
  test_cr0();
  group("CR2 and CR3");
  cr2_and_cr3();
  group("CR4");
  test_cr4();
  group("registers that are not there");
  not_there();
  group("encodings");
  encodings();
  group("LMSW and SMSW");
  machine_status();
  group("CLTS");
  clear_ts();
  group("unknown MSRs");
  unknown_msrs();
  group("EFER");
  test_efer();
  group("PAT");
  test_pat();
  group("SYSENTER's and read-only MSRs");
  other_msrs();
  group("RDTSC");
  time_stamp();
  group("RDPMC");
  counters();
  group("CPUID");
  identification();
  group("caches");
  caches();
  finish();
}
