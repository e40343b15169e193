// x87 instructions (Intel SDM vol. 1, chapter 8). Arithmetic runs on the host with the guest's own control word: an unmasked exception
// only becomes pending there, exactly as it does for the guest, and is reported by the next waiting instruction.
#include "runtime/interp/fpu_rows.h"

namespace ring3::fpu {

namespace {

constexpr u16 invalid_operation = 0x01;
constexpr u16 denormal_operand = 0x02;
constexpr u16 zero_divide = 0x04;
constexpr u16 overflow = 0x08;
constexpr u16 underflow = 0x10;

// A store that raised one of these unmasked leaves memory as it was; an unmasked precision exception does not (SDM vol. 1, 8.5).
constexpr u16 suppresses_store = invalid_operation | denormal_operand | zero_divide | overflow | underflow;

const Operand* memory_operand(const Insn& insn) {
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind == OperandKind::mem) return &insn.operand[i];
  }
  return nullptr;
}

struct Pointers {
  explicit Pointers(const FxImage& f) : fip(f.fip), fdp(f.fdp), fop(f.fop) {}
  void put_back(FxImage& f) const {
    f.fip = fip;
    f.fdp = fdp;
    f.fop = fop;
  }
  u64 fip;
  u64 fdp;
  u16 fop;
};

u32 wrapped(const Insn& insn, u32 offset) { return insn.address_size == 2 ? offset & 0xFFFFu : offset; }

// Ten bytes are two stores, of the significand and of sign and exponent: the second one may fault alone.
bool store_result(Vcpu& v, const Insn& insn, u32 offset, unsigned size) {
  const Seg segment = insn.mem.segment;
  constexpr unsigned extended = 10;
  constexpr unsigned significand = 8;
  const u8* const bytes = v.native->frame().memory.data();
  if (size != extended) return v.store_bytes(segment, offset, bytes, size);
  return v.store_bytes(segment, offset, bytes, significand) &&
         v.store_bytes(segment, wrapped(insn, offset + significand), bytes + significand, extended - significand);
}

// FLD and FBLD of ten bytes are two loads in the same way.
bool load_operand(Vcpu& v, const Insn& insn, u32 offset, unsigned size) {
  const Seg segment = insn.mem.segment;
  constexpr unsigned extended = 10;
  constexpr unsigned significand = 8;
  u8* const bytes = v.native->frame().memory.data();
  if (size != extended) return v.load_bytes(segment, offset, bytes, size);
  return v.load_bytes(segment, offset, bytes, significand) &&
         v.load_bytes(segment, wrapped(insn, offset + significand), bytes + significand, extended - significand);
}

// A control instruction: runs natively, and leaves the pointers of the last non-control instruction alone.
void run_control(Vcpu& v, const Insn& insn) {
  const Pointers pointers(v.s.fpu);
  v.native->run(insn, v.s.fpu);
  pointers.put_back(v.s.fpu);
}

}  // namespace

Flow x87_execute(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, true); f != Flow::next) return f;
  FxImage& image = v.s.fpu;
  NativeFrame& frame = v.native->frame();
  const Operand* memory = memory_operand(insn);
  const u32 offset = memory != nullptr ? v.effective_address(insn) : 0;
  const bool store = memory != nullptr && memory->written;
  if (memory != nullptr) {
    if (memory->read && !load_operand(v, insn, offset, memory->size)) return Flow::fault;
  }

  const FxImage before = image;
  Pointers pointers(image);
  frame.flags = v.s.eflags & flag::status;
  const IgnoredError ignored(image);
  v.native->run(insn, image);
  // The store comes after the computation, and not at all if an exception suppresses it: then it does not fault either.
  const bool suppressed = (image.fsw & ~u32{image.fcw} & suppresses_store) != 0;
  if (store && !suppressed && !store_result(v, insn, offset, memory->size)) {
    image = before;
    return Flow::fault;
  }
  if (insn.info().flags_written != 0) v.s.eflags = (v.s.eflags & ~flag::status) | (static_cast<u32>(frame.flags) & flag::status);

  pointers.fip = v.s.eip;
  if (error_pending(image)) {
    pointers.fop = static_cast<u16>(((insn.bytes[insn.opcode_offset] & 7u) << 8) | insn.bytes[insn.modrm_offset]);
    if (memory != nullptr) pointers.fdp = offset;
  }
  pointers.put_back(image);
  return Flow::next;
}

Flow fldcw(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, true); f != Flow::next) return f;
  if (!v.load_bytes(insn.mem.segment, v.effective_address(insn), v.native->frame().memory.data(), 2)) return Flow::fault;
  {
    const IgnoredError ignored(v.s.fpu);
    run_control(v, insn);
  }
  release_ferr(v);
  return Flow::next;
}

Flow fnclex(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, false); f != Flow::next) return f;
  run_control(v, insn);
  release_ferr(v);
  return Flow::next;
}

Flow fninit(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, false); f != Flow::next) return f;
  v.native->run(insn, v.s.fpu);
  v.s.fpu.fip = 0;
  v.s.fpu.fdp = 0;
  v.s.fpu.fop = 0;
  v.bus.note_access();
  v.bus.set_ferr(false);
  return Flow::next;
}

Flow fnstcw(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, false); f != Flow::next) return f;
  return v.store(insn.mem.segment, v.effective_address(insn), v.s.fpu.fcw) ? Flow::next : Flow::fault;
}

Flow fnstsw(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_x87(v, insn, false); f != Flow::next) return f;
  if (!insn.has_memory) {
    v.set_reg16(eax, v.s.fpu.fsw);
    return Flow::next;
  }
  return v.store(insn.mem.segment, v.effective_address(insn), v.s.fpu.fsw) ? Flow::next : Flow::fault;
}

// EM does not matter here, and TS only together with MP (SDM vol. 3, 2.5, table 2-2).
Flow fwait(Vcpu& v, const Insn& insn) {
  if (const Flow f = check_common(v, insn.feature); f != Flow::next) return f;
  constexpr u32 both = cr0::mp | cr0::ts;
  if ((v.s.cr0 & both) == both) return v.raise(Vector::device_not_available);
  return error_pending(v.s.fpu) ? report_error(v) : Flow::next;
}

// FENI, FDISI and FSETPM meant something to the 8087 and 80287 and nothing since (SDM vol. 3, 23.18.9).
Flow x87_no_operation(Vcpu& v, const Insn& insn) { return check_x87(v, insn, false); }

}  // namespace ring3::fpu
