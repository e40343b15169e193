#include "compare.h"

#include "tolerance.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

namespace ring3::hostcpu {

namespace {

constexpr std::array<const char*, 8> gpr_names{"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
constexpr std::array<const char*, segment_count> segment_names{"es", "cs", "ss", "ds", "fs", "gs"};

// VM, VIF and VIP cannot change at CPL 3.
constexpr u32 compared_flags = flag::status | flag::df | flag::tf | flag::if_ | flag::iopl | flag::nt | flag::rf | flag::ac | flag::id;

std::string fault_text(const Outcome& o) {
  switch (o.vector) {
    case no_vector: return "no fault";
    case system_call: return "a system call";
    case endless: return "no end";
    default: return fmt::format("vector {} error {:#x} address {:#x}", o.vector, o.error_code, o.address);
  }
}

void fpu_difference(const FxImage& e, const FxImage& g, const Tolerance& tolerance, std::string& out) {
  const auto word = [&](const char* name, u32 expected, u32 got) {
    if (expected != got) out += fmt::format("  {}: expected {:#x}, got {:#x}\n", name, expected, got);
  };
  word("mxcsr", e.mxcsr & ~tolerance.mxcsr, g.mxcsr & ~tolerance.mxcsr);
  const auto vector = [&](const char* name, unsigned i, std::span<const u8> expected, std::span<const u8> got) {
    if (std::memcmp(expected.data(), got.data(), expected.size()) != 0) {
      out += fmt::format("  {}{}: expected {:02x}, got {:02x}\n", name, i, fmt::join(expected, ""), fmt::join(got, ""));
    }
  };
  for (unsigned i = 0; i < 8 && !tolerance.xmm; ++i) vector("xmm", i, e.xmm[i], g.xmm[i]);
  if (tolerance.x87) return;
  word("fcw", e.fcw, g.fcw);
  word("fsw", e.fsw, g.fsw);
  word("ftw", e.ftw, g.ftw);
  for (unsigned i = 0; i < 8; ++i) vector("st", i, std::span(e.st[i]).first(10), std::span(g.st[i]).first(10));
}

}  // namespace

u32 operand_address(const Batch& batch, const Program& program, const std::array<u32, 8>& gpr) {
  const Insn& insn = program.insn;
  u32 a = insn.mem.displacement;
  if (insn.mem.base != no_reg) a += gpr[insn.mem.base];
  if (insn.mem.index != no_reg) a += gpr[insn.mem.index] * insn.mem.scale;
  return batch.segment(program, insn.mem.segment).base + (insn.address_size == 2 ? a & 0xFFFFu : a);
}

void mask_pointers(const Batch& batch, const Program& program, const std::array<u32, 8>& gpr_before, u8* data) {
  if (!program.defined) return;
  const auto clear_at = [&](u32 operand, u32 offset, u32 size) {
    for (u32 i = 0; i < size; ++i) {
      const u32 at = operand + offset + i - data_base;
      if (at < data_size) data[at] = 0;
    }
  };
  const bool wide = program.insn.operand_size == 4;
  if (program.insn.row == Row::push_sreg && wide && !host_is_intel()) {
    const SegmentCache ss = batch.segment(program, Seg::ss);
    const u32 pointer = gpr_before[esp] - 4;
    clear_at(ss.base + (ss.big() ? pointer : pointer & 0xFFFFu), 2, 2);
  }
  if (!program.insn.has_memory) return;
  const auto clear = [&](u32 offset, u32 size) { clear_at(operand_address(batch, program, gpr_before), offset, size); };
  switch (program.insn.row) {
    case Row::fnstenv:
    case Row::fnsave: wide ? clear(12, 16) : clear(6, 8); break;
    case Row::fxsave: clear(6, 18), clear(28, 4); break;
    default: break;
  }
}

std::string difference(const Batch& batch, const Program& program, const State& before, const Outcome& expected, const Outcome& got) {
  std::string out;
  const Tolerance tolerance = tolerance_of(batch, program, before, expected, got);
  if (tolerance.anything) return {};
  const bool same_place = expected.error_code == got.error_code && expected.address == got.address;
  const bool both_fault = expected.vector < no_vector && got.vector < no_vector;
  if ((expected.vector != got.vector || !(same_place || tolerance.fault_place)) && !(tolerance.other_fault && both_fault)) {
    out += fmt::format("  expected {}, got {}\n", fault_text(expected), fault_text(got));
  }
  const auto word = [&](const char* name, u32 e, u32 g) {
    if (e != g) out += fmt::format("  {}: expected {:#x}, got {:#x}\n", name, e, g);
  };
  for (unsigned i = 0; i < 8; ++i) {
    if ((tolerance.gpr & (1u << i)) == 0) word(gpr_names[i], expected.gpr[i], got.gpr[i]);
  }
  if (!tolerance.eip) word("eip", expected.eip, got.eip);
  // The host's kernel turns the four NULL selectors into 0 whenever it returns from an interrupt (SDM vol. 2, IRET).
  const auto selector = [](u16 s) { return (s & 0xFFFCu) == 0 ? u32{0} : s; };
  for (unsigned i = 0; i < segment_count; ++i) word(segment_names[i], selector(expected.selector[i]), selector(got.selector[i]));
  const u32 flags = compared_flags & ~tolerance.eflags;
  word("eflags", expected.eflags & flags, got.eflags & flags);
  if (program.fpu) fpu_difference(expected.fpu, got.fpu, tolerance, out);
  return out;
}

std::string difference(std::span<const u8> expected, std::span<const u8> got) {
  std::string out;
  if (std::memcmp(expected.data(), got.data(), expected.size()) == 0) return out;
  unsigned shown = 0;
  for (u32 i = 0; i < expected.size() && shown < 8; ++i) {
    if (expected[i] == got[i]) continue;
    out += fmt::format("  [{:#x}]: expected {:02x}, got {:02x}\n", data_base + i, expected[i], got[i]);
    ++shown;
  }
  return out;
}

std::string describe(const Batch& batch, const Program& program, const State& s, std::span<const u8> data) {
  std::string out = fmt::format("  bytes {:02x} at {:#x}, from byte {}, {}-bit", fmt::join(program.bytes(), " "), program.start,
                                program.head, program.code32 ? 32 : 16);
  if (program.defined && program.insn.has_memory) {
    const u32 a = operand_address(batch, program, s.gpr);
    out += fmt::format(", operand at {:#x}", a);
    if (a >= data_base && a < data_end) {
      out += fmt::format(": {:02x}", fmt::join(data.subspan(a - data_base, std::min<u32>(16, data_end - a)), " "));
    }
  }
  out += "\n ";
  for (unsigned i = 0; i < 8; ++i) out += fmt::format(" {}={:08x}", gpr_names[i], s.gpr[i]);
  out += fmt::format(" eflags={:08x}\n", s.eflags);
  for (unsigned i = 0; i < segment_count; ++i) {
    const SegmentCache c = cache_of(batch.ldt, program.selector[i]);
    if (program.selector[i] == code_selector || program.selector[i] == data_selector) continue;
    out += fmt::format("  {}={:04x} attributes {:04x} base {:08x} limit {:08x}\n", segment_names[i], c.selector, c.attributes, c.base,
                       c.limit);
  }
  if (!program.fpu) return out;
  out += fmt::format("  fcw={:04x} fsw={:04x} ftw={:02x} mxcsr={:04x}\n", s.fpu.fcw, s.fpu.fsw, s.fpu.ftw, s.fpu.mxcsr);
  for (unsigned i = 0; i < 8; ++i) {
    out += fmt::format("  st{}={:02x} xmm{}={:02x}\n", i, fmt::join(std::span(s.fpu.st[i]).first(10), ""), i, fmt::join(s.fpu.xmm[i], ""));
  }
  return out;
}

}  // namespace ring3::hostcpu
