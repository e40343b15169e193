// Control flow: recursion, a bytecode interpreter with either kind of dispatch, many call sites, indirect calls.
#include "program.h"

static __attribute__((noinline)) u32 fibonacci(u32 n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

u32 recursion(u32 count) {
  u32 sum = 0;
  for (u32 i = 0; i < count; i++) sum = mix(sum, fibonacci(20 + (i & 1)));
  return sum;
}

enum Op { op_push, op_add, op_mul, op_xor, op_dup, op_swap, op_dec, op_jump, op_end, op_count };

// Counts down from `rounds` and folds something into an accumulator.
static const u8 code[] = {op_swap, op_push, 3,      op_mul,  op_push, 77,      op_add, op_dup, op_push,
                          13,      op_xor,  op_add, op_swap, op_dec,  op_jump, 0,      op_end};

u32 bytecode_switch(u32 count) {
  u32 stack[16] = {1, count * 1000};
  u32* top = stack + 1;
  for (const u8* at = code;;) {
    switch (*at++) {
      case op_push: *++top = *at++; break;
      case op_add:
        top--;
        top[0] += top[1];
        break;
      case op_mul:
        top--;
        top[0] *= top[1];
        break;
      case op_xor:
        top--;
        top[0] ^= top[1];
        break;
      case op_dup:
        top[1] = top[0];
        top++;
        break;
      case op_swap: {
        u32 t = top[0];
        top[0] = top[-1];
        top[-1] = t;
        break;
      }
      case op_dec: top[0]--; break;
      case op_jump: at = top[0] != 0 ? code + *at : at + 1; break;
      default: return top[-1];
    }
  }
}

u32 bytecode_goto(u32 count) {
  static void* const labels[op_count] = {&&push, &&add, &&mul, &&xor, &&dup, &&swap, &&dec, &&jump, &&end};
  u32 stack[16] = {1, count * 1000};
  u32* top = stack + 1;
  const u8* at = code;
#define NEXT goto* labels[*at++]
  NEXT;
push:
  *++top = *at++;
  NEXT;
add:
  top--;
  top[0] += top[1];
  NEXT;
mul:
  top--;
  top[0] *= top[1];
  NEXT;
  xor : top--;
  top[0] ^= top[1];
  NEXT;
dup:
  top[1] = top[0];
  top++;
  NEXT;
swap : {
  u32 t = top[0];
  top[0] = top[-1];
  top[-1] = t;
}
  NEXT;
dec:
  top[0]--;
  NEXT;
jump:
  at = top[0] != 0 ? code + *at : at + 1;
  NEXT;
end:
  return top[-1];
}

#define NOINLINE static __attribute__((noinline, noclone)) u32
NOINLINE leaf(u32 x) { return x * 9 + 1; }

// 1,000 call sites, each of its own return address.
#define SITE x = leaf(x ^ __COUNTER__);
#define TEN(s) s s s s s s s s s s
u32 call_sites(u32 count) {
  u32 x = 1;
  for (u32 i = 0; i < count; i++) {
    TEN(TEN(TEN(SITE)))
  }
  return x;
}

NOINLINE first(u32 x) { return x + 1; }
NOINLINE second(u32 x) { return x * 3; }
NOINLINE third(u32 x) { return x ^ x >> 5; }
NOINLINE fourth(u32 x) { return x << 1 | x >> 31; }

u32 indirect_calls(u32 count) {
  static u32 (*volatile const table[4])(u32) = {first, second, third, fourth};
  u32 x = 1, random = 5;
  for (u32 i = 0; i < count * 1000; i++) x = table[next_random(&random) & 3](x);
  return x;
}
