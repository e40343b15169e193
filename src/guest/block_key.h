// What identifies a translation: where the code lies, and everything its translation depends on.
#pragma once

#include "base/types.h"

namespace ring3 {

// Mode bits. Each one changes what the emitter produces for the same bytes.
namespace mode {
inline constexpr u32 code32 = 1u << 0;             // CS.D: default operand and address size
inline constexpr u32 stack32 = 1u << 1;            // SS.B: implicit stack accesses use ESP, not SP
inline constexpr u32 user = 1u << 2;               // CPL 3: other memory view, CLI/STI/IN/OUT may fault
inline constexpr u32 v8086 = 1u << 3;              // EFLAGS.VM: never translated
inline constexpr u32 trap = 1u << 4;               // EFLAGS.TF: only the interpreter single-steps
inline constexpr u32 ds_es_ss_flat = 1u << 5;      // DS, ES and SS: base 0, limit 4 GiB, usable, writable: no address arithmetic
inline constexpr u32 osfxsr = 1u << 6;             // CR4.OSFXSR: SSE is #UD without it
inline constexpr u32 cpl0 = 1u << 7;               // CPL 0: privileged instructions need no check (CPL 1 and 2 have neither bit)
inline constexpr u32 cs_flat = 1u << 8;            // CS: base 0, limit 4 GiB
inline constexpr u32 protected_mode = 1u << 9;     // CR0.PE: segment loads read descriptors
inline constexpr u32 tsc_faults = 1u << 10;        // CR4.TSD and CPL > 0: RDTSC is #GP(0)
inline constexpr u32 alignment_checks = 1u << 11;  // CPL 3, CR0.AM and EFLAGS.AC: only the interpreter checks alignment
inline constexpr u32 fs_gs_checked = 1u << 12;     // FS or GS is loaded and not plain data of 4 GiB: accesses through both are checked
inline constexpr u32 expand_down = 1u << 13;       // a loaded data segment expands down: checks have a lower bound too
inline constexpr u32 x87_unmasked = 1u << 14;  // an x87 exception is unmasked: only the interpreter knows the pointers of its FOP and FDP
inline constexpr u32 window = 1u << 15;        // accesses go through the context's window: the engine's choice, not the guest CPU's mode
inline constexpr u32 low_window = 1u << 16;    // with `window`: it lies at host address 0, so an operand's address is its own
}  // namespace mode

struct BlockKey {
  u64 physical = 0;  // of the first byte
  u32 linear = 0;    // of the first byte: targets inside are linear
  u32 mode = 0;
  u32 cs_base = 0;   // EIP = linear - cs_base
  u32 cs_limit = 0;  // the last EIP that may be fetched; branch targets are compared with it
  // Both are translations for the same state of the CPU.
  [[nodiscard]] bool same_mode(const BlockKey& other) const {
    return mode == other.mode && cs_base == other.cs_base && cs_limit == other.cs_limit;
  }
  bool operator==(const BlockKey&) const = default;
  [[nodiscard]] u32 hash() const {
    return static_cast<u32>(((physical ^ (u64{linear} << 20) ^ (u64{mode} << 52)) * 0x9E3779B97F4A7C15u) >> 32);
  }
};

}  // namespace ring3
