// SIMD floating-point exceptions: each kind unmasked and masked, the flags they leave, the destination that stays, #XM with CR4.OSXMMEXCPT
// and #UD without it; MXCSR's reserved bits (SDM vol. 1, 11.5 and 10.2.3; vol. 3, 6.15, interrupt 19).
//
// qemu: deviates (its TCG raises no SIMD exceptions)
//
// expect:
//   unmasked: ok
//   masked: ok
//   without OSXMMEXCPT: ok
//   several at once: ok
//   reserved bits of MXCSR: ok
//   x87 is apart: ok
// end
#include "lib/guest.h"

static u32 left[4] __attribute__((aligned(16))), right[4] __attribute__((aligned(16))), result[4] __attribute__((aligned(16)));
static u32 control;

enum { invalid = 1, denormal = 2, zero_divide = 4, overflow = 8, underflow = 16, precision = 32, all_masks = 0x1F80 };
enum { f_one = 0x3F800000, f_zero = 0, f_snan = 0x7F800001, f_tiny = 1, f_max = 0x7F7FFFFF, f_min = 0x00800000, f_three = 0x40400000,
       f_minus_one = (int)0xBF800000, f_ten = 0x41200000 };

// xmm0 = left, xmm1 = right, MXCSR = control; the result goes to `result`.
#define OPERATION(name, text) \
  SNIPPET(name, "ldmxcsr [edx]\nmovaps xmm0, [esi]\nmovaps xmm1, [edi]\n" LABEL(name##_at) text "\nmovaps [ebx], xmm0\nstmxcsr [edx]\n" DONE); \
  extern const u8 name##_at[]
OPERATION(add_ss, "addss xmm0, xmm1");
OPERATION(div_ps, "divps xmm0, xmm1");
OPERATION(mul_ss, "mulss xmm0, [edi]");
OPERATION(sqrt_ss, "sqrtss xmm0, xmm1");
OPERATION(compare, "ucomiss xmm0, xmm1");
OPERATION(ordered, "comiss xmm0, xmm1");
OPERATION(to_int, "cvtss2si eax, xmm0\nnop");
OPERATION(to_int_cut, "cvttps2dq xmm0, xmm1");
OPERATION(to_double, "cvtps2pd xmm0, xmm1");
OPERATION(from_int, "cvtdq2ps xmm0, xmm1");

static const struct Case {
  const char* what;
  const u8 *code, *at;
  u32 left, right;
  u32 kind;   // the exception that is unmasked
  u32 flags;  // all that the instruction raises when everything is masked
} cases[] = {
    {"add, signalling NaN", add_ss, add_ss_at, f_one, f_snan, invalid, invalid},
    {"add, denormal", add_ss, add_ss_at, f_one, f_tiny, denormal, denormal | precision},
    {"1 / 0", div_ps, div_ps_at, f_one, f_zero, zero_divide, zero_divide},
    {"0 / 0", div_ps, div_ps_at, f_zero, f_zero, invalid, invalid},
    {"1 / 3", div_ps, div_ps_at, f_one, f_three, precision, precision},
    {"max * max", mul_ss, mul_ss_at, f_max, f_max, overflow, overflow | precision},
    {"min * min", mul_ss, mul_ss_at, f_min, f_min, underflow, underflow | precision},
    {"root of -1", sqrt_ss, sqrt_ss_at, f_one, f_minus_one, invalid, invalid},
    {"root of 3", sqrt_ss, sqrt_ss_at, f_one, f_three, precision, precision},
    {"ucomiss, signalling NaN", compare, compare_at, f_one, f_snan, invalid, invalid},
    {"comiss, quiet NaN", ordered, ordered_at, f_one, 0x7FC00000, invalid, invalid},
    {"integer overflow", to_int, to_int_at, f_max, f_one, invalid, invalid},
    {"inexact integer", to_int, to_int_at, 0x3FC00000, f_one, precision, precision},
    {"truncated", to_int_cut, to_int_cut_at, f_one, 0x3FC00000, precision, precision},
    {"widening a denormal", to_double, to_double_at, f_one, f_tiny, denormal, denormal},
    {"from a large integer", from_int, from_int_at, f_one, 0x7FFFFFFF, precision, precision},
};

static struct Cpu prepare(const struct Case* c, u32 mxcsr, bool ring0) {
  struct Cpu cpu = ring0 ? kernel_cpu(c->code) : user_cpu(c->code);
  for (u32 i = 0; i < 4; i++) {
    left[i] = c->left;
    right[i] = c->right;
    result[i] = 0x55555555;
  }
  control = mxcsr;
  cpu.esi = (u32)left;
  cpu.edi = (u32)right;
  cpu.ebx = (u32)result;
  cpu.edx = (u32)&control;
  return cpu;
}

static u32 read_mxcsr(void) {
  u32 value;
  __asm__ volatile("stmxcsr %0" : "=m"(value));
  return value;
}

// What is reported before the computation hides what the computation would say (SDM vol. 1, 11.5.2.1).
static u32 flags_at_fault(const struct Case* c) {
  return c->kind & (invalid | denormal | zero_divide) ? c->flags & (invalid | denormal | zero_divide) : c->flags;
}

static void unmasked(u32 vector) {
  for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
    for (u32 round = 0; round < 4; round++) {
      const struct Case* c = &cases[i];
      struct Cpu cpu = prepare(c, all_masks & ~(c->kind << 7), round & 1);
      run_cpu(&cpu);
      check_trap(c->what, vector, 0, c->at);
      u32 ignored = c->kind == overflow ? precision : 0;  // with an unmasked overflow PE may be set or not
      check(c->what, read_mxcsr() & ~ignored, ((all_masks & ~(c->kind << 7)) | flags_at_fault(c)) & ~ignored);
      __asm__ volatile("movups %%xmm0, %0" : "=m"(result));
      check("the destination stays", result[0], c->left);
      check("all of it", result[3], c->left);
    }
}

static void masked(void) {
  for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
    for (u32 round = 0; round < 4; round++) {
      const struct Case* c = &cases[i];
      // Once everything is masked, once all that it does not raise is unmasked.
      u32 mxcsr = round & 2 ? c->flags << 7 : all_masks;
      struct Cpu cpu = prepare(c, mxcsr, round & 1);
      run_cpu(&cpu);
      check_done(c->what);
      check(c->what, control, mxcsr | c->flags);
      // Flags that are set already raise nothing.
      cpu = prepare(c, all_masks | 0x3F, round & 1);
      run_cpu(&cpu);
      check_done("flags set before");
      check("they stay", control, all_masks | 0x3F);
    }
}

static void several(void) {
  // Two elements with different exceptions, one of them unmasked: both flags, one fault.
  for (u32 round = 0; round < 4; round++) {
    struct Cpu cpu = prepare(&cases[2], all_masks & ~(zero_divide << 7), round & 1);
    left[1] = 0;
    right[1] = 0;  // 0 / 0: masked
    run_cpu(&cpu);
    check_trap("zero divide and invalid", v_simd, 0, div_ps_at);
    check("both flags", read_mxcsr() & 0x3F, zero_divide | invalid);
  }
}

SNIPPET(load_mxcsr, "ldmxcsr [edx]\n" DONE);
SNIPPET(restore, "fxrstor [ebx]\n" DONE);

static void reserved_bits(void) {
  static u8 image[512] __attribute__((aligned(16)));
  __asm__ volatile("fxsave %0" : "=m"(image));
  u32 allowed = *(u32*)(image + 28);
  if (allowed == 0) allowed = 0xFFBF;
  check("mask as in FXSAVE's image", allowed, 0xFFFF);
  for (u32 bit = 0; bit < 32; bit++)
    for (u32 ring0 = 0; ring0 < 2; ring0++) {
      bool good = allowed >> bit & 1;
      __asm__ volatile("ldmxcsr %0" ::"m"((u32){all_masks}));
      control = all_masks | 1u << bit;
      struct Cpu cpu = ring0 ? kernel_cpu(load_mxcsr) : user_cpu(load_mxcsr);
      cpu.edx = (u32)&control;
      run_cpu(&cpu);
      if (good) {
        check_done("ldmxcsr");
        check("loaded", read_mxcsr(), control);
      } else {
        check_trap("ldmxcsr", v_protection, 0, load_mxcsr);
        check("not loaded", read_mxcsr(), all_masks);
      }
      __asm__ volatile("ldmxcsr %0" ::"m"((u32){all_masks}));
      *(u32*)(image + 24) = control;
      cpu.eip = (u32)restore;
      cpu.ebx = (u32)image;
      run_cpu(&cpu);
      if (good) {
        check_done("fxrstor");
        check("restored", read_mxcsr(), control);
      } else {
        check_trap("fxrstor", v_protection, 0, restore);
        check("not restored", read_mxcsr(), all_masks);
      }
    }
  __asm__ volatile("ldmxcsr %0" ::"m"((u32){all_masks}));
}

SNIPPET(sse_with_x87_error, "fninit\nfldcw [edi]\nfld1\nfldz\nfdivp\naddps xmm0, xmm0\nmovaps xmm1, xmm0\ncvtsi2ss xmm2, eax\n" LABEL(
                                x87_waits) "fwait\n" DONE);
extern const u8 x87_waits[];

static void apart(void) {
  static u16 cw = 0x37B;
  for (u32 round = 0; round < 4; round++) {
    struct Cpu cpu = round & 1 ? kernel_cpu(sse_with_x87_error) : user_cpu(sse_with_x87_error);
    cpu.edi = (u32)&cw;
    __asm__ volatile("xorps %xmm0, %xmm0");
    run_cpu(&cpu);
    check_trap("SSE does not report x87 errors", v_x87, 0, x87_waits);
    __asm__ volatile("fninit");
  }
}

void guest_main(void) {
  descriptors_init();
  write_cr0((read_cr0() & ~(u32)(cr0_em | cr0_ts)) | cr0_mp | cr0_ne);
  write_cr4(read_cr4() | cr4_osfxsr | cr4_osxmmexcpt);
  group("unmasked");
  unmasked(v_simd);
  group("masked");
  masked();
  group("without OSXMMEXCPT");
  write_cr4(read_cr4() & ~(u32)cr4_osxmmexcpt);
  unmasked(v_opcode);
  write_cr4(read_cr4() | cr4_osxmmexcpt);
  group("several at once");
  several();
  group("reserved bits of MXCSR");
  reserved_bits();
  group("x87 is apart");
  apart();
}
