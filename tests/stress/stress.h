// A guest's first process that strains memory and processes. Every part computes what must come out and compares.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef uint8_t u8;
typedef uint32_t u32;

enum { page = 4096 };

// Repeatable noise (xorshift32); the state must not be 0.
static inline u32 next_random(u32* state) {
  u32 x = *state;
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return *state = x;
}
static inline u32 below(u32* state, u32 limit) { return next_random(state) % limit; }

// Prints what is wrong and ends the process with status 1.
void wrong(const char* format, ...) __attribute__((noreturn, format(printf, 1, 2)));

// True, and the address is noted, if the access faults; SIGSEGV and SIGBUS both count.
void catch_faults(void);
bool faults_on_read(const volatile u8* at, u8* value);
bool faults_on_write(volatile u8* at, u8 value);
extern const void* volatile fault_address;

// The parts. Each does `amount` units and ends by returning, or through wrong().
void fork_trees(u32 amount, u32 seed);
void mapping_storm(u32 amount, u32 seed);
void code_in_place(u32 amount, u32 seed);
void code_by_alias(u32 amount, u32 seed);
void code_by_mprotect(u32 amount, u32 seed);
void code_by_kernel(u32 amount, u32 seed);
void code_moved(u32 amount, u32 seed);
void many_processes(u32 amount, u32 seed);
void memory_pressure(u32 amount, u32 seed);
void shared_counters(u32 amount, u32 seed);
