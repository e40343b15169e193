// FNSTENV, FLDENV, FNSAVE, FRSTOR: the x87 environment in memory, protected-mode formats of 14 and 28 bytes (Intel SDM vol. 1, 8.1.10,
// figures 8-9 and 8-11). The host writes and reads the images (tags, TOP, what happens to masks); only the pointers, which would be
// the host's own, are the guest's.
#include "runtime/interp/fpu_rows.h"

#include <cstring>

namespace ring3::fpu {

namespace {

struct Format {
  unsigned environment;  // bytes before the registers
  unsigned fip;
  unsigned fdp;
  bool wide;
};
constexpr Format format32{28, 12, 20, true};
constexpr Format format16{14, 6, 10, false};
constexpr unsigned register_bytes = 80;

const Format& format_of(const Insn& insn) { return insn.operand_size == 4 ? format32 : format16; }

template <typename T>
void put(NativeFrame& frame, unsigned at, T value) {
  std::memcpy(frame.memory.data() + at, &value, sizeof value);
}

template <typename T>
T get(const NativeFrame& frame, unsigned at) {
  T value{};
  std::memcpy(&value, frame.memory.data() + at, sizeof value);
  return value;
}

// FCS and FDS are stored as 0 (the CPU model announces ZERO_FCS_FDS); the 16-bit format has no room for the opcode.
void put_pointers(NativeFrame& frame, const Format& f, const FxImage& image) {
  if (f.wide) {
    put(frame, f.fip, static_cast<u32>(image.fip));
    put(frame, f.fip + 4, u32{image.fop} << 16);
    put(frame, f.fdp, static_cast<u32>(image.fdp));
    put(frame, f.fdp + 4, 0xFFFF0000u);
  } else {
    put(frame, f.fip, static_cast<u16>(image.fip));
    put(frame, f.fip + 2, u16{0});
    put(frame, f.fdp, static_cast<u16>(image.fdp));
    put(frame, f.fdp + 2, u16{0});
  }
}

void get_pointers(const NativeFrame& frame, const Format& f, FxImage& image) {
  image.fip = f.wide ? get<u32>(frame, f.fip) : get<u16>(frame, f.fip);
  image.fdp = f.wide ? get<u32>(frame, f.fdp) : get<u16>(frame, f.fdp);
  image.fop = f.wide ? static_cast<u16>(get<u16>(frame, f.fip + 6) & 0x7FFu) : u16{0};
}

// Environments align to their words (SDM vol. 3, table 6-7). Intel's CPUs touch the first word, then the last byte, then the rest.
bool check_image(ImageOperand& image, const Insn& insn, Access access) {
  return image.check_alignment(insn.operand_size, access) && image.probe_first(insn.operand_size, access) && image.probe_last(access);
}

Flow check(Vcpu& v, const Insn& insn, bool waiting) {
  if (const Flow f = check_x87(v, insn, waiting); f != Flow::next) return f;
  if (v.s.protected_mode() && !v.s.v8086()) return Flow::next;
  v.missing = "x87 environment in its real-address format";
  return Flow::missing;
}

}  // namespace

// FNSTENV and FNSAVE.
Flow fnstenv(Vcpu& v, const Insn& insn) {
  if (const Flow f = check(v, insn, false); f != Flow::next) return f;
  const Format& format = format_of(insn);
  const bool with_registers = insn.row == Row::fnsave;
  const unsigned size = format.environment + (with_registers ? register_bytes : 0);
  ImageOperand operand(v, insn, size, format.environment, insn.operand_size);
  if (!check_image(operand, insn, Access::write) || !operand.probe_store(size)) return Flow::fault;

  FxImage& image = v.s.fpu;
  const FxImage before = image;
  NativeFrame& frame = v.native->frame();
  v.native->run(insn, image);
  put_pointers(frame, format, before);
  if (!operand.store(frame.memory.data(), size)) {
    image = before;
    return Flow::fault;
  }
  image.fip = with_registers ? 0 : before.fip;  // FNSAVE initializes the FPU
  image.fdp = with_registers ? 0 : before.fdp;
  image.fop = with_registers ? u16{0} : before.fop;
  release_ferr(v);  // both mask everything
  return Flow::next;
}

// FLDENV and FRSTOR.
Flow fldenv(Vcpu& v, const Insn& insn) {
  if (const Flow f = check(v, insn, true); f != Flow::next) return f;
  const Format& format = format_of(insn);
  const unsigned size = format.environment + (insn.row == Row::frstor ? register_bytes : 0);
  NativeFrame& frame = v.native->frame();
  ImageOperand operand(v, insn, size, format.environment, insn.operand_size);
  if (!check_image(operand, insn, Access::read) || !operand.load(frame.memory.data())) return Flow::fault;
  // With IGNNE# something may be pending: it is replaced here, and the host must not report it.
  v.s.fpu.fsw = static_cast<u16>(v.s.fpu.fsw & ~(fsw_busy | fsw_es | exception_mask));
  v.native->run(insn, v.s.fpu);
  get_pointers(frame, format, v.s.fpu);
  release_ferr(v);
  return Flow::next;
}

}  // namespace ring3::fpu
