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
  v.bus.note_access();
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

// #GP(0) unless the operand's linear address is a multiple of 16. Intel's CPUs look at that before they look at limit and rights, which
// shows where those raise #SS.
[[nodiscard]] inline bool check_aligned16(Vcpu& v, Seg segment, u32 offset) {
  if (((v.s.segment(segment).base + offset) & 15u) == 0) return true;
  (void)v.raise(Vector::general_protection, 0);
  return false;
}

// The memory operand of an instruction that moves an image: larger than one access of Memory. Offsets wrap to the address size.
class ImageOperand {
 public:
  // The first `header` bytes are accessed in pieces of `piece` bytes; registers of ten bytes follow, the significand
  // of each inside the segment as a whole. With 16-bit addresses the offset of each part wraps at 64 KiB; the bytes of a significand go on.
  ImageOperand(Vcpu& v, const Insn& insn, unsigned size, unsigned header, unsigned piece)
      : v_(v),
        seg_(insn.mem.segment),
        offset_(v.effective_address(insn)),
        mask_(insn.address_size == 2 ? 0xFFFFu : ~0u),
        size_(size),
        header_(header),
        piece_(piece) {}

  // Each of these returns false after setting `Vcpu::fault`.
  [[nodiscard]] bool probe_first(unsigned bytes, Access access) { return probe(0, bytes, access); }
  [[nodiscard]] bool probe_last(Access access) { return probe(size_ - 1, 1, access); }
  [[nodiscard]] bool load(void* out);
  // The first `bytes` of the image; a store that faults writes nothing.
  [[nodiscard]] bool store(const void* in, unsigned bytes);
  [[nodiscard]] bool probe_store(unsigned bytes);
  // `bytes` bytes of the image from `from` on, to the same place in `image`.
  [[nodiscard]] bool load_part(unsigned from, unsigned bytes, u8* image);
  // Whether its first byte lies in the segment.
  [[nodiscard]] bool starts_in_segment();
  // Of the first `bytes` bytes: #AC if alignment checks ask for more than they have.
  [[nodiscard]] bool check_alignment(unsigned bytes, Access access);
  // The whole image's bytes in guest RAM when they lie in one page that needs no hook; null: use the above. Kernels save and restore the
  // FPU at every task switch: 32 checked accesses cost 1 us.
  [[nodiscard]] u8* direct(Access access);

  [[nodiscard]] Seg segment() const { return seg_; }
  [[nodiscard]] u32 offset() const { return offset_; }

 private:
  [[nodiscard]] u32 at(unsigned done) const {
    constexpr unsigned extended = 10, significand = 8;
    const unsigned in_register = done < header_ ? 0 : (done - header_) % extended;
    const unsigned inside = in_register < significand ? in_register : 0;
    return ((offset_ + done - inside) & mask_) + inside;
  }
  [[nodiscard]] unsigned piece_at(unsigned done) const { return done < header_ ? piece_ : 2; }
  [[nodiscard]] bool significand_fits(unsigned done, Access access);
  [[nodiscard]] bool probe(unsigned done, unsigned bytes, Access access);

  Vcpu& v_;
  Seg seg_;
  u32 offset_;
  u32 mask_;
  unsigned size_;
  unsigned header_;
  unsigned piece_;
};

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
