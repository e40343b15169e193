// What x87, MMX and SSE instructions check before they execute, in the manual's order (Intel SDM vol. 3, 2.5 and 13.1; vol. 2, the
// exception tables of each instruction).
#pragma once

#include "runtime/interp/native_stubs.h"
#include "runtime/system/cpu_model.h"
#include "runtime/vcpu.h"

namespace ring3::fpu {

inline constexpr u16 fsw_es = 0x80;
inline constexpr u16 fsw_busy = 0x8000;  // equals ES on all CPUs since the 80287
inline constexpr u16 exception_mask = 0x3F;
// An unmasked x87 exception waits to be reported. The second half catches images whose ES does not (yet) say so.
[[nodiscard]] inline bool error_pending(const FxImage& f) { return (f.fsw & fsw_es) != 0 || (f.fsw & ~u32{f.fcw} & exception_mask) != 0; }

// Reports the pending exception: #MF, or with CR0.NE = 0 the FERR# pin. The FPU then waits for the interrupt that FERR# causes (SDM vol. 1,
// 8.7.2): the instruction is retried until the handler has cleared the exception, or has had IGNNE# asserted, with which it is executed
// all the same (Flow::next).
[[nodiscard]] inline Flow report_error(Vcpu& v) {
  if ((v.s.cr0 & cr0::ne) != 0) return v.raise(Vector::x87);
  if (v.bus.ignne()) return Flow::next;
  v.bus.set_ferr(true);
  return Flow::again;
}

// FERR# goes with the last pending exception.
inline void release_ferr(Vcpu& v) {
  if (!error_pending(v.s.fpu)) v.bus.set_ferr(false);
}

// While it lives, a pending exception that IGNNE# lets pass is out of the image, so that the host does not report it; then it is back.
class IgnoredError {
 public:
  explicit IgnoredError(FxImage& image) : image_(image), flags_(error_pending(image) ? image.fsw & exception_mask : 0u) {
    if (flags_ != 0) image.fsw = static_cast<u16>(image.fsw & ~(fsw_busy | fsw_es | exception_mask));
  }
  ~IgnoredError() {
    if (flags_ == 0) return;
    image_.fsw = static_cast<u16>(image_.fsw | flags_);
    if ((image_.fsw & ~u32{image_.fcw} & exception_mask) != 0) image_.fsw = static_cast<u16>(image_.fsw | fsw_es | fsw_busy);
  }
  IgnoredError(const IgnoredError&) = delete;
  IgnoredError& operator=(const IgnoredError&) = delete;

 private:
  FxImage& image_;
  u32 flags_;
};

// Flow::next: go on.
[[nodiscard]] inline Flow check_common(Vcpu& v, Feature feature) {
  if (!v.model.has(feature)) return v.raise(Vector::invalid_opcode);
  if (v.native == nullptr) {
    v.missing = "floating point without native stubs";
    return Flow::missing;
  }
  return Flow::next;
}

// `waiting`: the instruction reports a pending exception first (all x87 instructions but the FN forms).
[[nodiscard]] inline Flow check_x87(Vcpu& v, const Insn& insn, bool waiting) {
  if (const Flow f = check_common(v, insn.feature); f != Flow::next) return f;
  if ((v.s.cr0 & (cr0::em | cr0::ts)) != 0) return v.raise(Vector::device_not_available);
  if (waiting && error_pending(v.s.fpu)) return report_error(v);
  return Flow::next;
}

[[nodiscard]] inline Flow check_simd(Vcpu& v, Feature feature, bool needs_osfxsr, bool reports_x87_error) {
  if (const Flow f = check_common(v, feature); f != Flow::next) return f;
  if ((v.s.cr0 & cr0::em) != 0 || (needs_osfxsr && (v.s.cr4 & cr4::osfxsr) == 0)) return v.raise(Vector::invalid_opcode);
  if ((v.s.cr0 & cr0::ts) != 0) return v.raise(Vector::device_not_available);
  if (reports_x87_error && error_pending(v.s.fpu)) return report_error(v);
  return Flow::next;
}

// #GP(0) unless the operand's linear address is a multiple of 16; segment limit and rights come first.
[[nodiscard]] inline bool check_aligned16(Vcpu& v, Seg segment, u32 offset, unsigned size, Access access) {
  u32 linear = 0;
  if (!v.linear_address(segment, offset, size, access, linear)) return false;
  if ((linear & 15u) == 0) return true;
  (void)v.raise(Vector::general_protection, 0);
  return false;
}

// Operands larger than one Memory access (16 bytes), without alignment check. A store that faults writes nothing.
[[nodiscard]] bool load_block(Vcpu& v, Seg segment, u32 offset, void* out, unsigned size);
[[nodiscard]] bool store_block(Vcpu& v, Seg segment, u32 offset, const void* in, unsigned size);
[[nodiscard]] bool probe_block(Vcpu& v, Seg segment, u32 offset, unsigned size);

// Turns the x87 stack to TOP = 0 with all registers in use, as every MMX instruction does (SDM vol. 3, 12.2).
void enter_mmx(FxImage& image);

// Rows registered per file.
[[nodiscard]] Flow x87_execute(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fldcw(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fnclex(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fninit(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fnstcw(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fnstsw(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fwait(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow x87_no_operation(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fnstenv(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fldenv(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow simd_execute(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow mask_move(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fxsave(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow fxrstor(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow ldmxcsr(Vcpu& v, const Insn& insn);
[[nodiscard]] Flow stmxcsr(Vcpu& v, const Insn& insn);

}  // namespace ring3::fpu
