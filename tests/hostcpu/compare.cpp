#include "compare.h"

#include "tolerance.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

namespace ring3::hostcpu {

namespace {

constexpr std::array<const char*, 8> gpr_names{"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};

// RF is set in the frames of faults and nowhere else; VM, VIF and VIP cannot change at CPL 3.
constexpr u32 compared_flags = flag::status | flag::df | flag::tf | flag::if_ | flag::iopl | flag::nt | flag::ac | flag::id;

u32 operand_address(const Case& test) {
  const Insn& insn = test.insn;
  u32 a = insn.mem.displacement;
  if (insn.mem.base != no_reg) a += test.before.gpr[insn.mem.base];
  if (insn.mem.index != no_reg) a += test.before.gpr[insn.mem.index] * insn.mem.scale;
  return insn.address_size == 2 ? a & 0xFFFFu : a;
}

void fpu_difference(const FxImage& e, const FxImage& g, const Tolerance& tolerance, std::string& out) {
  const auto word = [&](const char* name, u32 expected, u32 got) {
    if (expected != got) out += fmt::format("  {}: expected {:#x}, got {:#x}\n", name, expected, got);
  };
  word("mxcsr", e.mxcsr & ~tolerance.mxcsr, g.mxcsr & ~tolerance.mxcsr);
  const auto vector = [&](const char* name, unsigned i, std::span<const u8> expected, std::span<const u8> got) {
    if (!std::equal(expected.begin(), expected.end(), got.begin())) {
      out += fmt::format("  {}{}: expected {:02x}, got {:02x}\n", name, i, fmt::join(expected, ""), fmt::join(got, ""));
    }
  };
  for (unsigned i = 0; i < 8; ++i) vector("xmm", i, e.xmm[i], g.xmm[i]);
  if (tolerance.x87) return;
  word("fcw", e.fcw, g.fcw);
  word("fsw", e.fsw, g.fsw);
  word("ftw", e.ftw, g.ftw);
  for (unsigned i = 0; i < 8; ++i) vector("st", i, std::span(e.st[i]).first(10), std::span(g.st[i]).first(10));
}

}  // namespace

void mask_pointers(const Case& test, std::span<u8> data) {
  const auto clear = [&](u32 offset, u32 size) {
    for (u32 i = 0; i < size; ++i) {
      const u32 at = operand_address(test) + offset + i - data_base;
      if (at < data.size()) data[at] = 0;
    }
  };
  const bool wide = test.insn.operand_size == 4;
  switch (test.insn.row) {
    case Row::fnstenv:
    case Row::fnsave: wide ? clear(12, 16) : clear(6, 8); break;
    case Row::fxsave: clear(6, 18), clear(28, 4); break;
    default: break;
  }
}

std::string difference(const Case& test, const Outcome& expected, const Outcome& got, std::span<const u8> expected_data,
                       std::span<const u8> got_data) {
  if (expected.failure[0] != 0) return fmt::format("  host: {}\n", expected.failure.data());
  if (got.failure[0] != 0) return fmt::format("  not executed: {}\n", got.failure.data());
  std::string out;
  const Tolerance tolerance = tolerance_of(test, expected);
  if (tolerance.anything) return {};
  const bool same_place = expected.error_code == got.error_code && expected.address == got.address;
  if (expected.faulted != got.faulted || expected.vector != got.vector || !(same_place || tolerance.fault_place)) {
    const auto tell = [](const Outcome& o) {
      return o.faulted ? fmt::format("vector {} error {:#x} address {:#x}", o.vector, o.error_code, o.address) : std::string("no fault");
    };
    out += fmt::format("  expected {}, got {}\n", tell(expected), tell(got));
  }
  const auto word = [&](const char* name, u32 e, u32 g) {
    if (e != g) out += fmt::format("  {}: expected {:#x}, got {:#x}\n", name, e, g);
  };
  for (unsigned i = 0; i < 8; ++i) {
    if ((tolerance.gpr & (1u << i)) == 0) word(gpr_names[i], expected.after.gpr[i], got.after.gpr[i]);
  }
  word("eip", expected.after.eip, got.after.eip);
  const u32 flags = compared_flags & ~tolerance.eflags;
  word("eflags", expected.after.eflags & flags, got.after.eflags & flags);
  if (test.fpu) fpu_difference(expected.after.fpu, got.after.fpu, tolerance, out);
  if (std::memcmp(expected_data.data(), got_data.data(), data_size) != 0) {
    unsigned shown = 0;
    for (u32 i = 0; i < data_size && shown < 8; ++i) {
      if (expected_data[i] == got_data[i]) continue;
      out += fmt::format("  [{:#x}]: expected {:02x}, got {:02x}\n", data_base + i, expected_data[i], got_data[i]);
      ++shown;
    }
  }
  return out;
}

std::string describe(const Case& test, std::span<const u8> data) {
  const UserState& s = test.before;
  std::string out = fmt::format("  bytes {:02x}", fmt::join(std::span(test.insn.bytes.data(), test.insn.length), " "));
  if (test.head_length != 0) out += fmt::format(" after {:02x}", fmt::join(std::span(test.head.data(), test.head_length), " "));
  if (test.tail_length != 0) out += fmt::format(" before {:02x}", fmt::join(std::span(test.tail.data(), test.tail_length), " "));
  if (test.insn.has_memory) {
    const u32 a = operand_address(test);
    out += fmt::format(", operand at {:#x}", a);
    if (a >= data_base && a < data_end) {
      out += fmt::format(": {:02x}", fmt::join(data.subspan(a - data_base, std::min<u32>(16, data_end - a)), " "));
    }
  }
  out += "\n ";
  for (unsigned i = 0; i < 8; ++i) out += fmt::format(" {}={:08x}", gpr_names[i], s.gpr[i]);
  out += fmt::format(" eflags={:08x}\n", s.eflags);
  if (!test.fpu) return out;
  out += fmt::format("  fcw={:04x} fsw={:04x} ftw={:02x} mxcsr={:04x}\n", s.fpu.fcw, s.fpu.fsw, s.fpu.ftw, s.fpu.mxcsr);
  for (unsigned i = 0; i < 8; ++i) {
    out += fmt::format("  st{}={:02x} xmm{}={:02x}\n", i, fmt::join(std::span(s.fpu.st[i]).first(10), ""), i, fmt::join(s.fpu.xmm[i], ""));
  }
  return out;
}

}  // namespace ring3::hostcpu
