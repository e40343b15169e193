// Segments with a base and a limit: every access size inside, at and over the limit, through DS, ES, FS, GS, SS and CS; expand-down;
// read-only and execute-only; string instructions that run over the limit; 16-bit stacks (SDM vol. 3, 5.3-5.5; vol. 1, 6.2).
//
// qemu: deviates (no limits or types are checked on data accesses)
//
// expect:
//   bases: ok
//   limits: ok
//   expand-down: ok
//   types: ok
//   stack segment: ok
//   code segment: ok
//   strings: ok
//   16-bit stack: ok
//   stale caches: ok
// end
#include "lib/guest.h"

enum { slot = first_free, selector = slot | 3, code_slot = first_free + 8 };
static u8 data[65536] __attribute__((aligned(4096)));

static void set_segment(u32 base, u32 limit, u8 access, u8 flags) { gdt[slot / 8] = descriptor(base, limit, access, flags); }

enum Register { r_ds, r_es, r_fs, r_gs, r_ss, register_count };
static const char* const register_names[] = {"ds", "es", "fs", "gs", "ss"};

#define ALL(X, prefix)                                     \
  X(prefix, read8, "mov al, ", "[esi]")                    \
  X(prefix, read16, "mov ax, ", "[esi]")                   \
  X(prefix, read32, "mov eax, ", "[esi]")                  \
  X(prefix, read64, "fld qword ptr ", "[esi]\nfstp st(0)") \
  X(prefix, read80, "fld tbyte ptr ", "[esi]\nfstp st(0)") \
  X(prefix, read128, "movups xmm0, ", "[esi]")             \
  X(prefix, write8, "mov ", "[esi], al")                   \
  X(prefix, write16, "mov ", "[esi], ax")                  \
  X(prefix, write32, "mov ", "[esi], eax")                 \
  X(prefix, write64, "fldz\nfstp qword ptr ", "[esi]")     \
  X(prefix, write128, "movups ", "[esi], xmm0")            \
  X(prefix, add8, "add byte ptr ", "[esi], 1")             \
  X(prefix, add32, "add dword ptr ", "[esi], 1")
#define DEFINE(prefix, name, before, after) SNIPPET(code_##prefix##_##name, before #prefix ":" after "\n" DONE);
ALL(DEFINE, ds)
ALL(DEFINE, es)
ALL(DEFINE, fs)
ALL(DEFINE, gs)
ALL(DEFINE, ss)
struct Access {
  const char* what;
  u32 bytes;
  bool writes;
  const u8* code[register_count];
};
#define FIVE(name) \
  { code_ds_##name, code_es_##name, code_fs_##name, code_gs_##name, code_ss_##name }
static const struct Access accesses[] = {
    {"read 1", 1, false, FIVE(read8)},   {"read 2", 2, false, FIVE(read16)},     {"read 4", 4, false, FIVE(read32)},
    {"read 8", 8, false, FIVE(read64)},  {"read 10", 10, false, FIVE(read80)},   {"read 16", 16, false, FIVE(read128)},
    {"write 1", 1, true, FIVE(write8)},  {"write 2", 2, true, FIVE(write16)},    {"write 4", 4, true, FIVE(write32)},
    {"write 8", 8, true, FIVE(write64)}, {"write 16", 16, true, FIVE(write128)}, {"modify 1", 1, true, FIVE(add8)},
    {"modify 4", 4, true, FIVE(add32)},
};

static void set_register(struct Cpu* cpu, enum Register which) {
  switch (which) {
    case r_ds: cpu->ds = selector; break;
    case r_es: cpu->es = selector; break;
    case r_fs: cpu->fs = selector; break;
    case r_gs: cpu->gs = selector; break;
    default: cpu->ss = selector; cpu->esp = 0x80;
  }
}

static void attempt(const struct Access* access, enum Register which, u32 offset, bool allowed) {
  struct Cpu cpu = user_cpu(access->code[which]);
  set_register(&cpu, which);
  cpu.esi = offset;
  run_cpu(&cpu);
  // The x87 writes have an FLDZ (2 bytes) before them.
  u32 skip = access->writes && access->bytes == 8 ? 2 : 0;
  bool good =
      allowed ? check_done(access->what) : check_trap(access->what, which == r_ss ? v_stack : v_protection, 0, access->code[which] + skip);
  if (skip) __asm__ volatile("fninit");
  if (!good && showing_failures()) printf("       %s, offset %x\n", register_names[which], offset);
}

static void bases(void) {
  for (u32 which = 0; which < register_count; which++) {
    for (u32 i = 0; i < 64; i++) ((u32*)data)[i] = 0xAA000000 + i;
    set_segment((u32)data + 16, 0xFFFF, 0xF3, 4);
    struct Cpu cpu = user_cpu(accesses[2].code[which]);
    set_register(&cpu, which);
    cpu.esi = 8;
    run_cpu(&cpu);
    check_done("read");
    check("base is added", trap.cpu.eax, 0xAA000006);
    // Base + offset wraps at 4 GiB.
    set_segment((u32)data + 0x10000000, 0xFFFFF, 0xF3, 0xC);
    cpu.esi = 0xF0000004;
    if (which == r_ss) cpu.esp = (u32)(user_stack + 4096) - ((u32)data + 0x10000000);
    run_cpu(&cpu);
    check("wraps", trap.cpu.eax, 0xAA000001);
    cpu.eip = (u32)accesses[8].code[which];
    cpu.eax = 0x55;
    run_cpu(&cpu);
    check("writes too", ((u32*)data)[1], 0x55);
  }
}

static void limits(void) {
  for (u32 which = 0; which < register_count; which++) {
    for (u32 a = 0; a < ARRAY_SIZE(accesses); a++) {
      u32 n = accesses[a].bytes;
      set_segment((u32)data, 0xFFF, 0xF3, 4);  // byte granular
      attempt(&accesses[a], which, 0, true);
      attempt(&accesses[a], which, 0x1000 - n, true);
      attempt(&accesses[a], which, 0x1000 - n + 1, false);
      attempt(&accesses[a], which, 0x1000, false);
      attempt(&accesses[a], which, 0x80000000, false);
      attempt(&accesses[a], which, 0xFFFFFFFF, false);
      if (n > 1) attempt(&accesses[a], which, 0u - n + 1, false);  // wraps round inside the access
      set_segment((u32)data, 0x7E, 0xF3, 4);                       // an odd limit
      if (which != r_ss) {
        attempt(&accesses[a], which, 0x7F - n, true);
        attempt(&accesses[a], which, 0x7F - n + 1, false);
      }
      set_segment((u32)data, 3, 0xF3, 0xC);  // page granular: 3FFFh
      attempt(&accesses[a], which, 0x4000 - n, true);
      attempt(&accesses[a], which, 0x4000 - n + 1, false);
    }
  }
}

static void expand_down(void) {
  for (u32 which = 0; which < r_ss; which++) {
    for (u32 a = 0; a < ARRAY_SIZE(accesses); a++) {
      u32 n = accesses[a].bytes;
      // Valid offsets lie above the limit, up to FFFFh (B = 0) or FFFFFFFFh (B = 1).
      set_segment((u32)data, 0xFFF, 0xF7, 0);
      attempt(&accesses[a], which, 0xFFF, false);
      attempt(&accesses[a], which, 0, false);
      attempt(&accesses[a], which, 0x1000, true);
      attempt(&accesses[a], which, 0x10000 - n, true);
      attempt(&accesses[a], which, 0x10000 - n + 1, false);
      attempt(&accesses[a], which, 0x10000, false);
      set_segment((u32)data + 0x1000, 0xFFFFE, 0xF7, 0xC);  // limit FFFFEFFFh: the last page of the segment
      attempt(&accesses[a], which, 0xFFFFEFFF, false);
      attempt(&accesses[a], which, 0xFFFFF000, true);
      attempt(&accesses[a], which, 0u - n, true);
      attempt(&accesses[a], which, 0, false);
    }
  }
}

SNIPPET(load_ds, "mov ds, eax\n" DONE);

static void types(void) {
  for (u32 which = 0; which < r_ss; which++) {
    for (u32 a = 0; a < ARRAY_SIZE(accesses); a++) {
      set_segment((u32)data, 0xFFF, 0xF1, 4);  // read-only data
      attempt(&accesses[a], which, 16, !accesses[a].writes);
      set_segment((u32)data, 0xFFF, 0xFB, 4);  // readable code
      attempt(&accesses[a], which, 16, !accesses[a].writes);
    }
    set_segment((u32)data, 0xFFF, 0xF9, 4);  // execute-only code cannot even be loaded
    struct Cpu cpu = user_cpu(NULL);
    cpu.eip = (u32)load_ds;
    cpu.eax = selector;
    run_cpu(&cpu);
    check_trap("execute-only", v_protection, slot, load_ds);
  }
}

SNIPPET(push_one, "push eax\n" DONE);
SNIPPET(pop_one, "pop eax\n" DONE);
SNIPPET(pusha_here, "pushad\n" DONE);
SNIPPET(call_here, "call 1f\n1:\n" DONE);
SNIPPET(enter_here, "enter 16, 0\n" DONE);
SNIPPET(read_bp, "mov eax, [ebp]\n" DONE);
SNIPPET(ret_here, "ret\n");
SNIPPET(leave_here, "leave\n" DONE);

static void stack_segment(void) {
  static const struct {
    const char* what;
    const u8* code;
    u32 esp;
    bool allowed;
  } rows[] = {
      {"push at the top", push_one, 0x1000, true},
      {"push over the limit", push_one, 0x1001, false},
      {"push at 4", push_one, 4, true},
      {"push at 3 wraps", push_one, 3, false},
      {"push at 0 wraps", push_one, 0, false},
      {"pop at the end", pop_one, 0xFFC, true},
      {"pop over the limit", pop_one, 0xFFD, false},
      {"pusha", pusha_here, 32, true},
      {"pusha over 0", pusha_here, 31, false},
      {"call", call_here, 4, true},
      {"call over 0", call_here, 3, false},
      {"enter", enter_here, 0x1000, true},
      {"enter over 0", enter_here, 2, false},
      {"ret over the limit", ret_here, 0xFFE, false},
  };
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    set_segment((u32)data, 0xFFF, 0xF3, 4);
    struct Cpu cpu = user_cpu(rows[i].code);
    cpu.ss = selector;
    cpu.esp = rows[i].esp;
    cpu.ebp = 0x33333333;
    run_cpu(&cpu);
    if (rows[i].allowed) {
      check_done(rows[i].what);
    } else {
      check_trap(rows[i].what, v_stack, 0, rows[i].code);
      check("esp kept", trap.cpu.esp, rows[i].esp);
      check("ebp kept", trap.cpu.ebp, 0x33333333);
    }
  }
  // EBP as base means SS; LEAVE reads through it.
  struct Cpu cpu = user_cpu(read_bp);
  cpu.ss = selector;
  cpu.esp = 0x800;
  cpu.ebp = 0xFFD;
  run_cpu(&cpu);
  check_trap("[ebp] over the limit", v_stack, 0, read_bp);
  cpu.eip = (u32)leave_here;
  run_cpu(&cpu);
  check_trap("leave over the limit", v_stack, 0, leave_here);
  check("esp kept", trap.cpu.esp, 0x800);
}

SNIPPET(enter_code, "push ecx\npush ebx\nretf\n");

static void code_segment(void) {
  static const u8 text[] = {0xB8, 1, 2, 3, 4, 0xCD, 0x80};  // mov eax, imm32; int 0x80
  for (u32 cut = 0; cut < 8; cut++) {
    memset(data, 0x90, 4096);
    memcpy(data + 0x100, text, sizeof(text));
    // Limit: last byte that may be fetched. The segment ends after `cut` bytes of the text.
    gdt[code_slot / 8] = descriptor((u32)data, 0x100 + cut - 1, 0xFB, 4);
    struct Cpu cpu = user_cpu(enter_code);
    cpu.ecx = code_slot | 3;
    cpu.ebx = 0xF8;
    run_cpu(&cpu);
    check("in the segment", trap.cpu.cs, code_slot | 3);
    // EIP counts from the base, as recorded.
    if (cut >= 7) {
      check_done("whole");
      check("eax", trap.cpu.eax, 0x04030201);
    } else {
      check_trap("cut", v_protection, 0, (const u8*)(cut >= 5 ? 0x105 : 0x100));
    }
  }
  // Jumps over the limit fault at the jump.
  gdt[code_slot / 8] = descriptor((u32)data, 0x1FF, 0xFB, 4);
  static const u8 jump_short[] = {0xEB, 0x70}, jump_near[] = {0xE9, 0, 2, 0, 0}, jump_indirect[] = {0xFF, 0xE6},
                  call_near[] = {0xE8, 0, 2, 0, 0}, jz_near[] = {0x0F, 0x84, 0, 2, 0, 0}, ret_near[] = {0xC3}, loop_short[] = {0xE2, 0x70};
  static const struct {
    const u8* code;
    u32 size;
  } jumps[] = {{jump_short, 2}, {jump_near, 5}, {jump_indirect, 2}, {call_near, 5}, {jz_near, 6}, {ret_near, 1}, {loop_short, 2}};
  for (u32 i = 0; i < ARRAY_SIZE(jumps); i++) {
    memcpy(data + 0x1C0, jumps[i].code, jumps[i].size);
    struct Cpu cpu = user_cpu(enter_code);
    cpu.ecx = code_slot | 3;
    cpu.ebx = 0x1C0;
    cpu.esi = 0x200;
    cpu.eflags |= f_zf;
    *(u32*)cpu.esp = 0;
    cpu.esp -= 4;
    *(u32*)cpu.esp = 0x200;  // for RET
    run_cpu(&cpu);
    check_trap("jump over the limit", v_protection, 0, (const u8*)0x1C0);
    check("esp kept", trap.cpu.esp, cpu.esp);
    if (i == 6) check("loop: ecx kept", trap.cpu.ecx, code_slot | 3);
  }
  // A far jump past the limit faults at the jump, with the old segment.
  struct Cpu cpu = user_cpu(enter_code);
  cpu.ecx = code_slot | 3;
  cpu.ebx = 0x200;
  run_cpu(&cpu);
  check_trap("far return past the limit", v_protection, 0, enter_code + 2);
  check("old segment", trap.cpu.cs, user_code);
}

SNIPPET(rep_stosd, "cld\nrep stosd\n" DONE);
SNIPPET(rep_movsb, "cld\nrep movsb\n" DONE);
SNIPPET(rep_lodsw, "cld\nrep lodsw\n" DONE);
SNIPPET(std_stosb, "std\nrep stosb\n" DONE);

static void strings(void) {
  memset(data, 0, 8192);
  set_segment((u32)data, 0xFFF, 0xF3, 4);
  struct Cpu cpu = user_cpu(rep_stosd);
  cpu.es = selector;
  cpu.edi = 0xFE2;
  cpu.ecx = 100;
  cpu.eax = 0x11111111;
  run_cpu(&cpu);
  check_trap("rep stosd", v_protection, 0, rep_stosd + 1);
  check("edi", trap.cpu.edi, 0xFFE);
  check("ecx", trap.cpu.ecx, 93);
  check("last written", *(u32*)(data + 0xFFA), 0x11111111);
  check("nothing past it", *(u16*)(data + 0xFFE), 0);
  cpu = user_cpu(rep_movsb);
  cpu.ds = selector;
  cpu.esi = 0xFF0;
  cpu.edi = (u32)data + 0x2000;
  cpu.ecx = 100;
  run_cpu(&cpu);
  check_trap("rep movsb", v_protection, 0, rep_movsb + 1);
  check("esi", trap.cpu.esi, 0x1000);
  check("edi", trap.cpu.edi, (u32)data + 0x2010);
  check("ecx", trap.cpu.ecx, 84);
  cpu = user_cpu(rep_lodsw);
  cpu.ds = selector;
  cpu.esi = 0xFF1;
  cpu.ecx = 100;
  run_cpu(&cpu);
  check_trap("rep lodsw", v_protection, 0, rep_lodsw + 1);
  check("esi", trap.cpu.esi, 0xFFF);
  check("ecx", trap.cpu.ecx, 93);
  // Downward over offset 0.
  cpu = user_cpu(std_stosb);
  cpu.es = selector;
  cpu.edi = 4;
  cpu.ecx = 10;
  run_cpu(&cpu);
  check_trap("downward", v_protection, 0, std_stosb + 1);
  check("edi", trap.cpu.edi, 0xFFFFFFFF);
  check("ecx", trap.cpu.ecx, 5);
  check("df", trap.cpu.eflags & f_df, f_df);
}

SNIPPET(stack16, "mov ss, ecx\nmov esp, ebx\npush eax\nmov esi, esp\npop edx\npush ax\nmov edi, esp\npop ax\nmov ebp, esp\n" DONE);
SNIPPET(stack16_calls,
        "mov ss, ecx\nmov esp, ebx\ncall 1f\n1: mov esi, esp\npop eax\npushad\nmov edi, esp\npopad\nenter 8, 0\nmov edi, esp\nleave\nmov "
        "edx, esp\n" DONE);

static void stack_16(void) {
  // B = 0: only SP moves, and wraps at 64 KiB; the upper half of ESP stays.
  set_segment((u32)data, 0xFFFF, 0xF3, 0);
  struct Cpu cpu = user_cpu(stack16);
  cpu.ecx = selector;
  cpu.ebx = 0x12340010;
  cpu.eax = 0xCAFEBABE;
  run_cpu(&cpu);
  check_done("pushes");
  check("push", trap.cpu.esi, 0x1234000C);
  check("written at SP; its upper half again by the second push", *(u32*)(data + 0xC), 0xBABEBABE);
  check("pop", trap.cpu.edx, 0xCAFEBABE);
  check("push of 16 bits", trap.cpu.edi, 0x1234000E);
  check("back", trap.cpu.ebp, 0x12340010);
  cpu.ebx = 0x12340000;
  run_cpu(&cpu);
  check_done("wraps");
  check("wraps", trap.cpu.esi, 0x1234FFFC);
  check("written at the end", *(u32*)(data + 0xFFFC), 0xBABEBABE);
  check("back", trap.cpu.ebp, 0x12340000);
  cpu = user_cpu(stack16_calls);
  cpu.ecx = selector;
  cpu.ebx = 0xABCD0100;
  cpu.ebp = 0x77770123;
  run_cpu(&cpu);
  check_done("calls");
  check("call", trap.cpu.esi, 0xABCD00FC);
  check("return address", trap.cpu.eax, (u32)stack16_calls + 2 + 2 + 5);
  check("enter moves SP", trap.cpu.edi, 0xABCD00F4);
  check("leave", trap.cpu.edx & 0xFFFF, 0x0100);
  check("ebp", trap.cpu.ebp, 0x77770123);
}

SNIPPET(reload_later,
        "mov fs, eax\nmov ebx, fs:[0]\nmov [esi], edx\nmov [esi + 4], edi\nmov ecx, fs:[0]\nmov fs, eax\nmov edx, fs:[0]\n" DONE);

// A changed descriptor counts from the next load on (SDM vol. 3, 3.4.3).
static void stale(void) {
  ((u32*)data)[0] = 111;
  ((u32*)data)[256] = 222;
  set_segment((u32)data, 0xFFF, 0xF3, 4);
  u64 changed = descriptor((u32)data + 1024, 0xFFF, 0xF3, 4);
  struct Cpu cpu = user_cpu(reload_later);
  cpu.eax = selector;
  cpu.esi = (u32)&gdt[slot / 8];
  cpu.edx = (u32)changed;
  cpu.edi = (u32)(changed >> 32);
  run_cpu(&cpu);
  check_done("reload");
  check("before", trap.cpu.ebx, 111);
  check("cache keeps the old base", trap.cpu.ecx, 111);
  check("after the load", trap.cpu.edx, 222);
}

void guest_main(void) {
  descriptors_init();
  write_cr4(read_cr4() | cr4_osfxsr);
  __asm__ volatile("fninit");
  group("bases");
  bases();
  group("limits");
  limits();
  group("expand-down");
  expand_down();
  group("types");
  types();
  group("stack segment");
  stack_segment();
  group("code segment");
  code_segment();
  group("strings");
  strings();
  group("16-bit stack");
  stack_16();
  group("stale caches");
  stale();
}
