#include "runtime/interp/native_stubs.h"

#include "base/error.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <initializer_list>

namespace ring3 {

namespace {

// The guest's instruction as the stub executes it: at most 66/F2/F3, 0F 3A xx, ModRM and an immediate byte.
struct HostEncoding {
  std::array<u8, 7> bytes{};
  u8 length = 0;

  void add(u8 byte) { bytes[length++] = byte; }
  [[nodiscard]] u64 key() const {
    u64 key = u64{length} << 56;
    for (unsigned i = 0; i < length; ++i) key |= u64{bytes[i]} << (8 * i);
    return key;
  }
};

bool is_environment_row(Row row) { return row == Row::fnstenv || row == Row::fldenv || row == Row::fnsave || row == Row::frstor; }

bool is_gpr(const Operand& o) {
  return o.kind == OperandKind::reg && (o.reg_class == RegClass::gpr32 || o.reg_class == RegClass::gpr16 || o.reg_class == RegClass::gpr8);
}

HostEncoding encode(const Insn& insn) {
  HostEncoding out;
  if (insn.mandatory_prefix != 0) {
    out.add(insn.mandatory_prefix);
  } else if (is_environment_row(insn.row) && insn.operand_size == 2) {
    out.add(0x66);
  }
  const unsigned opcode_end = insn.modrm_offset != 0 ? insn.modrm_offset : insn.length;
  for (unsigned i = insn.opcode_offset; i < opcode_end; ++i) out.add(insn.bytes[i]);
  if (insn.modrm_offset == 0) return out;
  u8 modrm = insn.bytes[insn.modrm_offset];
  if (insn.has_memory) modrm = static_cast<u8>((modrm & 0x38u) | 7u);  // [rdi]: NativeFrame::memory
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& o = insn.operand[i];
    if (!is_gpr(o)) continue;
    if (o.slot == Slot::modrm_reg) modrm = static_cast<u8>(modrm & ~0x38u);
    if (o.slot == Slot::modrm_rm) modrm = static_cast<u8>(modrm & ~0x07u);
  }
  out.add(modrm);
  for (unsigned i = 0; i < insn.imm_size; ++i) out.add(insn.bytes[insn.imm_offset + i]);
  return out;
}

unsigned xmm_mask(const Insn& insn) {
  unsigned mask = 0;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind == OperandKind::reg && insn.operand[i].reg_class == RegClass::xmm) mask |= 1u << insn.operand[i].reg;
  }
  switch (insn.row) {
    case Row::blendvpd:
    case Row::blendvps:
    case Row::pblendvb:
    case Row::pcmpestrm:
    case Row::pcmpistrm: mask |= 1; break;  // implicit XMM0
    default: break;
  }
  return mask;
}

// A stub's code: rdi = NativeFrame*, rsi = FxImage*.
class Writer {
 public:
  static constexpr u32 capacity = 256;

  void add(std::initializer_list<u8> bytes) {
    for (const u8 b : bytes) code_[size_++] = b;
  }
  void add(const HostEncoding& e) {
    for (unsigned i = 0; i < e.length; ++i) code_[size_++] = e.bytes[i];
  }
  void add(std::initializer_list<u8> bytes, std::size_t displacement) {
    add(bytes);
    for (unsigned i = 0; i < 4; ++i) code_[size_++] = static_cast<u8>(displacement >> (8 * i));
  }
  void save_host_mxcsr() { add({0x0F, 0xAE, 0x9F}, offsetof(NativeFrame, host_mxcsr)); }
  void restore_host_mxcsr() { add({0x0F, 0xAE, 0x97}, offsetof(NativeFrame, host_mxcsr)); }
  void load_registers() {
    add({0x8B, 0x87}, offsetof(NativeFrame, eax));
    add({0x8B, 0x97}, offsetof(NativeFrame, edx));
  }
  void store_registers() {
    add({0x89, 0x87}, offsetof(NativeFrame, eax));
    add({0x89, 0x8F}, offsetof(NativeFrame, ecx));
  }
  void load_flags() { add({0xFF, 0xB7}, offsetof(NativeFrame, flags)), add({0x9D}); }
  void store_flags() { add({0x9C, 0x8F, 0x87}, offsetof(NativeFrame, flags)); }
  void move_xmm(u8 opcode, unsigned mask) {
    for (unsigned n = 0; n < 8; ++n) {
      if ((mask & (1u << n)) != 0) add({0x0F, opcode, static_cast<u8>(0x86 | (n << 3))}, offsetof(FxImage, xmm) + u64{16} * n);
    }
  }
  [[nodiscard]] const u8* data() const { return code_.data(); }
  [[nodiscard]] u32 size() const { return size_; }

 private:
  std::array<u8, capacity> code_{};
  u32 size_ = 0;
};

void write_instruction(Writer& w, const Insn& insn) {
  const bool flags = (insn.info().flags_read | insn.info().flags_written) != 0;
  w.load_registers();
  if (flags) w.load_flags();
  w.add(encode(insn));
  if (flags) w.store_flags();
  w.store_registers();
}

void write_stub(Writer& w, const Insn* insn, bool whole_fpu) {
  w.save_host_mxcsr();
  if (!whole_fpu) {
    w.add({0x0F, 0xAE, 0x96}, offsetof(FxImage, mxcsr));  // ldmxcsr [rsi + mxcsr]
    w.move_xmm(0x28, xmm_mask(*insn));
    write_instruction(w, *insn);
    w.move_xmm(0x29, xmm_mask(*insn));
    w.add({0x0F, 0xAE, 0x9E}, offsetof(FxImage, mxcsr));  // stmxcsr [rsi + mxcsr]
  } else {
    w.add({0x48, 0x0F, 0xAE, 0x0E});  // fxrstor64 [rsi]
    if (insn != nullptr) write_instruction(w, *insn);
    w.add({0x48, 0x0F, 0xAE, 0x06});  // fxsave64 [rsi]
    w.add({0xDB, 0xE3});              // fninit: C++ expects an empty stack and the default control word
  }
  w.restore_host_mxcsr();
  w.add({0xC3});
}

}  // namespace

// XMM registers alone (their images are loaded and stored one by one) or the whole FPU. CVTPI2PD from memory leaves the x87 alone (SDM vol.
// 2, CVTPI2PD); of CVTPI2PS the manual says no such thing, and AMD's CPUs do.
bool NativeStubs::needs_whole_fpu(const Insn& insn) const {
  if (insn.info().family != Family::sse) return true;
  if (insn.row == Row::cvtpi2ps && cvtpi2ps_enters_mmx_) return true;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind == OperandKind::reg && insn.operand[i].reg_class == RegClass::mmx) return true;
  }
  return false;
}

// cvtpi2ps xmm0, [mem] with TOP = 3: does TOP become 0?
void NativeStubs::probe_cvtpi2ps() {
  Insn insn;
  insn.row = Row::cvtpi2ps;
  insn.length = 3;
  insn.bytes = {0x0F, 0x2A, 0x00};
  insn.modrm_offset = 2;
  insn.has_memory = true;
  FxImage image;
  image.fsw = 3u << 11;
  cvtpi2ps_enters_mmx_ = true;
  run(insn, image);
  cvtpi2ps_enters_mmx_ = image.fsw != 3u << 11;
  stubs_.clear();
}

NativeStubs::NativeStubs() {
  // Two mappings of one memfd: no page is ever writable and executable at the same address.
  const int fd = memfd_create("ring3-native-stubs", MFD_CLOEXEC);
  void* writable = MAP_FAILED;
  void* executable = MAP_FAILED;
  if (fd >= 0 && ftruncate(fd, arena_size) == 0) {
    writable = mmap(nullptr, arena_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    executable = mmap(nullptr, arena_size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
  }
  if (fd >= 0) close(fd);
  if (writable == MAP_FAILED || executable == MAP_FAILED) {
    if (writable != MAP_FAILED) munmap(writable, arena_size);
    if (executable != MAP_FAILED) munmap(executable, arena_size);
    throw UserError("cannot map executable memory for floating point: the host must allow memfd_create and PROT_EXEC mappings of it");
  }
  writable_ = static_cast<u8*>(writable);
  executable_ = static_cast<u8*>(executable);
  probe_cvtpi2ps();
}

NativeStubs::~NativeStubs() {
  munmap(writable_, arena_size);
  munmap(executable_, arena_size);
}

NativeStubs::Stub NativeStubs::find(u64 key, const Insn* insn) {
  if (const auto it = stubs_.find(key); it != stubs_.end()) return it->second;
  Writer w;
  write_stub(w, insn, insn == nullptr || needs_whole_fpu(*insn));
  if (w.size() > arena_size - used_) {
    stubs_.clear();
    used_ = 0;
    ++generations_;
  }
  std::memcpy(writable_ + used_, w.data(), w.size());
  Stub stub = nullptr;
  const u8* entry = executable_ + used_;
  std::memcpy(&stub, &entry, sizeof stub);
  used_ += (w.size() + 15u) & ~15u;
  stubs_.emplace(key, stub);
  return stub;
}

void NativeStubs::run(const Insn& insn, FxImage& image) { find(encode(insn).key(), &insn)(&frame_, &image); }

void NativeStubs::normalize(FxImage& image) { find(0, nullptr)(&frame_, &image); }

}  // namespace ring3
