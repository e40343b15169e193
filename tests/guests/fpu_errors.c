// x87 errors and what the FPU remembers of them: instruction pointer, opcode and data pointer in every image (SDM vol. 1, 8.1.8 to 8.1.10),
// #MF at the next waiting instruction (8.7; CR0.NE = 1), and FERR#, IRQ 13, port F0h and IGNNE# with CR0.NE = 0 (8.7.2 and appendix D).
//
// qemu: deviates (its pointers follow every instruction, #MF comes only from FWAIT, and there is no IGNNE#)
//
// expect:
//   instruction pointer: ok
//   opcode and data pointer: ok
//   waiting instructions: ok
//   instructions that do not wait: ok
//   hot loops: ok
//   IRQ 13: ok
//   IGNNE#: ok
// end
#include "lib/guest.h"

static u8 image[512] __attribute__((aligned(64)));
static u8 other[512] __attribute__((aligned(64)));
static u8 operand[64] __attribute__((aligned(64)));

enum { masked = 0x37F, all_unmasked = 0x340, unmasked_zero_divide = 0x37B };

static struct Cpu cpu_for(const u8* code, bool ring0) {
  struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
  cpu.esi = (u32)operand;
  cpu.edi = (u32)image;
  cpu.ebx = (u32)other;
  return cpu;
}

struct Pointers {
  u32 fip, fop, fdp, fcs, fds;
};
static struct Pointers of_env32(const u8* e) {
  return (struct Pointers){*(u32*)(e + 12), *(u16*)(e + 18) & 0x7FF, *(u32*)(e + 20), *(u16*)(e + 16), *(u16*)(e + 24)};
}
static struct Pointers of_fxsave(const u8* e) {
  return (struct Pointers){*(u32*)(e + 8), *(u16*)(e + 6) & 0x7FF, *(u32*)(e + 16), *(u16*)(e + 12), *(u16*)(e + 20)};
}

// Does this CPU keep the pointers as CPUID leaf 7 says: FDP only at unmasked exceptions (bit 6), FCS and FDS zero (bit 13)?
static bool fdp_at_exceptions, zero_selectors;

static void check_pointers(const char* what, struct Pointers got, const u8* fip, u32 fop, u32 fdp) {
  check(what, got.fip, (u32)fip);
  check(what, got.fop, fop);
  if (fdp_at_exceptions) check(what, got.fdp, fdp);
  if (zero_selectors) check(what, got.fcs | got.fds, 0);
}

// Each is followed by FXSAVE, FNSTENV in both sizes and FNSAVE. The last non-control instruction stands at NAME_at.
#define TAIL "fxsave [ebx]\nfnstenv [edi + 128]\ndata16 fnstenv [edi + 192]\nfnsave [edi]\nfnstenv [edi + 256]\n" DONE
#define FIP_CASES(X)                                                               \
  X(one, "", "fld1", "")                                                           \
  X(arithmetic, "fld1\nfldpi\n", "faddp", "")                                      \
  X(memory, "fld1\n", "fadd dword ptr [esi]", "")                                  \
  X(prefixed, "fld1\n", "fadd dword ptr ds:[esi]", "")                             \
  X(override, "fld1\n", "fadd dword ptr fs:[esi]", "")                             \
  X(store, "fld1\n", "fst qword ptr [esi]", "nop\nmov eax, [esi]\n")               \
  X(no_operation, "fld1\nnop\n", "fnop", "mov eax, 1\n")                           \
  X(exchange, "fld1\nfldz\n", "fxch", "add eax, eax\n")                            \
  X(compare, "fld1\nfldz\n", "fucomi st, st(1)", "jmp 1f\n1: ")                    \
  X(controls, "fld1\n", "fldz", "fnstcw [esi]\nfldcw [esi]\nfnstsw ax\nfnclex\nfwait\nfnstenv [esi]\nfldenv [esi]\n") \
  X(behind_sse, "fld1\n", "fldl2e", "addps xmm0, xmm0\npxor xmm1, xmm1\n")         \
  X(behind_jumps, "fld1\n", "fchs", "call 1f\njmp 2f\n1: ret\n2: push eax\npop eax\n") \
  X(behind_integers, "fld1\n", "fsqrt", "mov [esi], eax\nadd dword ptr [esi], 5\nsub eax, 3\nshl eax, 1\nbt [esi], eax\nimul eax, eax\n") \
  X(behind_branches, "fld1\n", "fxam", "clc\njc 1f\nmov eax, 1\ntest eax, eax\njnz 1f\nnop\n1: mov ecx, 3\n2: dec ecx\njnz 2b\n") \
  X(behind_interpreted, "fld1\n", "frndint", "mov eax, 0x19\ndaa\nmov [esi], eax\ncld\naaa\n") \
  X(behind_divisions, "fld1\n", "fptan", "mov eax, 100\nxor edx, edx\npush 7\ndiv dword ptr [esp]\npop ecx\n") \
  X(between_integers, "fld1\nmov eax, 5\nfld1\nadd eax, eax\n", "fadd", "inc eax\n") \
  X(behind_cpuid, "fld1\n", "fabs", "push ebx\ncpuid\npop ebx\n")                  \
  X(behind_string, "fld1\n", "ftst", "push esi\npush edi\npush 8\npop ecx\nrep movsb\npop edi\npop esi\n") \
  X(masked_error, "fldz\nfld1\n", "fdiv st, st(1)", "")                            \
  X(masked_with_memory, "fld1\nmov dword ptr [esi], 0\n", "fidiv dword ptr [esi]", "")
#define X(name, before, text, after) SNIPPET(fip_##name, "fninit\n" before LABEL(fip_##name##_at) text "\n" after TAIL);
FIP_CASES(X)
#undef X
#define X(name, before, text, after) extern const u8 fip_##name##_at[];
FIP_CASES(X)
#undef X
static const struct {
  const char* what;
  const u8 *code, *at;
} fip_cases[] = {
#define X(name, before, text, after) {#name, fip_##name, fip_##name##_at},
    FIP_CASES(X)
#undef X
};

static void instruction_pointer(void) {
  for (u32 i = 0; i < ARRAY_SIZE(fip_cases); i++)
    for (u32 round = 0; round < 4; round++) {
      struct Cpu cpu = cpu_for(fip_cases[i].code, round & 1);
      memset(operand, 0, sizeof(operand));
      memset(image, 0xCC, sizeof(image));
      run_cpu(&cpu);
      const char* what = fip_cases[i].what;
      check_done(what);
      check_pointers(what, of_fxsave(other), fip_cases[i].at, 0, 0);
      check_pointers(what, of_env32(image + 128), fip_cases[i].at, 0, 0);
      check_pointers(what, of_env32(image), fip_cases[i].at, 0, 0);
      check("16-bit format", *(u16*)(image + 192 + 6), (u32)fip_cases[i].at & 0xFFFF);
      check("16-bit format ends", *(u16*)(image + 192 + 14), 0xCCCC);
      check_pointers("FNSAVE clears them", of_env32(image + 256), NULL, 0, 0);
    }
}

// With zero divide or more unmasked. The pointers stay those of the error although instructions that raise none come after FNCLEX.
#define ERROR_CASES(X)                                                                                        \
  X(divide_memory, unmasked_zero_divide, "fld1\n", "fdiv dword ptr [esi]", 0x036, 0)                          \
  X(divide_memory64, unmasked_zero_divide, "fld1\n", "fdiv qword ptr [esi + 8]", 0x476, 8)                    \
  X(divide_int, unmasked_zero_divide, "fld1\n", "fidiv word ptr [esi + ecx * 4 + 2]", 0x674, 14)              \
  X(divide_segment, unmasked_zero_divide, "fld1\n", "fdiv dword ptr fs:[esi]", 0x036, 0)                      \
  X(divide_register, unmasked_zero_divide, "fld1\nfldz\n", "fdivp", 0x6F9, none)                             \
  X(root, all_unmasked, "fld1\nfchs\nfnclex\n", "fsqrt", 0x1FA, none)                                         \
  X(stack_empty, all_unmasked, "", "fld st(3)", 0x1C3, none)                                                  \
  X(load_nan, all_unmasked, "", "fld dword ptr [esi + 16]", 0x146, 16)                                        \
  X(denormal, all_unmasked, "", "fld dword ptr [esi + 20]", 0x146, 20)                                        \
  X(store_inexact, all_unmasked, "fldpi\n", "fstp dword ptr [esi + 24]", 0x15E, 24)                           \
  X(int_overflow, all_unmasked, "fld tbyte ptr [esi + 32]\n", "fistp word ptr [esi + 28]", 0x75E, 28)
#define none 0xFFFFFFFF
#define X(name, cw, before, text, fop, offset)                                                                                         \
  SNIPPET(err_##name, "fninit\nfldcw [edx]\n" before LABEL(err_##name##_at) text "\nnop\n" LABEL(err_##name##_next) "fwait\n" DONE);
ERROR_CASES(X)
#undef X
#define X(name, cw, before, text, fop, offset) extern const u8 err_##name##_at[], err_##name##_next[];
ERROR_CASES(X)
#undef X
static const struct {
  const char* what;
  const u8 *code, *at, *next;
  u32 cw, fop, offset;
} error_cases[] = {
#define X(name, cw, before, text, fop, offset) {#name, err_##name, err_##name##_at, err_##name##_next, cw, fop, offset},
    ERROR_CASES(X)
#undef X
};

static void opcode_and_data(void) {
  static u16 cw;
  for (u32 i = 0; i < ARRAY_SIZE(error_cases); i++)
    for (u32 round = 0; round < 4; round++) {
      memset(operand, 0, sizeof(operand));
      *(u32*)(operand + 16) = 0x7F800001;  // a signalling NaN
      *(u32*)(operand + 20) = 1;           // a denormal
      *(u64*)(operand + 32) = 1ull << 63;  // 2^40
      *(u16*)(operand + 40) = 0x3FFF + 40;
      cw = (u16)error_cases[i].cw;
      struct Cpu cpu = cpu_for(error_cases[i].code, round & 1);
      cpu.edx = (u32)&cw;
      cpu.ecx = 3;
      run_cpu(&cpu);
      const char* what = error_cases[i].what;
      check_trap(what, v_x87, 0, error_cases[i].next);
      __asm__ volatile("fxsave (%0)\nfnstenv (%1)" ::"r"(other), "r"(image));
      u32 fdp = error_cases[i].offset == none ? of_fxsave(other).fdp : (u32)operand + error_cases[i].offset;
      check_pointers(what, of_fxsave(other), error_cases[i].at, error_cases[i].fop, fdp);
      check_pointers(what, of_env32(image), error_cases[i].at, error_cases[i].fop, fdp);
      check("ES and B", *(u16*)(other + 2) & 0x8080, 0x8080);
      // They stay when the next instruction raises nothing.
      __asm__ volatile("fnclex\nfldcw %0\nffree %%st(0)\nfld1\nfxsave (%1)" ::"m"((u16){masked}), "r"(other));
      check("opcode stays", of_fxsave(other).fop, error_cases[i].fop);
      if (fdp_at_exceptions) check("data pointer stays", of_fxsave(other).fdp, fdp);
      __asm__ volatile("fninit\nfxsave (%0)" ::"r"(other));
      check_pointers("FNINIT clears them", of_fxsave(other), NULL, 0, 0);
    }
  // The offset, not the linear address.
  gdt[first_free / 8] = descriptor((u32)operand, 63, 0xF2, 4);
  memset(operand, 0, sizeof(operand));
  struct Cpu cpu = cpu_for(err_divide_segment, false);
  cw = unmasked_zero_divide;
  cpu.edx = (u32)&cw;
  cpu.esi = 12;
  cpu.fs = first_free | 3;
  run_cpu(&cpu);
  check_trap("segment", v_x87, 0, err_divide_segment_next);
  __asm__ volatile("fxsave (%0)" ::"r"(other));
  check_pointers("segment", of_fxsave(other), err_divide_segment_at, 0x036, 12);
  // FLDENV and FXRSTOR load them.
  __asm__ volatile("fninit\nfnstenv (%0)" ::"r"(image));
  *(u32*)(image + 12) = 0x12345678;
  *(u32*)(image + 16) = 0x01230000;
  *(u32*)(image + 20) = 0x9ABCDEF0;
  __asm__ volatile("fldenv (%0)\nfxsave (%1)\nfninit\nfxrstor (%1)\nfnstenv (%0)" ::"r"(image), "r"(other) : "memory");
  check_pointers("fxsave after fldenv", of_fxsave(other), (u8*)0x12345678, 0x123, 0x9ABCDEF0);
  check_pointers("fnstenv after fxrstor", of_env32(image), (u8*)0x12345678, 0x123, 0x9ABCDEF0);
  __asm__ volatile("fninit");
}

// A pending zero divide, then the instruction.
#define WAITING(X)                                                                                                                     \
  X(fwait_, "fwait") X(fld1_, "fld1") X(fldcw_, "fldcw [edx]") X(fst_m, "fst dword ptr [esi + 32]") X(fadd_, "fadd st, st") X(fnop_, "fnop") \
  X(fxch_, "fxch") X(fldenv_, "fldenv [edi]") X(frstor_, "frstor [edi]") X(fucomi_, "fucomi st, st") X(ffree_, "ffree st(0)")         \
  X(fcmov_, "fcmove st, st(0)") X(emms_, "emms") X(movd_, "movd mm0, eax") X(paddb_, "paddb mm0, [esi]") X(movq_, "movq [esi], mm0") \
  X(cvtpi2ps_, "cvtpi2ps xmm0, mm0") X(cvtps2pi_, "cvtps2pi mm0, xmm0") X(movq2dq_, "movq2dq xmm0, mm0") X(fstcw_, "fstcw [esi]")
#define NOT_WAITING(X)                                                                                                       \
  X(fnstsw_, "fnstsw ax") X(fnstsw_m, "fnstsw [esi + 32]") X(fnstcw_, "fnstcw [esi + 32]") X(fnclex_, "fnclex")              \
  X(fninit_, "fninit") X(fnstenv_, "fnstenv [edi]") X(fnsave_, "fnsave [edi]") X(fxsave_, "fxsave [edi]") X(addps_, "addps xmm0, xmm0") \
  X(stmxcsr_, "stmxcsr [esi + 32]") X(movaps_, "movaps xmm1, xmm0") X(cvtsi2ss_, "cvtsi2ss xmm0, eax")
#define X(name, text) SNIPPET(w_##name, "fninit\nfldcw [edx]\nfld1\nfdiv dword ptr [esi]\nnop\n" LABEL(w_##name##_at) text "\n" DONE);
WAITING(X)
NOT_WAITING(X)
#undef X
#define X(name, text) extern const u8 w_##name##_at[];
WAITING(X)
NOT_WAITING(X)
#undef X
static const struct Waiting {
  const char* what;
  const u8 *code, *at;
  bool waits;
} waiting_cases[] = {
#define X(name, text) {#name, w_##name, w_##name##_at, true},
    WAITING(X)
#undef X
#define X(name, text) {#name, w_##name, w_##name##_at, false},
        NOT_WAITING(X)
#undef X
};

static void waiting(bool waits) {
  static u16 cw = unmasked_zero_divide;
  for (u32 i = 0; i < ARRAY_SIZE(waiting_cases); i++) {
    const struct Waiting* w = &waiting_cases[i];
    if (w->waits != waits) continue;
    for (u32 round = 0; round < 4; round++) {
      memset(operand, 0, sizeof(operand));
      struct Cpu cpu = cpu_for(w->code, round & 1);
      cpu.edx = (u32)&cw;
      __asm__ volatile("fninit\nfnsave (%0)" ::"r"(image));
      run_cpu(&cpu);
      u32 at = (u32)w->at;
      if (waits) {
        // FSTCW is FWAIT and FNSTCW: the fault is at the FWAIT, like all others at the instruction.
        check_trap(w->what, v_x87, 0, (void*)at);
        __asm__ volatile("fxsave (%0)" ::"r"(other));
        check("points at the error", of_fxsave(other).fip, at - 3);
        check("nothing was changed", *(u32*)operand | *(u32*)(operand + 32), 0);
        __asm__ volatile("fnclex");
        cpu = trap.cpu;
        cpu.eip = at;
        if (!(round & 1)) cpu.ss = user_data;
        run_cpu(&cpu);
        check_done("after FNCLEX it works");
      } else {
        check_done(w->what);
      }
      __asm__ volatile("fninit");
    }
  }
}

SNIPPET(hot, "fninit\nfldcw [edx]\nfld1\n1: fld1\nfild dword ptr [esi]\n" LABEL(hot_at) "fdivp\nfstp dword ptr [esi + 4]\ndec dword ptr [esi]\njns 1b\n" DONE);
extern const u8 hot_at[];

// An error in the 300th round of a loop, and the same loop again with everything masked.
static void hot_loops(void) {
  static u16 cw;
  for (u32 round = 0; round < 8; round++) {
    cw = round & 1 ? unmasked_zero_divide : masked;
    struct Cpu cpu = cpu_for(hot, round & 2);
    cpu.edx = (u32)&cw;
    *(u32*)operand = 300;
    run_cpu(&cpu);
    __asm__ volatile("fxsave (%0)" ::"r"(other));
    if (round & 1) {
      check_trap("unmasked", v_x87, 0, hot_at + 2);
      check_pointers("unmasked", of_fxsave(other), hot_at, 0x6F9, of_fxsave(other).fdp);
      check("in the last round", *(u32*)operand, 0);
    } else {
      check_done("masked");
      check("zero divide", *(u16*)(other + 2) & 0x84, 4);
      check("last instruction", of_fxsave(other).fip, (u32)hot_at + 2);
    }
    __asm__ volatile("fninit");
  }
}

static u32 arrivals, arrived_at, status_seen;
static bool ignore_first;
static bool on_irq13(struct Frame* frame) {
  arrivals++;
  arrived_at = frame->eip;
  outb(0xF0, 0);
  u16 status;
  __asm__ volatile("fnstsw %0" : "=m"(status));
  status_seen = status;
  if (ignore_first) {
    // With IGNNE# the handler may use the FPU although the exception is pending; it stays pending.
    float out = 0;
    u16 word;
    __asm__ volatile("fld1\nfld1\nfaddp\nfstps %0\nfwait\nfnstsw %1" : "=m"(out), "=m"(word));
    u32 bits;
    memcpy(&bits, &out, 4);
    check("1 + 1 under IGNNE#", bits, 0x40000000);
    check("still pending", word & 0x84, 0x84);
    __asm__ volatile("fldcw %0\nfnstsw %1" : "=m"((u16){unmasked_zero_divide}), "=m"(word));
    check("and after FLDCW", word & 0x84, 0x84);
  }
  __asm__ volatile("fnclex");
  pic_eoi(13);
  return true;
}

SNIPPET(with_irq, "fninit\nfldcw [edx]\nfld1\nfdiv dword ptr [esi]\nsti\nnop\nnop\n" LABEL(with_irq_at) "fstp st(0)\nmov eax, 1\ncli\n" DONE);
SNIPPET(irq_fwait, "fninit\nfldcw [edx]\nfld1\nfdiv dword ptr [esi]\nsti\nnop\nnop\n" LABEL(irq_fwait_at) "fwait\nmov eax, 1\ncli\n" DONE);
SNIPPET(irq_emms, "fninit\nfldcw [edx]\nfld1\nfdiv dword ptr [esi]\nsti\nnop\nnop\n" LABEL(irq_emms_at) "emms\nmov eax, 1\ncli\n" DONE);
extern const u8 with_irq_at[], irq_fwait_at[], irq_emms_at[];

static void irq_13(void) {
  static u16 cw = unmasked_zero_divide;
  static const struct {
    const u8 *code, *at;
  } kinds[] = {{with_irq, with_irq_at}, {irq_fwait, irq_fwait_at}, {irq_emms, irq_emms_at}};
  write_cr0(read_cr0() & ~(u32)cr0_ne);
  for (u32 round = 0; round < 6; round++) {
    memset(operand, 0, sizeof(operand));
    arrivals = 0;
    struct Cpu cpu = cpu_for(kinds[round % 3].code, true);
    cpu.edx = (u32)&cw;
    run_cpu(&cpu);
    check_done("IRQ 13");
    check("one interrupt", arrivals, 1);
    check("at the waiting instruction", arrived_at, (u32)kinds[round % 3].at);
    check("with the error pending", status_seen & 0x84, 0x84);
    check("then it goes on", trap.cpu.eax, 1);
    // FNSAVE and FNINIT take FERR# away as FNCLEX does: the next error is an edge again.
    if (round & 1) {
      __asm__ volatile("fninit\nfldcw %0\nfldz\nfld1\nfdivp %%st(0), %%st(1)\nfninit" ::"m"(cw));
    } else {
      __asm__ volatile("fninit\nfldcw %0\nfldz\nfld1\nfdivp %%st(0), %%st(1)\nfnsave (%1)" ::"m"(cw), "r"(image));
    }
  }
}

void guest_main(void) {
  descriptors_init();
  struct Cpuid seven = cpuid(7);
  fdp_at_exceptions = cpuid(0).eax >= 7 && (seven.ebx >> 6 & 1);
  zero_selectors = cpuid(0).eax >= 7 && (seven.ebx >> 13 & 1);
  write_cr0((read_cr0() & ~(u32)(cr0_em | cr0_ts)) | cr0_mp | cr0_ne);
  write_cr4(read_cr4() | cr4_osfxsr | cr4_osxmmexcpt);
  group("instruction pointer");
  instruction_pointer();
  group("opcode and data pointer");
  opcode_and_data();
  group("waiting instructions");
  waiting(true);
  group("instructions that do not wait");
  waiting(false);
  group("hot loops");
  hot_loops();
  group("IRQ 13");
  pic_init();
  set_hook(irq_base + 13, on_irq13);
  pic_unmask(2);
  pic_unmask(13);
  irq_13();
  group("IGNNE#");
  ignore_first = true;
  irq_13();
}
