#include "generator.h"

#include <algorithm>
#include <cstring>

namespace ring3::hostcpu {

namespace {

constexpr u32 around = 48;  // bytes refreshed on each side of an operand

const Operand* memory_of(const Insn& insn) {
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind == OperandKind::mem) return &insn.operand[i];
  }
  return nullptr;
}

u32 operand_size(const Insn& insn) {
  if (insn.row == Row::fxsave || insn.row == Row::fxrstor) return 512;
  const Operand* memory = memory_of(insn);
  return memory != nullptr && memory->size != 0 ? memory->size : 4;
}

u32 effective_address(const Insn& insn, const std::array<u32, 8>& gpr) {
  u32 a = insn.mem.displacement;
  if (insn.mem.base != no_reg) a += gpr[insn.mem.base];
  if (insn.mem.index != no_reg) a += gpr[insn.mem.index] * insn.mem.scale;
  return insn.address_size == 2 ? a & 0xFFFFu : a;
}

// Where nothing but the pages of layout.h is mapped on either side.
bool is_safe(u32 a) { return (a >= code_base && a < state_base - page) || a < 0x10000 - page || a >= 0xFFFFF000; }

bool is_stack_row(const Insn& insn) { return insn.info().family == Family::stack || insn.row == Row::call || insn.row == Row::ret; }

// Whether `before` writes a register that `insn` may make an address of. Where addresses are implicit, every register counts.
bool changes_addresses(const Insn& before, const Insn& insn) {
  switch (before.row) {
    case Row::cwd:
    case Row::cdq:
    case Row::cbw:
    case Row::cwde:
    case Row::lahf:
    case Row::salc:
    case Row::cmpxchg: return true;  // implicit registers
    default: break;
  }
  const Family family = insn.info().family;
  const bool plain = family == Family::alu || family == Family::shift || family == Family::muldiv || family == Family::mov ||
                     family == Family::x87 || family == Family::mmx || family == Family::sse;
  for (unsigned i = 0; i < before.operand_count; ++i) {
    const Operand& o = before.operand[i];
    if (o.kind != OperandKind::reg || !o.written) continue;
    const u8 reg = o.reg_class == RegClass::gpr8 ? o.reg & 3 : o.reg;
    if (!plain || insn.row == Row::xlat || insn.row == Row::maskmovq || insn.row == Row::maskmovdqu) return true;
    if (reg == insn.mem.base || reg == insn.mem.index) return true;
  }
  return false;
}

}  // namespace

Generator::Generator(const Decoder& decoder, const Forms& forms, const std::vector<Row>& usable) : decoder_(decoder), forms_(forms) {
  for (const Row row : usable) {
    switch (row_info(row).family) {
      case Family::alu:
      case Family::shift:
      case Family::bit:
      case Family::mov:
      case Family::flag: break;
      default: continue;
    }
    if (row != Row::cli && row != Row::sti && row != Row::xlat && !forms.of(row).empty()) tail_rows_.push_back(row);
  }
}

u32 Generator::address(u32 size) {
  const u32 back = values_.below(size) + (size > 1 ? 0 : 1);  // how much of the operand lies before a border
  switch (values_.below(32)) {
    case 0: return data_base - back;
    case 1: return data_end - back;
    case 2: return read_only_base - back;
    case 3: return data_base + page - back;
    case 4: return read_only_base + values_.below(page - 16);
    case 5: return data_end + 0x1000 + values_.below(0x100000);
    case 6: return values_.one_in(2) ? values_.below(0x8000) : 0xFFFFF000 + values_.below(0xF00);
    default: break;
  }
  const u32 a = data_base + values_.below(writable_size - size);
  return values_.one_in(2) ? a : a & ~15u;
}

std::span<u8> Generator::window(std::span<u8> data, u32 address, u32 size) {
  const i64 first = std::clamp<i64>(i64{address} - data_base - around, 0, data_size);
  const i64 last = std::clamp<i64>(i64{address} - data_base + size + around, first, data_size);
  return data.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
}

// Prefixes, opcode, ModRM, SIB, displacement and immediate; false: not this row after all (an addressing form or LOCK it does not take).
bool Generator::assemble(Row row, Case& out) {
  const std::vector<Form>& forms = forms_.of(row);
  const Form& form = forms[values_.below(static_cast<u32>(forms.size()))];
  u8 modrm = 0;
  if (!form.modrm.empty()) {
    modrm = form.modrm[values_.below(static_cast<u32>(form.modrm.size()))];
    const bool has_register_forms = form.modrm.back() >= 0xC0;
    while (modrm < 0xC0 && has_register_forms && values_.one_in(3)) modrm = form.modrm[values_.below(static_cast<u32>(form.modrm.size()))];
  }
  const bool memory = !form.modrm.empty() && modrm < 0xC0;

  std::array<u8, 24> bytes{};
  u32 n = 0;
  bool address16 = false;
  if (values_.one_in(24)) {
    constexpr std::array<u8, 4> flat{0x26, 0x2E, 0x36, 0x3E};
    const u8 segment = flat[values_.below(4)];
    if (segment != 0x2E || memory) bytes[n++] = segment;
  }
  if (values_.one_in(24)) {
    bytes[n++] = 0x67;
    address16 = true;
  }
  if (memory && values_.one_in(8)) bytes[n++] = 0xF0;
  for (unsigned i = 0; i < form.length; ++i) bytes[n++] = form.bytes[i];
  displacement_size_ = 0;
  if (!form.modrm.empty()) {
    bytes[n++] = modrm;
    const u8 mod = modrm >> 6;
    const u8 rm = modrm & 7;
    if (memory && address16) {
      displacement_size_ = mod == 1 ? 1 : (mod == 2 || rm == 6) ? 2 : 0;
    } else if (memory) {
      u8 base = rm;
      if (rm == 4) {
        bytes[n] = static_cast<u8>(values_.bits());
        base = bytes[n++] & 7;
      }
      displacement_size_ = mod == 1 ? 1 : (mod == 2 || base == 5) ? 4 : 0;
    }
  }
  displacement_offset_ = n;
  for (unsigned i = 0; i < 12 && n < bytes.size(); i += 4) {
    const u32 v = values_.one_in(2) ? values_.integer() : static_cast<u32>(values_.bits());
    for (unsigned k = 0; k < 4 && n < bytes.size(); ++k) bytes[n++] = static_cast<u8>(v >> (8 * k));
  }
  if (decoder_.decode(std::span(bytes.data(), 15), true, out.insn) != DecodeStatus::ok || out.insn.row != row) return false;
  if (out.insn.has_memory && out.insn.modrm_offset == 0) {  // absolute address without ModRM
    displacement_size_ = out.insn.address_size;
    displacement_offset_ = out.insn.opcode_offset + 1u;
  }
  return true;
}

void Generator::registers(Case& out) {
  UserState& s = out.before;
  for (u32& r : s.gpr) r = values_.integer();
  s.eip = code_start;
  s.eflags = flag::fixed1 | flag::if_ | (static_cast<u32>(values_.bits()) & flag::status);
  const Family family = out.insn.info().family;
  if (values_.one_in(family == Family::string ? 2 : 16)) s.eflags |= flag::df;
  s.gpr[esp] = address(is_stack_row(out.insn) ? 32 : 4);
  if (!values_.one_in(4)) s.gpr[esp] &= ~3u;
  if (family == Family::muldiv && values_.one_in(2)) s.gpr[edx] = values_.one_in(2) ? 0 : (s.gpr[eax] >> 31 != 0 ? ~0u : 0);
  out.fpu = family == Family::x87 || family == Family::mmx || family == Family::sse;
  out.jumps = family == Family::control && out.insn.row != Row::bound;
  if (out.fpu) fpu_state(s.fpu);
}

void Generator::fpu_state(FxImage& image) {
  constexpr u32 exceptions = 0x3F;
  image = FxImage{};
  if (values_.one_in(2)) image.fcw = static_cast<u16>(0x40 | (values_.bits() & 0x1F3F));
  image.fsw = static_cast<u16>(values_.bits() & 0x7F00);
  if (values_.one_in(8)) image.fsw |= static_cast<u16>(values_.bits() & 0x7F);
  const bool wants_pending = values_.one_in(32);
  if (!wants_pending) image.fsw &= static_cast<u16>(~exceptions | image.fcw);
  if ((image.fsw & ~image.fcw & exceptions) != 0) image.fsw |= 0x8080;
  image.ftw = static_cast<u8>(values_.one_in(2) ? 0xFF : values_.bits());
  if (values_.one_in(8)) image.ftw = 0;
  if (values_.one_in(2)) image.mxcsr = static_cast<u32>(values_.bits() & 0xFFC0);
  if (values_.one_in(4)) image.mxcsr |= static_cast<u32>(values_.bits() & exceptions);
  for (auto& st : image.st) {
    st = {};
    values_.float80(st.data());
  }
  for (unsigned i = 0; i < 8; ++i) values_.vector(image.xmm[i].data());
}

// Addresses in registers that no ModRM names.
void Generator::implicit_addresses(Case& out, std::span<u8> data) {
  auto& gpr = out.before.gpr;
  const Insn& insn = out.insn;
  const auto place = [&](Gpr reg, u32 size) {
    gpr[reg] = address(size);
    values_.fill(window(data, gpr[reg], size));
  };
  if (insn.info().family == Family::string) {
    for (const Gpr reg : {esi, edi}) {
      gpr[reg] = address(4);
      if (values_.one_in(2)) {
        values_.fill_alike(window(data, gpr[reg], 64));
      } else {
        values_.fill(window(data, gpr[reg], 16));
      }
    }
    if (values_.one_in(2)) gpr[eax] = values_.below(2) * 0x01010101u;
    if (!values_.one_in(8)) gpr[ecx] = values_.below(40);
  }
  if (insn.row == Row::maskmovq || insn.row == Row::maskmovdqu) place(edi, 16);
  if (insn.row == Row::xlat) {
    place(ebx, 1);
    gpr[ebx] -= gpr[eax] & 0xFFu;
  }
  if (insn.row == Row::leave || insn.row == Row::enter) place(ebp, 4);
  if (insn.row == Row::bt || insn.row == Row::btc || insn.row == Row::btr || insn.row == Row::bts) {
    for (unsigned i = 0; i < insn.operand_count; ++i) {
      const Operand& o = insn.operand[i];
      if (o.slot == Slot::modrm_reg && o.kind == OperandKind::reg && o.reg != esp && !values_.one_in(8))
        gpr[o.reg] = values_.below(0x4000) - 0x2000;
    }
  }
  if (is_stack_row(insn)) values_.fill(window(data, gpr[esp], 32));
}

// Aims the memory operand; false: these registers cannot.
bool Generator::memory_operand(Case& out, std::span<u8> data) {
  Insn& insn = out.insn;
  auto& gpr = out.before.gpr;
  if (!insn.has_memory) return true;
  const u32 size = operand_size(insn);
  u32 target = address(size);
  if (insn.lock || insn.row == Row::xchg) target &= ~(size - 1);  // hosts punish locked accesses that split a cache line
  if ((size == 16 || size == 512) && !values_.one_in(16)) target &= ~15u;
  if (insn.address_size == 4) {
    const u32 delta = target - effective_address(insn, gpr);
    if (displacement_size_ == 4) {
      insn.mem.displacement += delta;
      std::memcpy(insn.bytes.data() + displacement_offset_, &insn.mem.displacement, 4);
    } else if (insn.mem.base != no_reg && insn.mem.base != insn.mem.index) {
      gpr[insn.mem.base] += delta;
    }
  }
  const u32 reached = effective_address(insn, gpr);
  if (insn.row == Row::lea || insn.row == Row::nop) return true;
  if (!is_safe(reached) || !is_safe(reached + size) || reached + size < reached)
    return false;  // a wrap may fault as a limit (SDM vol. 3, 5.3)
  if (insn.lock && (reached & (size - 1)) != 0) return false;
  values_.fill(window(data, reached, size));
  special_contents(out, data, reached);
  return true;
}

// Contents that random bytes hardly ever are.
void Generator::special_contents(const Case& out, std::span<u8> data, u32 address) {
  const auto change = [&](u32 offset, auto update) {
    const u64 at = u64{address} + offset - data_base;
    if (address + offset < data_base || at + 4 > data.size()) return;
    u32 v = 0;
    std::memcpy(&v, data.data() + at, 4);
    v = update(v);
    std::memcpy(data.data() + at, &v, 4);
  };
  // Bit 17 is an extension of some hosts, which the guest's CPU does not have.
  const u32 mxcsr_bits = values_.one_in(8) ? ~(1u << 17) : 0xFFFFu;
  switch (out.insn.row) {
    case Row::ldmxcsr: change(0, [&](u32 v) { return v & mxcsr_bits; }); break;
    case Row::fxrstor: change(24, [&](u32 v) { return v & mxcsr_bits; }); break;
    case Row::bound:
      change(0, [&](u32) { return values_.integer(); });
      change(4, [&](u32) { return values_.integer(); });
      break;
    default: break;
  }
}

// Gives jumps somewhere to go: HLTs of the code page away from the instruction, or absent pages. (Data pages are executable in the guest,
// which has no NX, and not on the host.)
void Generator::jump_target(Case& out, std::span<u8> data) {
  Insn& insn = out.insn;
  u32 target = values_.one_in(2) ? code_base + values_.below(0x700) : code_start + 0x80 + values_.below(0x600);
  if (values_.one_in(8)) target = data_end + 0x2000 + values_.below(0x10000);
  const auto put = [&](u32 at) {
    if (at >= data_base && at <= data_end - 4) std::memcpy(data.data() + (at - data_base), &target, 4);
  };
  if (insn.row == Row::ret) put(out.before.gpr[esp]);
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& o = insn.operand[i];
    if (o.kind == OperandKind::mem) put(effective_address(insn, out.before.gpr));
    if (o.kind == OperandKind::reg) out.before.gpr[o.reg] = target;
    if (o.kind != OperandKind::rel) continue;
    i32 relative = static_cast<i32>(target - (code_start + insn.length));
    if (insn.imm_size == 1)
      relative = values_.one_in(2) ? static_cast<i32>(16 + values_.below(112)) : -static_cast<i32>(32 + values_.below(97));
    std::memcpy(insn.bytes.data() + insn.imm_offset, &relative, insn.imm_size);
  }
}

// A few instructions on registers around the one under test. Those behind it read its results and flags, or make its flags dead, which
// changes what a translator may emit for it; those before it move it away from the start of its block.
void Generator::add_neighbours(Case& out) {
  out.head_length = 0;
  out.tail_length = 0;
  if (out.jumps || out.insn.info().family == Family::decimal || values_.one_in(2)) return;
  Case other;
  const auto next = [&](std::size_t room) {
    if (!assemble(tail_rows_[values_.below(static_cast<u32>(tail_rows_.size()))], other)) return false;
    return !other.insn.has_memory && !other.insn.lock && other.insn.length <= room;
  };
  for (u32 tries = 1 + values_.below(4); tries > 0; --tries) {
    if (!next(out.tail.size() - out.tail_length)) continue;
    std::copy_n(other.insn.bytes.begin(), other.insn.length, out.tail.begin() + out.tail_length);
    out.tail_length = static_cast<u8>(out.tail_length + other.insn.length);
  }
  for (u32 tries = values_.below(4); tries > 0; --tries) {
    if (!next(out.head.size() - out.head_length) || changes_addresses(other.insn, out.insn)) continue;
    std::copy_n(other.insn.bytes.begin(), other.insn.length, out.head.begin() + out.head_length);
    out.head_length = static_cast<u8>(out.head_length + other.insn.length);
  }
}

void Generator::make(Row row, Case& out, std::span<u8> data) {
  for (;;) {
    if (!assemble(row, out)) continue;
    registers(out);
    implicit_addresses(out, data);
    if (!memory_operand(out, data)) continue;
    if (out.jumps) jump_target(out, data);
    const u32 second_flag_byte = out.before.gpr[esp] + 1;
    if (row == Row::popf && second_flag_byte >= data_base && second_flag_byte < data_end) {
      data[second_flag_byte - data_base] &= 0xFE;  // TF: a single step would end in the test itself
    }
    // Displacements and targets were patched: decode what stands there now.
    const Insn patched = out.insn;
    if (decoder_.decode(std::span(patched.bytes.data(), patched.length), true, out.insn) != DecodeStatus::ok) continue;
    add_neighbours(out);
    return;
  }
}

}  // namespace ring3::hostcpu
