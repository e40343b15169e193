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

// Runs `access(offset, done, size)` over the operand in pieces.
template <typename F>
bool each_chunk(u32 offset, unsigned size, F access) {
  for (unsigned done = 0; done < size; done += chunk) {
    if (!access(offset + done, done, std::min(chunk, size - done))) return false;
  }
  return true;
}

// The image's bytes in guest RAM when they lie in one page that needs no hook; null: go through the checked accesses. Kernels save and
// restore the FPU at every task switch: 32 checked accesses cost 1 us.
u8* whole_image(Vcpu& v, Seg segment, u32 offset, Access access) {
  u32 linear = 0;
  if (!v.linear_address(segment, offset, image_size, access, linear) || (linear & page_mask) > page_size - image_size) return nullptr;
  return v.mem.direct(linear, access, v.s.cpl == 3);
}

// Segment, then alignment. Where #AC is on, the manual leaves it to the CPU which misalignments are #AC and which #GP: here, as on current
// CPUs, those of a doubleword (SDM vol. 2, FXSAVE).
bool open_image(Vcpu& v, Seg segment, u32 offset, Access access) {
  u32 linear = 0;
  return v.linear_address(segment, offset, image_size, access, linear) && v.check_alignment(segment, offset, 4) &&
         check_aligned16(v, segment, offset, image_size, access);
}

}  // namespace

bool load_block(Vcpu& v, Seg segment, u32 offset, void* out, unsigned size) {
  return each_chunk(offset, size,
                    [&](u32 at, unsigned done, unsigned n) { return v.load_bytes(segment, at, static_cast<u8*>(out) + done, n); });
}

bool probe_block(Vcpu& v, Seg segment, u32 offset, unsigned size) {
  return each_chunk(offset, size, [&](u32 at, unsigned, unsigned n) { return v.probe_store(segment, at, n); });
}

bool store_block(Vcpu& v, Seg segment, u32 offset, const void* in, unsigned size) {
  return probe_block(v, segment, offset, size) && each_chunk(offset, size, [&](u32 at, unsigned done, unsigned n) {
           return v.store_bytes(segment, at, static_cast<const u8*>(in) + done, n);
         });
}

// FXSAVE does not wait, and with CR4.OSFXSR = 0 it saves the SSE state all the same, as the manual allows.
Flow fxsave(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, false); f != Flow::next) return f;
  const u32 offset = v.effective_address(insn);
  const Seg segment = insn.mem.segment;
  if (!open_image(v, segment, offset, Access::write)) return Flow::fault;
  u8* const direct = whole_image(v, segment, offset, Access::write);
  if (direct == nullptr && !probe_block(v, segment, offset, image_size)) return Flow::fault;
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
  return store_block(v, segment, offset, &image, size) ? Flow::next : Flow::fault;
}

Flow fxrstor(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, false); f != Flow::next) return f;
  const u32 offset = v.effective_address(insn);
  if (!open_image(v, insn.mem.segment, offset, Access::read)) return Flow::fault;
  std::array<u8, image_size> bytes;
  if (const u8* const direct = whole_image(v, insn.mem.segment, offset, Access::read); direct != nullptr) {
    std::memcpy(bytes.data(), direct, used_size);
  } else if (!load_block(v, insn.mem.segment, offset, bytes.data(), image_size)) {
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
