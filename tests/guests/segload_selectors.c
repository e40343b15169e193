// What a selector leads to: NULL ones loaded and then used, tables that end in the middle of a descriptor, LDTs and a NULL LDTR, accessed
// bits, and caches that stay as loaded when the descriptor changes (SDM vol. 2, MOV; vol. 3, 3.4.2, 3.4.3, 3.5.1 and 5.2-5.4).
//
// qemu: deviates in "NULL" (accesses through a NULL selector are not checked)
// qemu: deviates in "cached" (no limits are checked on data accesses)
// qemu: deviates in "stack segment widths" (likewise)
// qemu: deviates in "descriptor 0" (accesses through a NULL selector are not checked, LTR of one is taken)
//
// expect:
//   NULL data segments: ok
//   NULL stack segment: ok
//   end of the GDT: ok
//   end of the LDT: ok
//   no LDT: ok
//   accessed bit: ok
//   cached base, limit and rights: ok
//   cached LDT: ok
//   cached code segment: ok
//   stack segment widths: ok
//   POP SS and the width of the stack pointer: ok
//   descriptor 0: ok
// end
#include "lib/guest.h"

enum { slot = 0x80, slot2 = 0x88, code_slot = 0x90, ldt_slot = 0x98 };

SNIPPET(use_es, "mov eax, es:[esi]\n" DONE);
SNIPPET(use_ds, "mov eax, [esi]\n" DONE);
SNIPPET(use_fs, "mov eax, fs:[esi]\n" DONE);
SNIPPET(use_gs, "mov eax, gs:[esi]\n" DONE);
SNIPPET(store_es, "mov es:[esi], eax\n" DONE);
SNIPPET(store_ds, "mov [esi], eax\n" DONE);
SNIPPET(store_fs, "mov fs:[esi], eax\n" DONE);
SNIPPET(store_gs, "mov gs:[esi], eax\n" DONE);
SNIPPET(stos_es, "stosd\n" DONE);
SNIPPET(lods_ds, "lodsd\n" DONE);
SNIPPET(lods_fs, "lodsd fs:[esi]\n" DONE);
SNIPPET(xlat_gs, "xlat gs:[ebx]\n" DONE);
SNIPPET(modify_ds, "add dword ptr [esi], 1\n" DONE);
SNIPPET(push_ds, "push dword ptr [esi]\n" DONE);
SNIPPET(fld_ds, "fld dword ptr [esi]\n" DONE);
SNIPPET(jmp_fs, "jmp dword ptr fs:[esi]\n" DONE);
SNIPPET(lea_ds, "lea eax, [esi]\n" DONE);
SNIPPET(string_rep0, "xor ecx, ecx\n rep movsd\n" DONE);

static void null_data(void) {
  static const struct {
    const u8* code;
    bool faults;
  } uses[] = {{use_es, true},    {use_ds, true},   {use_fs, true},  {use_gs, true},  {store_es, true}, {store_ds, true},
              {store_fs, true},  {store_gs, true}, {stos_es, true}, {lods_ds, true}, {lods_fs, true},  {xlat_gs, true},
              {modify_ds, true}, {push_ds, true},  {fld_ds, true},  {jmp_fs, true},  {lea_ds, false},  {string_rep0, false}};
  static u32 target;
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 null = 0; null < 4; null++) {
      for (u32 i = 0; i < ARRAY_SIZE(uses); i++) {
        struct Cpu cpu = ring_cpu(ring, uses[i].code);
        cpu.ds = cpu.es = cpu.fs = cpu.gs = null;  // run_cpu loads them so
        cpu.esi = cpu.edi = cpu.ebx = (u32)&target;
        cpu.eax = 0;
        run_cpu(&cpu);
        // The IRET to an outer ring left 0 in each register that held a NULL selector (SDM vol. 2, IRET).
        if (ring != 0) cpu.ds = cpu.es = cpu.fs = cpu.gs = 0;
        if (!uses[i].faults) {
          check_done("no access");
          check("ds is a NULL selector", trap.cpu.ds, cpu.ds);
          continue;
        }
        check_trap("NULL selector", v_protection, 0, uses[i].code);
        check_unchanged("NULL selector", &cpu);
      }
    }
  }
  check("nothing written", target, 0);
}

SNIPPET(load_ss, "mov ss, eax\n" DONE);
SNIPPET(pop_ss, "pop ss\n" DONE);
SNIPPET(lss, "lss edi, [ebx]\n" DONE);

static void null_stack(void) {
  static const u8* const codes[] = {load_ss, pop_ss, lss};
  static u16 pointer[3] = {0x5678, 0x1234, 0};
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 null = 0; null < 4; null++) {
      for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
        struct Cpu cpu = ring_cpu(ring, codes[i]);
        cpu.eax = 0xFFFF0000 | null;
        cpu.esp -= 8;
        *(u32*)cpu.esp = null;
        pointer[2] = (u16)null;
        cpu.ebx = (u32)pointer;
        run_cpu(&cpu);
        check_trap("NULL", v_protection, 0, codes[i]);
        check_unchanged("NULL", &cpu);
      }
    }
  }
}

SNIPPET(load_fs, "mov fs, eax\n" DONE);

static void attempt(u32 ring, u32 selector) {
  struct Cpu cpu = ring_cpu(ring, load_fs);
  cpu.eax = selector;
  cpu.fs = 0;
  run_cpu(&cpu);
}

static void check_load(const char* what, u32 selector, bool good) {
  attempt(3, selector);
  if (good) {
    check_done(what);
    check(what, trap.cpu.fs, selector);
  } else {
    check_trap(what, v_protection, selector & ~3u, load_fs);
    check("fs as before", trap.cpu.fs, 0);
  }
}

// "Index outside its descriptor table limits": all eight bytes must lie inside.
static void end_of_gdt(void) {
  static u64 copy[gdt_entries + 2];
  memcpy(copy, gdt, sizeof(gdt));
  copy[gdt_entries] = copy[gdt_entries + 1] = descriptor(0, 0xFFFFF, 0xF3, 0xC);
  for (u32 limit = 0x1FF; limit <= 0x20F; limit++) {
    load_gdt((u32)copy, (u16)limit);
    check_load("first past the table", 0x203, limit >= 0x207);
    check_load("second past the table", 0x20B, limit >= 0x20F);
    check_load("far past the table", 0xFFFB, false);
  }
  // A limit of FFFFh lets the last index be used; the address is base + 8 * index and wraps at 4 GiB.
  static u64 large[8192];
  memcpy(large, gdt, sizeof(gdt));
  large[8191] = descriptor(0, 0xFFFFF, 0xF3, 0xC);
  load_gdt((u32)large, 0xFFFF);
  check_load("index 8191", 0xFFFB, true);
  load_gdt((u32)large, 0xFFFE);
  check_load("one byte short", 0xFFFB, false);
  own_gdt();
}

static u64 local[4];

static void set_ldt(u32 base, u32 limit, u8 flags) {
  gdt[ldt_slot / 8] = descriptor(base, limit, 0x82, flags);
  load_ldt(ldt_slot);
}

static void end_of_ldt(void) {
  for (u32 i = 0; i < ARRAY_SIZE(local); i++) local[i] = descriptor(0, 0xFFFFF, 0xF3, 0xC);
  for (u32 limit = 0; limit < 32; limit++) {
    set_ldt((u32)local, limit, 0);
    for (u32 i = 0; i < 5; i++) check_load("LDT", i * 8 | 4 | 3, i < 4 && limit >= i * 8 + 7);
  }
  set_ldt((u32)local, 0, 8);  // pages: limit FFFh
  check_load("granularity", 0x1F, true);
  // Index 0 of an LDT is no NULL selector, also for SS.
  struct Cpu cpu = user_cpu(load_ss);
  cpu.eax = 7;
  run_cpu(&cpu);
  check_done("SS from index 0");
  check("SS from index 0", trap.cpu.ss, 7);
}

static void no_ldt(void) {
  for (u32 null = 0; null < 4; null++) {
    set_ldt((u32)local, sizeof(local) - 1, 0);
    check_load("with LDT", 0xF, true);
    load_ldt(null);
    u32 selector = 0;
    __asm__ volatile("sldt %0" : "=r"(selector));
    check("sldt", selector, null);
    for (u32 i = 0; i < 4; i++) check_load("NULL LDTR", i * 8 | 4 | 3, false);
    attempt(0, 4);
    check_trap("ring 0", v_protection, 4, load_fs);
  }
}

static void accessed_bit(void) {
  static const u8 types[] = {0x90, 0x92, 0x94, 0x96, 0x9A, 0x9E};
  for (u32 i = 0; i < ARRAY_SIZE(types); i++) {
    for (u32 dpl = 0; dpl < 4; dpl += 3) {
      for (u32 set = 0; set < 2; set++) {
        u64 entry = descriptor(0x11223344, 0x55667, (u8)(types[i] | dpl << 5 | set), 0xD);
        gdt[slot / 8] = entry;
        gdt[slot2 / 8] = entry;
        attempt(dpl, slot | dpl);
        check_done("load");
        check_true("set by the load, nothing else", gdt[slot / 8] == (entry | 1ull << 40));
        check_true("not in the next descriptor", gdt[slot2 / 8] == entry);
      }
    }
  }
}

SNIPPET(read_fs, "mov eax, fs:[esi]\n" DONE);
SNIPPET(write_fs, "mov fs:[esi], eax\n" DONE);
// Code that changes the descriptor it has just loaded (ds is flat), and goes on with what the register holds.
u64 next_entry;
#define CHANGE \
  "mov ebp, dword ptr next_entry\n mov dword ptr gdt + 0x80, ebp\n mov ebp, dword ptr next_entry + 4\n mov dword ptr gdt + 0x84, ebp\n"
SNIPPET(stale_read, "mov fs, eax\n mov ebx, fs:[esi]\n" CHANGE "mov ecx, fs:[esi]\n mov fs, eax\n mov edx, fs:[esi]\n" DONE);
SNIPPET(stale_write, "mov fs, eax\n mov fs:[esi], ecx\n" CHANGE
                     "mov fs:[esi], edx\n" LABEL(stale_write_load) "mov fs, eax\n" LABEL(stale_write_use) "mov fs:[esi], ecx\n" DONE);
SNIPPET(stale_ss, "mov ss, eax\n mov ebx, [esp]\n" CHANGE "mov ecx, [esp]\n push [esp]\n pop edi\n mov ss, eax\n mov edx, [esp]\n" DONE);
SNIPPET(stale_ds,
        "mov ds, eax\n mov ebx, [esi]\n mov ebp, ss:next_entry\n mov ss:gdt + 0x80, ebp\n mov ebp, ss:next_entry + 4\n"
        "mov ss:gdt + 0x84, ebp\n mov ecx, [esi]\n mov ds, eax\n mov edx, [esi]\n" DONE);
extern const u8 stale_write_load[], stale_write_use[];

static void cached(void) {
  static u32 first[8], second[8];
  for (u32 i = 0; i < 8; i++) {
    first[i] = 100 + i;
    second[i] = 200 + i;
  }
  for (u32 ring = 0; ring < 4; ring += 3) {
    u8 data = (u8)(0x93 | ring << 5);
    // Another base.
    gdt[slot / 8] = descriptor((u32)first, 31, data, 4);
    next_entry = descriptor((u32)second, 31, data, 4);
    struct Cpu cpu;
    for (u32 i = 0; i < 2; i++) {
      gdt[slot / 8] = descriptor((u32)first, 31, data, 4);
      cpu = ring_cpu(ring, i == 0 ? stale_read : stale_ds);
      cpu.eax = slot | ring;
      cpu.esi = 4;
      run_cpu(&cpu);
      check_done("base");
      check("before", trap.cpu.ebx, 101);
      check("the register keeps its base", trap.cpu.ecx, 101);
      check("a new load brings the new one", trap.cpu.edx, 201);
    }
    // A shorter limit, an absent segment, a read-only one: they count from the next load on.
    static const struct {
      const char* what;
      u32 limit;
      u8 access;
      u32 vector, error;
      bool at_load;
    } rows[] = {
        {"limit", 6, 0x93, v_protection, 0, false},      {"read-only", 31, 0x91, v_protection, 0, false},
        {"absent", 31, 0x13, v_not_present, slot, true}, {"code", 31, 0x99, v_protection, slot, true},
        {"system", 31, 0x82, v_protection, slot, true},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
      gdt[slot / 8] = descriptor((u32)first, 31, data, 4);
      next_entry = descriptor((u32)first, rows[i].limit, (u8)(rows[i].access | ring << 5), 4);
      cpu = ring_cpu(ring, stale_write);
      cpu.eax = slot | ring;
      cpu.esi = 4;
      cpu.ecx = 0x1111;
      cpu.edx = 0x2222;
      run_cpu(&cpu);
      check_trap(rows[i].what, rows[i].vector, rows[i].error, rows[i].at_load ? stale_write_load : stale_write_use);
      check("the write through the old cache", first[1], 0x2222);
      first[1] = 101;
    }
  }
  // The stack segment: base 0 at first, then moved.
  gdt[slot / 8] = descriptor(0, 0xFFFFF, 0xF3, 0xC);
  next_entry = descriptor(16, 0xFFFFF, 0xF3, 0xC);
  struct Cpu cpu = user_cpu(stale_ss);
  cpu.eax = slot | 3;
  cpu.esp -= 64;
  for (u32 i = 0; i < 12; i++) ((u32*)cpu.esp)[i] = i + 1;
  run_cpu(&cpu);
  check_done("stack segment");
  check("before", trap.cpu.ebx, 1);
  check("the register keeps its base", trap.cpu.ecx, 1);
  check("push and pop as well", trap.cpu.edi, 1);
  check("a new load brings the new one", trap.cpu.edx, 5);
}

static void cached_ldt(void) {
  static u64 other[4];
  local[1] = descriptor(0, 0x111, 0xF3, 4);
  other[1] = descriptor(0, 0x222, 0xF3, 4);
  set_ldt((u32)local, sizeof(local) - 1, 0);
  u32 limit = 0;
  __asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(0xF));
  check("LDT in use", limit, 0x111);
  // LDTR keeps base and limit when its descriptor moves, shrinks, changes its type or goes away.
  gdt[ldt_slot / 8] = descriptor((u32)other, sizeof(other) - 1, 0x82, 0);
  __asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(0xF));
  check("base stays", limit, 0x111);
  gdt[ldt_slot / 8] = descriptor((u32)local, 3, 0x02, 0);
  check_load("limit and presence stay", 0xF, true);
  gdt[ldt_slot / 8] = 0;
  check_load("gone", 0xF, true);
  u32 selector = 0;
  __asm__ volatile("sldt %0" : "=r"(selector));
  check("selector stays", selector, ldt_slot);
  set_ldt((u32)other, sizeof(other) - 1, 0);
  __asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(0xF));
  check("a new load", limit, 0x222);
  load_ldt(0);
}

// Changes its own code descriptor and goes on until a far jump loads the new one.
SNIPPET(stale_code, "mov eax, [esi]\n mov edx, [esi + 4]\n mov [edi], eax\n mov [edi + 4], edx\n nop\n jmp 1f\n1: mov ebx, 1\n" LABEL(
                        stale_code_jump) "jmp far ptr [ecx]\n");
SNIPPET(new_code, "mov ebp, 77\n" DONE);
extern const u8 stale_code_jump[];

static void cached_code(void) {
  static u64 entries[3];
  static struct {
    u32 offset;
    u16 selector;
  } __attribute__((packed)) target = {0, code_slot};
  entries[0] = descriptor(0, 0xFFFFF, 0x13 | 8, 0xC);        // not present
  entries[1] = descriptor(0, 0xFFFFF, 0x93, 0xC);            // data
  entries[2] = descriptor((u32)new_code, 0xFFF, 0x9B, 0x4);  // another base and limit
  for (u32 i = 0; i < ARRAY_SIZE(entries); i++) {
    gdt[code_slot / 8] = descriptor(0, 0xFFFFF, 0x9B, 0xC);
    struct Cpu cpu = kernel_cpu(stale_code);
    cpu.cs = code_slot;
    cpu.esi = (u32)&entries[i];
    cpu.edi = (u32)&gdt[code_slot / 8];
    cpu.ecx = (u32)&target;
    run_cpu(&cpu);
    if (i == 2) {
      check_done("a jump loads it");
      check("at its base", trap.cpu.ebp, 77);
      check("its offset", trap.cpu.eip, (u32)(new_code_end - new_code));
    } else {
      check_trap("a jump loads it", i == 0 ? v_not_present : v_protection, code_slot, stale_code_jump);
    }
    check("went on with the cached one", trap.cpu.ebx, 1);
  }
}

// SS.B says whether ESP or SP counts, from the instruction after the load on (SDM vol. 1, 6.2.3).
SNIPPET(small_stack, "mov ss, eax\n mov esp, 0x12340002\n push ebx\n mov ecx, esp\n mov ss, edx\n mov esp, esi\n" DONE);

static void stack_widths(void) {
  static u8 area[65536] __attribute__((aligned(4096)));
  gdt[slot / 8] = descriptor((u32)area, 0xFFFF, 0xF3, 0x0);
  struct Cpu cpu = user_cpu(small_stack);
  cpu.eax = slot | 3;
  cpu.ebx = 0x87654321;
  cpu.edx = user_data;
  cpu.esi = cpu.esp;
  run_cpu(&cpu);
  // 2 - 4 = FFFEh: the push would cross the limit at FFFFh.
  check_trap("push across the end of a 64 KiB stack", v_stack, 0, small_stack + 7);
  check("esp as before", trap.cpu.esp, 0x12340002);
  gdt[slot / 8] = descriptor((u32)area, 0x10001, 0xF3, 0x0);
  run_cpu(&cpu);
  check_done("push to FFFEh");
  check("SP alone moves", trap.cpu.ecx, 0x1234FFFE);
  check("written", *(u16*)(area + 0xFFFE), 0x4321);
}

// POP SS moves ESP or SP by the B flag of the segment it popped from, in all 32 or 16 bits.
SNIPPET(pop_to_wide, "mov ss, eax\n mov esp, edx\n pop ss\n mov ecx, esp\n mov ss, ebx\n mov esp, edi\n" DONE);

static void popped_widths(void) {
  static u8 area[0x20000] __attribute__((aligned(4096)));
  gdt[slot / 8] = descriptor((u32)area, 0x1FFFF, 0xF3, 0x0);   // 16-bit
  gdt[slot2 / 8] = descriptor((u32)area, 0x1FFFF, 0xF3, 0x4);  // 32-bit
  *(u32*)(area + 0xFFFC) = slot2 | 3;
  for (u32 wide = 0; wide < 2; wide++) {
    for (u32 to = 0; to < 2; to++) {
      struct Cpu cpu = user_cpu(pop_to_wide);
      cpu.eax = (wide ? slot2 : slot) | 3;
      *(u32*)(area + 0xFFFC) = (to ? slot2 : slot) | 3;
      cpu.edx = (wide ? 0 : 0x77770000) | 0xFFFC;
      cpu.ebx = user_data;
      cpu.edi = cpu.esp;
      run_cpu(&cpu);
      check_done("pop ss");
      check("stack pointer", trap.cpu.ecx, wide ? 0x10000 : 0x77770000);
    }
  }
}

SNIPPET(ask_null, "mov ecx, 0x5555\n mov edx, ecx\n lar ecx, ax\n setz bl\n lsl edx, ax\n setz bh\n verr ax\n setz ah\n" DONE);
SNIPPET(do_ltr, "ltr ax\n" DONE);
SNIPPET(do_lldt, "lldt ax\n" DONE);

// The first descriptor of the GDT can hold anything: NULL selectors do not lead to it.
static void descriptor_0(void) {
  static u64 local[2];
  for (u32 ring = 0; ring < 4; ring++) {
    gdt[0] = descriptor(0, 0xFFFFF, (u8)(0x92 | ring << 5), 0xC);
    for (u32 null = 0; null < 4; null++) {
      struct Cpu cpu = ring_cpu(ring, load_ss);
      cpu.eax = null;
      run_cpu(&cpu);
      check_trap("SS", v_protection, 0, load_ss);
      cpu = ring_cpu(ring, load_fs);
      cpu.eax = null;
      run_cpu(&cpu);
      check_done("FS");
      check("FS", trap.cpu.fs, null);
      cpu = ring_cpu(ring, use_fs);
      cpu.fs = null;
      cpu.esi = (u32)local;
      run_cpu(&cpu);
      check_trap("use", v_protection, 0, use_fs);
      cpu = ring_cpu(ring, ask_null);
      cpu.eax = null;
      run_cpu(&cpu);
      check_done("queries");
      check("LAR, LSL: no", trap.cpu.ebx & 0xFFFF, 0);
      check("VERR: no", trap.cpu.eax, null);
      check("LAR, LSL: no result", trap.cpu.ecx + trap.cpu.edx, 0xAAAA);
    }
    check("not accessed", (u32)(gdt[0] >> 40) & 1, 0);
  }
  for (u32 null = 0; null < 4; null++) {
    gdt[0] = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
    struct Cpu cpu = kernel_cpu(do_ltr);
    cpu.eax = null;
    run_cpu(&cpu);
    check_trap("LTR", v_protection, 0, do_ltr);
    check("not busy", (u32)(gdt[0] >> 40) & 15, 9);
    gdt[tss_selector / 8] &= ~(2ull << 40);  // a machine that took it needs a task again
    load_task(tss_selector);
    gdt[0] = descriptor((u32)local, sizeof(local) - 1, 0x82, 0);
    local[0] = local[1] = descriptor(0, 0xFFFFF, 0xF3, 0xC);
    cpu = kernel_cpu(do_lldt);
    cpu.eax = null;
    run_cpu(&cpu);
    check_done("LLDT");
    check_load("no LDT", 0xF, false);
  }
  gdt[0] = 0;
  // LDT and TSS descriptors count in the GDT only.
  set_ldt((u32)local, sizeof(local) - 1, 0);
  for (u32 i = 0; i < 2; i++) {
    local[0] = local[1] = i ? descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0) : descriptor((u32)local, sizeof(local) - 1, 0x82, 0);
    struct Cpu cpu = kernel_cpu(i ? do_ltr : do_lldt);
    cpu.eax = 8 | 4;
    run_cpu(&cpu);
    check_trap("selector of the LDT", v_protection, 8 | 4, i ? do_ltr : do_lldt);
    check("as before", (u32)(local[1] >> 40) & 15, i ? 9 : 2);
  }
  load_ldt(0);
}

void guest_main(void) {
  descriptors_init();
  __asm__ volatile("fninit");
  group("NULL data segments");
  null_data();
  group("NULL stack segment");
  null_stack();
  group("end of the GDT");
  end_of_gdt();
  group("end of the LDT");
  end_of_ldt();
  group("no LDT");
  no_ldt();
  group("accessed bit");
  accessed_bit();
  group("cached base, limit and rights");
  cached();
  group("cached LDT");
  cached_ldt();
  group("cached code segment");
  cached_code();
  group("stack segment widths");
  stack_widths();
  group("POP SS and the width of the stack pointer");
  popped_widths();
  group("descriptor 0");
  descriptor_0();
  finish();
}
