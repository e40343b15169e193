// What the benchmark programs share. Every program does `count` units of work and returns a checksum that depends on all of it, so that
// a wrong result cannot pass as a fast one: the runner compares the checksums of all machines.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

typedef u32 (*Work)(u32 count);

struct Program {
  const char* name;
  Work run;
};

// integer.c, memory.c, control.c, floating.c: user-level work.
u32 integer_loop(u32 count);
u32 sieve(u32 count);
u32 sha256(u32 count);
u32 lz_compress(u32 count);
u32 sort_inline(u32 count);
u32 sort_comparator(u32 count);
u32 chase_small(u32 count);  // 16 KB
u32 chase_large(u32 count);  // 8 MB
u32 recursion(u32 count);
u32 bytecode_switch(u32 count);
u32 bytecode_goto(u32 count);
u32 call_sites(u32 count);
u32 indirect_calls(u32 count);
u32 matrix_x87(u32 count);
u32 matrix_sse2(u32 count);

// Repeatable noise (xorshift32); the state must not be 0.
static inline u32 next_random(u32* state) {
  u32 x = *state;
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return *state = x;
}

// Folds `value` into a checksum.
static inline u32 mix(u32 sum, u32 value) { return ((sum << 5 | sum >> 27) ^ value) * 0x9E3779B1u; }
