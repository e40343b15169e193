// FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, and memory operands too large for one access.
#include "runtime/interp/fpu_rows.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace ring3::fpu {

namespace {

constexpr unsigned chunk = 16;
constexpr unsigned image_size = 512;
// Outside 64-bit mode XMM8 to XMM15 and what follows them are not touched (SDM vol. 1, 10.5.1).
constexpr unsigned used_size = offsetof(FxImage, xmm) + u64{8} * 16;
constexpr unsigned x87_size = offsetof(FxImage, xmm);  // all there is without SSE

// Intel's CPUs look at the first byte's place in the segment, then at the alignment, then at the last byte. Where alignment checks are on,
// #AC may take the place of #GP (SDM vol. 2, FXSAVE); on Intel's CPUs it does if the address is not a multiple of 4.
bool check_image(Vcpu& v, ImageOperand& image, Access access) {
  return image.starts_in_segment() && image.check_alignment(4, Access::execute) && check_aligned16(v, image.segment(), image.offset()) &&
         image.probe_last(access);
}

// What FXRSTOR reads besides the last byte. With 16-bit addresses each part's own offset wraps at 64 KiB, not the bytes inside of a part;
// significand and exponent of an x87 register are two parts on Intel's CPUs.
bool load_image(ImageOperand& operand, u8* out) {
  constexpr unsigned significand = 8;
  for (unsigned at = 0, bytes = significand; at < used_size; at += bytes) {
    bytes = at < x87_size ? significand : chunk;
    if (!operand.load_part(at, bytes, out)) return false;
  }
  return true;
}

}  // namespace

bool ImageOperand::load_part(unsigned from, unsigned bytes, u8* image) { return v_.load_bytes(seg_, at(from), image + from, bytes); }

bool ImageOperand::probe(unsigned done, unsigned bytes, Access access) {
  std::array<u8, chunk> ignored{};
  return access == Access::write ? v_.probe_store(seg_, at(done), bytes) : v_.load_bytes(seg_, at(done), ignored.data(), bytes);
}

bool ImageOperand::significand_fits(unsigned done, Access access) {
  constexpr unsigned extended = 10;
  constexpr unsigned significand = 8;
  u32 linear = 0;
  return done < header_ || (done - header_) % extended != 0 || v_.linear_address(seg_, at(done), significand, access, linear);
}

bool ImageOperand::load(void* out) {
  for (unsigned done = 0; done < size_; done += piece_at(done)) {
    if (!significand_fits(done, Access::read)) return false;
    if (!v_.load_bytes(seg_, at(done), static_cast<u8*>(out) + done, piece_at(done))) return false;
  }
  return true;
}

bool ImageOperand::probe_store(unsigned bytes) {
  for (unsigned done = 0; done < bytes; done += piece_at(done)) {
    if (!significand_fits(done, Access::write) || !v_.probe_store(seg_, at(done), piece_at(done))) return false;
  }
  return true;
}

bool ImageOperand::store(const void* in, unsigned bytes) {
  if (!probe_store(bytes)) return false;
  for (unsigned done = 0; done < bytes; done += piece_at(done)) {
    if (!v_.store_bytes(seg_, at(done), static_cast<const u8*>(in) + done, piece_at(done))) return false;
  }
  return true;
}

bool ImageOperand::starts_in_segment() {
  u32 linear = 0;
  return v_.linear_address(seg_, offset_, 1, Access::execute, linear);
}

bool ImageOperand::check_alignment(unsigned bytes, Access access) {
  u32 linear = 0;
  return v_.linear_address(seg_, offset_, bytes, access, linear) && v_.check_alignment(seg_, offset_, bytes);
}

u8* ImageOperand::direct(Access access) {
  u32 linear = 0;
  if (at(size_ - 1) < offset_ || !v_.linear_address(seg_, offset_, size_, access, linear)) return nullptr;
  return (linear & page_mask) > page_size - size_ ? nullptr : v_.mem.direct(linear, access, v_.s.cpl == 3);
}

// FXSAVE does not wait, and with CR4.OSFXSR = 0 it saves the SSE state all the same, as the manual allows.
Flow fxsave(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, false); f != Flow::next) return f;
  ImageOperand operand(v, insn, image_size, image_size, chunk);
  if (!check_image(v, operand, Access::write)) return Flow::fault;
  u8* const direct = operand.direct(Access::write);
  if (direct == nullptr && !operand.probe_store(used_size)) return Flow::fault;
  FxImage image = v.s.fpu;
  // The 32-bit format: offsets of 32 bits beside selectors, which the CPU model stores as 0.
  image.fip &= 0xFFFFFFFFu;
  image.fdp &= 0xFFFFFFFFu;
  image.mxcsr_mask = v.model.stored_mxcsr_mask();
  const bool sse = v.model.has(Feature::sse);
  if (!sse) image.mxcsr = 0;  // reserved there
  const unsigned size = sse ? used_size : x87_size;
  if (direct != nullptr) {
    std::memcpy(direct, &image, size);
    return Flow::next;
  }
  return operand.store(&image, size) ? Flow::next : Flow::fault;
}

Flow fxrstor(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, false); f != Flow::next) return f;
  ImageOperand operand(v, insn, image_size, image_size, chunk);
  if (!check_image(v, operand, Access::read)) return Flow::fault;
  std::array<u8, image_size> bytes{};
  if (const u8* const direct = operand.direct(Access::read); direct != nullptr) {
    std::memcpy(bytes.data(), direct, used_size);
  } else if (!load_image(operand, bytes.data())) {
    return Flow::fault;
  }
  FxImage image = v.s.fpu;
  const bool sse = v.model.has(Feature::sse);
  std::memcpy(static_cast<void*>(&image), bytes.data(), sse ? used_size : x87_size);
  if (!sse) image.mxcsr = v.s.fpu.mxcsr;
  if ((image.mxcsr & ~v.model.mxcsr_mask()) != 0) return v.raise(Vector::general_protection, 0);
  image.fip &= 0xFFFFFFFFu;
  image.fdp &= 0xFFFFFFFFu;
  image.fop &= 0x7FFu;
  const u64 fip = image.fip;
  const u64 fdp = image.fdp;
  const u16 fop = image.fop;
  v.native->normalize(image);
  image.fip = fip;
  image.fdp = fdp;
  image.fop = fop;
  v.s.fpu = image;
  release_ferr(v);
  return Flow::next;
}

Flow ldmxcsr(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_simd(v, insn.feature, true, false); f != Flow::next) return f;
  u32 value = 0;
  if (!v.load(insn.mem.segment, v.effective_address(insn), value)) return Flow::fault;
  if ((value & ~v.model.mxcsr_mask()) != 0) return v.raise(Vector::general_protection, 0);
  v.s.fpu.mxcsr = value;
  return Flow::next;
}

Flow stmxcsr(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_simd(v, insn.feature, true, false); f != Flow::next) return f;
  return v.store(insn.mem.segment, v.effective_address(insn), v.s.fpu.mxcsr) ? Flow::next : Flow::fault;
}

}  // namespace ring3::fpu
