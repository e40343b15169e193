// The guest's arithmetic done by the host CPU, so that results and all status flags, undefined ones included, are what emitted code gets.
//
// Flags travel packed in AX, as LAHF and SETO leave them: SF ZF AF PF CF in AH at their own places, OF in bit 0. That needs no stack, so
// the compiler's red zone is safe. OF is set by 1 + 127 in a byte, SAHF sets the rest. The shapes of one operation (register or memory,
// immediate or CL count) give equal flags on every CPU we know, except the one-operand multiplications, which are here in their own form,
// and rotates by an immediate (shifts.cpp).
#pragma once

#include "base/types.h"
#include "guest/registers.h"

namespace ring3::host {

[[nodiscard]] inline u32 pack(u32 eflags) { return ((eflags & 0xFFu) << 8) | ((eflags >> 11) & 1u); }
// The status bits of `packed` in place of those of `eflags`.
[[nodiscard]] inline u32 unpack(u32 packed, u32 eflags) {
  constexpr u32 low = flag::status & 0xFFu;
  return (eflags & ~flag::status) | ((packed >> 8) & low) | ((packed & 1u) << 11);
}

// Operations with a destination and a source; `run` returns the new destination.
#define RING3_BINARY(name, mnemonic, stores)                                                                                     \
  struct name {                                                                                                                  \
    static constexpr bool writes = stores;                                                                                       \
    template <typename T>                                                                                                        \
    static T run(T a, T b, u32& eflags) {                                                                                        \
      u32 f = pack(eflags);                                                                                                      \
      asm("addb $127, %%al\n\tsahf\n\t" mnemonic " %[b], %[a]\n\tlahf\n\tseto %%al" : "+a"(f), [a] "+r"(a) : [b] "r"(b) : "cc"); \
      eflags = unpack(f, eflags);                                                                                                \
      return a;                                                                                                                  \
    }                                                                                                                            \
  };
RING3_BINARY(Adc, "adc", true)
RING3_BINARY(Sbb, "sbb", true)
RING3_BINARY(Imul, "imul", true)
RING3_BINARY(Bsf, "bsf", true)
RING3_BINARY(Bsr, "bsr", true)
RING3_BINARY(Bt, "bt", false)
RING3_BINARY(Bts, "bts", true)
RING3_BINARY(Btr, "btr", true)
RING3_BINARY(Btc, "btc", true)
#undef RING3_BINARY

// As above for operations that read no flag and write all of them: no need to load the guest's.
#define RING3_BINARY_FRESH(name, mnemonic, stores)                                                  \
  struct name {                                                                                     \
    static constexpr bool writes = stores;                                                          \
    template <typename T>                                                                           \
    static T run(T a, T b, u32& eflags) {                                                           \
      u32 f;                                                                                        \
      asm(mnemonic " %[b], %[a]\n\tlahf\n\tseto %%al" : "=&a"(f), [a] "+r"(a) : [b] "r"(b) : "cc"); \
      eflags = unpack(f, eflags);                                                                   \
      return a;                                                                                     \
    }                                                                                               \
  };
RING3_BINARY_FRESH(Add, "add", true)
RING3_BINARY_FRESH(Sub, "sub", true)
RING3_BINARY_FRESH(And, "and", true)
RING3_BINARY_FRESH(Or, "or", true)
RING3_BINARY_FRESH(Xor, "xor", true)
RING3_BINARY_FRESH(Cmp, "cmp", false)
RING3_BINARY_FRESH(Test, "test", false)
RING3_BINARY_FRESH(Popcnt, "popcnt", true)
#undef RING3_BINARY_FRESH

#define RING3_UNARY(name, mnemonic)                                                                             \
  struct name {                                                                                                 \
    template <typename T>                                                                                       \
    static T run(T a, u32& eflags) {                                                                            \
      u32 f = pack(eflags);                                                                                     \
      asm("addb $127, %%al\n\tsahf\n\t" mnemonic " %[a]\n\tlahf\n\tseto %%al" : "+a"(f), [a] "+r"(a) : : "cc"); \
      eflags = unpack(f, eflags);                                                                               \
      return a;                                                                                                 \
    }                                                                                                           \
  };
RING3_UNARY(Inc, "inc")
RING3_UNARY(Dec, "dec")
RING3_UNARY(Neg, "neg")
#undef RING3_UNARY

// Shifts and rotates by CL; the host masks the count as the guest's CPU does, and leaves the flags alone for a count of 0.
#define RING3_SHIFT(name, mnemonic)                                                                                              \
  struct name {                                                                                                                  \
    template <typename T>                                                                                                        \
    static T run(T a, u8 count, u32& eflags) {                                                                                   \
      u32 f = pack(eflags);                                                                                                      \
      asm("addb $127, %%al\n\tsahf\n\t" mnemonic " %%cl, %[a]\n\tlahf\n\tseto %%al" : "+a"(f), [a] "+r"(a) : "c"(count) : "cc"); \
      eflags = unpack(f, eflags);                                                                                                \
      return a;                                                                                                                  \
    }                                                                                                                            \
  };
RING3_SHIFT(Rol, "rol")
RING3_SHIFT(Ror, "ror")
RING3_SHIFT(Rcl, "rcl")
RING3_SHIFT(Rcr, "rcr")
RING3_SHIFT(Shl, "shl")
RING3_SHIFT(Shr, "shr")
RING3_SHIFT(Sar, "sar")
#undef RING3_SHIFT

#define RING3_DOUBLE_SHIFT(name, mnemonic)                                                \
  struct name {                                                                           \
    template <typename T>                                                                 \
    static T run(T a, T b, u8 count, u32& eflags) {                                       \
      u32 f = pack(eflags);                                                               \
      asm("addb $127, %%al\n\tsahf\n\t" mnemonic " %%cl, %[b], %[a]\n\tlahf\n\tseto %%al" \
          : "+a"(f), [a] "+r"(a)                                                          \
          : [b] "r"(b), "c"(count)                                                        \
          : "cc");                                                                        \
      eflags = unpack(f, eflags);                                                         \
      return a;                                                                           \
    }                                                                                     \
  };
RING3_DOUBLE_SHIFT(Shld, "shld")
RING3_DOUBLE_SHIFT(Shrd, "shrd")
#undef RING3_DOUBLE_SHIFT

// MUL, IMUL, DIV and IDIV on EDX:EAX (DX:AX); the byte forms use AX alone. `low` and `high` go in and out, only the registers' parts that
// the instruction writes change. DIV and IDIV fault on the host unless the caller has checked the quotient.
#define RING3_WIDE(name, mnemonic)                                                                                       \
  struct name {                                                                                                          \
    template <typename T>                                                                                                \
    static void run(u32& low, u32& high, T operand, u32& eflags) {                                                       \
      u32 f = pack(eflags);                                                                                              \
      u32 out;                                                                                                           \
      asm("addb $127, %%al\n\tsahf\n\tmovl %[in], %%eax\n\t" mnemonic " %[b]\n\tmovl %%eax, %[out]\n\tlahf\n\tseto %%al" \
          : "+&a"(f), [out] "=&r"(out), "+&d"(high)                                                                      \
          : [in] "r"(low), [b] "r"(operand)                                                                              \
          : "cc");                                                                                                       \
      low = out;                                                                                                         \
      eflags = unpack(f, eflags);                                                                                        \
    }                                                                                                                    \
  };
RING3_WIDE(MulWide, "mul")
RING3_WIDE(ImulWide, "imul")
RING3_WIDE(Div, "div")
RING3_WIDE(Idiv, "idiv")
#undef RING3_WIDE

}  // namespace ring3::host
