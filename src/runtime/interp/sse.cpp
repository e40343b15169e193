// MMX and SSE instructions (Intel SDM vol. 1, chapters 9 to 12). They run on the host with every SIMD exception masked; what the guest has
// unmasked is found in the flags afterwards.
#include "frontend/alignment.h"
#include "runtime/interp/fpu_rows.h"

#include <optional>

namespace ring3::fpu {

void enter_mmx(FxImage& image) {
  const unsigned top = (image.fsw >> 11) & 7u;
  const auto stack = image.st;
  for (unsigned i = 0; i < 8; ++i) image.st[(top + i) & 7u] = stack[i];
  image.fsw = static_cast<u16>(image.fsw & ~0x3800u);
  image.ftw = 0xFF;
}

namespace {

constexpr u32 mxcsr_flags = 0x3F;
constexpr u32 mxcsr_masks = 0x1F80;
constexpr u32 mxcsr_underflow_mask = 0x800;
constexpr u32 mxcsr_flush_to_zero = 0x8000;
constexpr u32 underflow = 0x10;
constexpr u32 precision = 0x20;
constexpr u32 before_computation = 0x07;  // invalid, denormal, zero divide

// Which registers and memory an instruction touches, gathered once.
struct Operands {
  const Operand* memory = nullptr;
  const Operand* gpr = nullptr;
  bool xmm = false;
  bool x87_state = false;  // runs on the whole FPU and reports pending x87 exceptions
  u8 xmm_destination = no_reg;

  Operands(const Insn& insn, bool whole_fpu) : x87_state(whole_fpu) {
    for (unsigned i = 0; i < insn.operand_count; ++i) {
      const Operand& o = insn.operand[i];
      if (o.kind == OperandKind::mem) memory = &o;
      if (o.kind != OperandKind::reg) continue;
      switch (o.reg_class) {
        case RegClass::mmx: break;
        case RegClass::xmm:
          xmm = true;
          if (o.written && xmm_destination == no_reg) xmm_destination = o.reg;
          break;
        default: gpr = &o; break;
      }
    }
  }
};

// All exceptions masked. With underflow unmasked the guest's CPU reports every tiny result, also an exact one (SDM vol. 1, 4.9.1.5), which
// a masked computation reports only when it flushes to zero.
u32 masked(u32 mxcsr) {
  const u32 value = (mxcsr & ~mxcsr_flags) | mxcsr_masks;
  return (mxcsr & mxcsr_underflow_mask) != 0 ? value : value | mxcsr_flush_to_zero;
}

// Runs the instruction; false: an unmasked exception was raised, registers are unchanged and MXCSR holds the flags. PE after an unmasked
// overflow, and the flags of DPPS and DPPD, whose steps can stop halfway, are those of the masked computation.
bool run_simd(Vcpu& v, const Insn& insn, const Operands& ops) {
  FxImage& image = v.s.fpu;
  const u32 guest = image.mxcsr;
  if ((guest & mxcsr_masks) == mxcsr_masks && !ops.x87_state) {
    v.native->run(insn, image);
    return true;
  }
  const FxImage before = image;
  const auto attempt = [&](u32 mxcsr) {
    image.mxcsr = mxcsr;
    v.native->run(insn, image);
    return image.mxcsr & mxcsr_flags;
  };
  u32 raised = attempt(masked(guest));
  const u32 unmasked = raised & ~(guest >> 7);
  if (unmasked == 0) {
    image.mxcsr = guest | raised;
    image.fip = before.fip;
    image.fdp = before.fdp;
    image.fop = before.fop;
    return true;
  }
  if ((unmasked & before_computation) != 0) {
    raised &= before_computation;  // no result was computed, so nothing is said about it (SDM vol. 1, 11.5.2)
  } else if ((unmasked & underflow) != 0 && (guest & mxcsr_flush_to_zero) == 0) {
    image = before;
    raised = (raised & ~precision) | (attempt(guest | mxcsr_masks) & precision);
  }
  image = before;
  if (ops.x87_state) enter_mmx(image);  // comes before the conversion, and stays
  image.mxcsr = guest | raised;
  return false;
}

}  // namespace

Flow simd_execute(Vcpu& v, const Insn& insn) {
  const Operands ops(insn, v.native != nullptr && v.native->needs_whole_fpu(insn));
  const bool mmx_only = ops.x87_state && !ops.xmm;
  if (const Flow f = check_simd(v, insn.feature, !mmx_only, ops.x87_state); f != Flow::next) return f;

  NativeFrame& frame = v.native->frame();
  const u32 offset = ops.memory != nullptr ? v.effective_address(insn) : 0;
  const Seg segment = insn.mem.segment;
  const bool store = ops.memory != nullptr && ops.memory->written;
  if (ops.memory != nullptr) {
    const unsigned size = ops.memory->size;
    if (needs_alignment(insn, *ops.memory) && !check_aligned16(v, segment, offset)) return Flow::fault;
    if (store ? !v.probe_store(segment, offset, size) : !v.load_bytes(segment, offset, frame.memory.data(), size)) {
      // When a store faults, Intel's CPUs have set TOP to 0, but no tag.
      if (store && ops.x87_state) {
        const u8 tags = v.s.fpu.ftw;
        enter_mmx(v.s.fpu);
        v.s.fpu.ftw = tags;
      }
      return Flow::fault;
    }
  }

  frame.flags = v.s.eflags & flag::status;
  frame.eax = v.s.gpr[ops.gpr != nullptr ? ops.gpr->reg : u8{eax}];
  frame.edx = v.s.gpr[edx];
  std::optional<IgnoredError> ignored;
  if (ops.x87_state) ignored.emplace(v.s.fpu);
  if (!run_simd(v, insn, ops)) return v.raise((v.s.cr4 & cr4::osxmmexcpt) != 0 ? Vector::simd : Vector::invalid_opcode);

  if (store && !v.store_bytes(segment, offset, frame.memory.data(), ops.memory->size)) return Flow::fault;
  if (ops.gpr != nullptr && ops.gpr->written) v.s.gpr[ops.gpr->reg] = frame.eax;
  if (insn.row == Row::pcmpestri || insn.row == Row::pcmpistri) v.s.gpr[ecx] = frame.ecx;
  if (insn.info().flags_written != 0) v.s.eflags = (v.s.eflags & ~flag::status) | (static_cast<u32>(frame.flags) & flag::status);
  return Flow::next;
}

// MASKMOVQ and MASKMOVDQU: bytes whose mask byte has its top bit set go to DS:EDI (the segment can be overridden). Whether bytes that are
// not selected are checked is the CPU's choice (SDM vol. 2, MASKMOVQ); Intel's check eight at a time, the upper ones first,
// their alignment too.
Flow mask_move(Vcpu& v, const Insn& insn) {
  const bool wide = insn.row == Row::maskmovdqu;
  if (const Flow f = check_simd(v, insn.feature, wide, !wide); f != Flow::next) return f;
  FxImage& image = v.s.fpu;
  if (!wide) enter_mmx(image);  // and it stays, whatever follows
  const u8 data_reg = insn.operand[insn.operand_count - 2u].reg;
  const u8 mask_reg = insn.operand[insn.operand_count - 1u].reg;
  const auto data = wide ? image.xmm[data_reg] : image.st[data_reg];
  const auto mask = wide ? image.xmm[mask_reg] : image.st[mask_reg];
  const auto address = [&](unsigned i) { return insn.address_size == 2 ? (v.s.gpr[edi] + i) & 0xFFFFu : v.s.gpr[edi] + i; };
  constexpr unsigned half = 8;
  if (wide && !v.probe_store(insn.mem.segment, address(half), half)) return Flow::fault;
  if (!v.probe_store(insn.mem.segment, address(0), half)) return Flow::fault;
  for (unsigned i = 0; i < (wide ? 2 * half : half); ++i) {
    if ((mask[i] & 0x80u) != 0 && !v.store(insn.mem.segment, address(i), data[i])) return Flow::fault;
  }
  return Flow::next;
}

}  // namespace ring3::fpu
