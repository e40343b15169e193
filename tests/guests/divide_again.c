// DIV and IDIV that raise #DE again and again at the same place, between others there that do not: quotient, remainder, fault and registers
// for operands at the borders of what fits (SDM vol. 2, DIV and IDIV).
//
// qemu: deviates (it dies of its own SIGFPE at the least dividend by -1)
//
// expect:
//   div: ok
//   idiv: ok
// end
#include "lib/guest.h"

// EDX:EAX, DX:AX or AX by ECX, CX, CL, CH or what ESI points to.
#define FORM(name, text) SNIPPET(name, text "\n" DONE)
FORM(div_ecx, "div ecx");
FORM(div_m32, "div dword ptr [esi]");
FORM(div_cx, "div cx");
FORM(div_m16, "div word ptr [esi]");
FORM(div_cl, "div cl");
FORM(div_ch, "div ch");
FORM(div_m8, "div byte ptr [esi]");
FORM(idiv_ecx, "idiv ecx");
FORM(idiv_m32, "idiv dword ptr [esi]");
FORM(idiv_cx, "idiv cx");
FORM(idiv_m16, "idiv word ptr [esi]");
FORM(idiv_cl, "idiv cl");
FORM(idiv_ch, "idiv ch");
FORM(idiv_m8, "idiv byte ptr [esi]");

struct Form {
  const u8* code;
  u32 bits;
  bool is_signed, in_ch;
};
static const struct Form unsigned_forms[] = {{div_ecx, 32, false, false}, {div_m32, 32, false, false}, {div_cx, 16, false, false},
                                             {div_m16, 16, false, false}, {div_cl, 8, false, false},   {div_ch, 8, false, true},
                                             {div_m8, 8, false, false}};
static const struct Form signed_forms[] = {{idiv_ecx, 32, true, false}, {idiv_m32, 32, true, false}, {idiv_cx, 16, true, false},
                                           {idiv_m16, 16, true, false}, {idiv_cl, 8, true, false},   {idiv_ch, 8, true, true},
                                           {idiv_m8, 8, true, false}};

static const u32 values[] = {0,      1,       2,          3,          7,          0x7E,       0x7F,       0x80,
                             0x81,   0xFE,    0xFF,       0x100,      0x7FFF,     0x8000,     0x8001,     0xFFFE,
                             0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFE, 0xFFFFFFFF, 0x12345678};

static u32 operand;

static u64 mask(u32 bits) { return bits == 64 ? ~0ull : (1ull << bits) - 1; }
static int64_t extend(u64 value, u32 bits) { return bits == 64 ? (int64_t)value : (int64_t)(value << (64 - bits)) >> (64 - bits); }

// What the manual says; false: #DE.
static bool divide(const struct Form* f, u64 dividend, u32 divisor, u32* quotient, u32* remainder) {
  divisor &= (u32)mask(f->bits);
  if (divisor == 0) return false;
  if (!f->is_signed) {
    u64 q = dividend / divisor;
    *quotient = (u32)q;
    *remainder = (u32)(dividend % divisor);
    return q <= mask(f->bits);
  }
  int64_t a = extend(dividend, 2 * f->bits), b = extend(divisor, f->bits);
  if (a == INT64_MIN && b == -1) return false;
  int64_t q = a / b;
  *quotient = (u32)((u64)q & mask(f->bits));
  *remainder = (u32)((u64)(a % b) & mask(f->bits));
  return q == extend((u64)q, f->bits);
}

static void one(const struct Form* f, u32 high, u32 low, u32 divisor) {
  struct Cpu cpu = kernel_cpu(f->code);
  cpu.ebx = 0x55AA55AA;
  cpu.eflags |= f_cf | f_of | f_pf | f_df;
  cpu.esi = (u32)&operand;
  cpu.ecx = f->in_ch ? divisor << 8 | 0x5A : divisor;
  operand = divisor;
  u64 dividend;
  if (f->bits == 8) {
    cpu.eax = 0xDEAD0000 | (high & 0xFF) << 8 | (low & 0xFF);
    cpu.edx = 0x13579BDF;
    dividend = cpu.eax & 0xFFFF;
  } else if (f->bits == 16) {
    cpu.eax = 0xDEAD0000 | (low & 0xFFFF);
    cpu.edx = 0x13570000 | (high & 0xFFFF);
    dividend = (u64)(high & 0xFFFF) << 16 | (low & 0xFFFF);
  } else {
    cpu.eax = low;
    cpu.edx = high;
    dividend = (u64)high << 32 | low;
  }
  run_cpu(&cpu);
  u32 quotient = 0, remainder = 0;
  if (!divide(f, dividend, divisor, &quotient, &remainder)) {
    check_trap("faults", v_divide, 0, f->code);
    check_unchanged("and changes nothing", &cpu);
    return;
  }
  check_done("fits");
  u32 eax = f->bits == 32   ? quotient
            : f->bits == 16 ? (cpu.eax & 0xFFFF0000) | quotient
                            : (cpu.eax & 0xFFFF0000) | remainder << 8 | quotient;
  u32 edx = f->bits == 32 ? remainder : f->bits == 16 ? (cpu.edx & 0xFFFF0000) | remainder : cpu.edx;
  check("eax", trap.cpu.eax, eax);
  check("edx", trap.cpu.edx, edx);
  check("ecx", trap.cpu.ecx, cpu.ecx);
  check("ebx", trap.cpu.ebx, cpu.ebx);
  check("esi", trap.cpu.esi, cpu.esi);
  check("DF", trap.cpu.eflags & f_df, f_df);
}

static void sweep(const struct Form* forms, u32 count) {
  for (const struct Form* f = forms; f < forms + count; f++)
    for (u32 a = 0; a < ARRAY_SIZE(values); a++)
      for (u32 b = 0; b < ARRAY_SIZE(values); b++)
        for (u32 c = 0; c < ARRAY_SIZE(values); c += 1 + (a + b) % 3) one(f, values[a], values[b], values[c]);
}

void guest_main(void) {
  descriptors_init();
  group("div");
  sweep(unsigned_forms, ARRAY_SIZE(unsigned_forms));
  group("idiv");
  sweep(signed_forms, ARRAY_SIZE(signed_forms));
}
