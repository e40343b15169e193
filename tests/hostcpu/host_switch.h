// Between 64-bit code and programs on the host: the words that both sides share, and the ways in and out.
#pragma once

#include "guest/cpu_state.h"

#include <array>
#include <cstddef>

namespace ring3::hostcpu {

// Known to host_switch.cpp's assembly by offset.
struct alignas(64) SwitchWords {
  std::array<u32, 8> gpr;                             // 0
  u64 eflags;                                         // 32
  u64 host_stack;                                     // 40
  u64 host_fs_base;                                   // 48
  u32 entry_offset;                                   // 56: far pointer to the program
  u16 entry_selector;                                 // 60
  u16 unused;                                         // 62
  u32 use_fpu;                                        // 64
  u32 host_mxcsr;                                     // 68
  u32 running;                                        // 72: a program has the CPU
  std::array<u16, segment_count> selector;            // 76, in the order of Seg; CS is not used
  std::array<u16, segment_count> selector_at_signal;  // 88, likewise; SS and CS are not used
  std::array<u8, 28> gap;
  FxImage fpu;  // 128
  // Of the signal that ended a run.
  u32 signal;
  u32 vector;
  u32 error_code;
  u32 address;
  u32 eip;
  u16 cs;
  u32 run;          // counts runs
  u32 run_at_tick;  // the run that the last timer signal found
};
static_assert(offsetof(SwitchWords, eflags) == 32 && offsetof(SwitchWords, host_stack) == 40 && offsetof(SwitchWords, host_fs_base) == 48);
static_assert(offsetof(SwitchWords, entry_offset) == 56 && offsetof(SwitchWords, use_fpu) == 64 && offsetof(SwitchWords, host_mxcsr) == 68);
static_assert(offsetof(SwitchWords, running) == 72 && offsetof(SwitchWords, selector) == 76 &&
              offsetof(SwitchWords, selector_at_signal) == 88 && offsetof(SwitchWords, fpu) == 128);

}  // namespace ring3::hostcpu

extern "C" {
extern ring3::hostcpu::SwitchWords ring3_hostcpu_words;
// Loads what `ring3_hostcpu_words` says and jumps to the program; returns when it is done, with its state stored there.
void ring3_hostcpu_enter();
// Where the trampoline leads, and where the signal handler goes on after it has stored the state itself.
void ring3_hostcpu_exit();
void ring3_hostcpu_exit_after_signal();
// The signal handler proper: makes the process fit for C++ again, stores DS, ES, FS and GS and calls ring3_hostcpu_on_signal.
void ring3_hostcpu_signal(int, void*, void*);
void ring3_hostcpu_on_signal(int number, void* info, void* context);
}
