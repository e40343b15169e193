// Descriptors in guest memory (Intel SDM vol. 3, 3.4.5 and 3.5) and the faults that using one raises.
#pragma once

#include "runtime/vcpu.h"

namespace ring3 {

// Types of system descriptors (SDM vol. 3, table 3-2).
namespace system_type {
inline constexpr u32 tss16 = 1, ldt = 2, tss16_busy = 3, call_gate16 = 4, task_gate = 5, interrupt_gate16 = 6, trap_gate16 = 7, tss32 = 9,
                     tss32_busy = 11, call_gate32 = 12, interrupt_gate32 = 14, trap_gate32 = 15;
}  // namespace system_type

// Eight bytes of GDT, LDT or IDT as read, and the linear address they came from.
struct Descriptor {
  u32 low = 0;
  u32 high = 0;
  u32 address = 0;

  // As in SegmentCache: bits 40-47 in the low byte, bits 52-55 in bits 12-15.
  [[nodiscard]] u16 attributes() const { return static_cast<u16>((high >> 8) & 0xF0FFu); }
  [[nodiscard]] u32 type() const { return (high >> 8) & 0xFu; }
  [[nodiscard]] u32 dpl() const { return (high >> 13) & 3u; }
  [[nodiscard]] bool present() const { return (high & 0x8000u) != 0; }
  [[nodiscard]] bool is_system() const { return (high & 0x1000u) == 0; }
  [[nodiscard]] bool is_code() const { return (high & 0x1800u) == 0x1800u; }
  [[nodiscard]] bool is_conforming() const { return (high & 0x1C00u) == 0x1C00u; }
  [[nodiscard]] bool is_writable_data() const { return (high & 0x1A00u) == 0x1200u; }
  [[nodiscard]] bool is_readable() const { return !is_system() && (!is_code() || (high & 0x200u) != 0); }
  [[nodiscard]] bool is_available_tss() const { return is_system() && (type() == system_type::tss16 || type() == system_type::tss32); }
  [[nodiscard]] u32 base() const { return (low >> 16) | ((high & 0xFFu) << 16) | (high & 0xFF000000u); }
  // In bytes, granularity applied.
  [[nodiscard]] u32 limit() const {
    const u32 raw = (low & 0xFFFFu) | (high & 0xF0000u);
    return (high & 0x800000u) != 0 ? (raw << 12) | 0xFFFu : raw;
  }
  // What a segment register caches after loading `selector`.
  [[nodiscard]] SegmentCache cache(u16 selector) const { return {selector, attributes(), base(), limit()}; }

  // Gates (SDM vol. 3, 5.8.3 and 6.11).
  [[nodiscard]] u16 gate_selector() const { return static_cast<u16>(low >> 16); }
  [[nodiscard]] u32 gate_offset() const { return is_gate32() ? (low & 0xFFFFu) | (high & 0xFFFF0000u) : low & 0xFFFFu; }
  [[nodiscard]] bool is_gate32() const { return (type() & 8u) != 0; }
  [[nodiscard]] u32 parameter_count() const { return high & 31u; }
};

[[nodiscard]] inline bool is_null(u16 selector) { return (selector & 0xFFFCu) == 0; }
[[nodiscard]] inline u32 rpl(u16 selector) { return selector & 3u; }
[[nodiscard]] inline u16 with_rpl(u16 selector, u32 level) { return static_cast<u16>((selector & 0xFFFCu) | level); }

// Error code that names a selector; `ext` is 1 if the event in delivery is not a software interrupt (SDM vol. 3, 6.13).
[[nodiscard]] inline u32 selector_error(u16 selector, u32 ext = 0) { return (selector & 0xFFFCu) | ext; }

// Fills `v.fault`; false, so that checks can return it.
inline bool refuse(Vcpu& v, Vector vector, u32 error_code) {
  v.raise(vector, error_code);
  return false;
}

// Ends the run from a handler: the guest used something this version does not have.
inline Flow missing(Vcpu& v, const char* what) {
  v.missing = what;
  return Flow::missing;
}

// Does the table that `selector` names reach over all eight bytes of its descriptor? A NULL LDTR reaches over nothing.
[[nodiscard]] bool inside_table(const CpuState& s, u16 selector);

// Reads the descriptor of a selector that is inside its table. False: #PF, in `v.fault`.
[[nodiscard]] bool read_descriptor(Vcpu& v, u16 selector, Descriptor& out);

// Both of the above; outside the table is `vector` with the selector's error code.
[[nodiscard]] bool fetch_descriptor(Vcpu& v, u16 selector, Vector vector, u32 ext, Descriptor& out);

// Checks of a task switch (SDM vol. 3, table 7-1; vol. 2, "TASK-GATE" of CALL, JMP and INT n, "TASK-RETURN" of IRET): the TSS descriptor
// must be in the GDT, be available, or busy for a return to it, be present, and be long enough. `vector` is #GP, or #TS for returns.
[[nodiscard]] bool check_new_tss(Vcpu& v, u16 selector, bool busy, Vector vector, u32 ext);

// Sets the accessed bit of a code or data descriptor in memory if it is clear, and in `d`. False: #PF.
[[nodiscard]] bool mark_accessed(Vcpu& v, Descriptor& d);

}  // namespace ring3
