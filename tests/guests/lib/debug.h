// Debug registers, and a log of the #DB that they cause. For the tests debug_*.c and priorities.c.
#pragma once

#include "guest.h"

enum { on_execute = 0, on_write = 1, on_io = 2, on_access = 3 };
enum { length_1 = 0, length_2 = 1, length_8 = 2, length_4 = 3 };
enum { dr6_fixed = (int)0xFFFF0FF0, dr6_bd = 1 << 13, dr6_bs = 1 << 14, dr7_fixed = 0x400, dr7_gd = 1 << 13, cr4_de = 8 };

#define DEBUG_REGISTER(n)                                                                                                         \
  static inline u32 read_dr##n(void) {                                                                                            \
    u32 value;                                                                                                                    \
    __asm__ volatile("mov %%dr" #n ", %0" : "=r"(value)::"memory");                                                               \
    return value;                                                                                                                 \
  }                                                                                                                               \
  static inline void write_dr##n(u32 value) { __asm__ volatile("mov %0, %%dr" #n ::"r"(value) : "memory"); }
DEBUG_REGISTER(0)
DEBUG_REGISTER(1)
DEBUG_REGISTER(2)
DEBUG_REGISTER(3)
DEBUG_REGISTER(6)
DEBUG_REGISTER(7)

// One #DB, and its bits of DR6 without those that are always set.
struct DebugEvent {
  u32 eip, eflags, dr6, ecx;
};
enum { most_events = 32 };
static struct DebugEvent events[most_events];
static u32 event_count;
// What the hook does to the interrupted code's flags: a handler of instruction breakpoints sets RF, and one that has seen enough clears TF.
static u32 hook_sets = f_rf, hook_clears;

static bool log_debug(struct Frame* frame) {
  u32 dr6 = read_dr6();
  write_dr6(dr6_fixed);
  if (event_count < most_events) events[event_count] = (struct DebugEvent){frame->eip, frame->eflags, dr6 & 0xE00F, frame->ecx};
  event_count++;
  if (event_count >= most_events) {  // it would not end by itself
    write_dr7(dr7_fixed);
    frame->eflags &= ~(u32)f_tf;
  }
  if (dr6 & 0xF) frame->eflags |= hook_sets;
  frame->eflags &= ~hook_clears;
  return true;
}

static inline void set_breakpoint_address(u32 n, u32 address) {
  switch (n) {
    case 0: write_dr0(address); break;
    case 1: write_dr1(address); break;
    case 2: write_dr2(address); break;
    default: write_dr3(address); break;
  }
}

// DR7 for breakpoint n alone, enabled by Ln or Gn.
static inline u32 dr7_bits(u32 n, u32 on, u32 length, bool global) {
  return dr7_fixed | (global ? 2u : 1u) << (2 * n) | (on | length << 2) << (16 + 4 * n);
}

static inline void breakpoint(u32 n, u32 address, u32 on, u32 length) {
  set_breakpoint_address(n, address);
  write_dr7((read_dr7() & ~(0xFu << (16 + 4 * n)) & ~(3u << (2 * n))) | dr7_bits(n, on, length, n & 1));
}

static inline void start_log(void) {
  event_count = 0;
  write_dr6(dr6_fixed);
}

static inline void no_breakpoints(void) { write_dr7(dr7_fixed); }

static inline void check_event(const char* what, u32 n, const void* eip, u32 dr6, u32 rf) {
  if (n >= event_count) {
    check_true(what, false);
    return;
  }
  const struct DebugEvent* e = &events[n];
  bool good = e->eip == (u32)eip && e->dr6 == dr6 && (e->eflags & f_rf) == rf;
  if (!check_true(what, good) && showing_failures())
    printf("       event %u: eip %x dr6 %x eflags %x, want eip %x dr6 %x rf %x\n", n, e->eip, e->dr6, e->eflags, (u32)eip, dr6, rf);
}

static inline void check_events(const char* what, u32 count) {
  if (check(what, event_count, count) || !showing_failures()) return;
  for (u32 i = 0; i < event_count && i < most_events; i++)
    printf("       event %u: eip %x dr6 %x eflags %x\n", i, events[i].eip, events[i].dr6, events[i].eflags);
}
