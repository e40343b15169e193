// The half of the generator that makes states for a given program.
#include "generator.h"

#include "base/sanitizer.h"
#include "segments.h"

#include <algorithm>
#include <cstring>

namespace ring3::hostcpu {

namespace {

const Operand* memory_of(const Insn& insn) {
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind == OperandKind::mem) return &insn.operand[i];
  }
  return nullptr;
}

// Where nothing of a process with AddressSanitizer lies.
bool is_safe(u32 a) { return (a >= code_base && a < trampoline_base) || a < 0x10000 - page || a >= 0xFFFFF000; }

bool is_stack_row(const Insn& insn) {
  switch (insn.row) {
    case Row::call:
    case Row::ret:
    case Row::call_far:
    case Row::ret_far:
    case Row::iret:
    case Row::push_sreg:
    case Row::pop_sreg: return true;
    default: return insn.info().family == Family::stack;
  }
}

bool is_bit_row(Row row) { return row == Row::bt || row == Row::btc || row == Row::btr || row == Row::bts; }

}  // namespace

u32 operand_size(const Insn& insn) {
  if (insn.row == Row::fxsave || insn.row == Row::fxrstor) return 512;
  const Operand* memory = memory_of(insn);
  return memory != nullptr && memory->size != 0 ? memory->size : 4;
}

bool must_be_aligned(const Insn& insn) { return insn.lock || insn.row == Row::xchg; }

bool Generator::differs_by_place(u32 linear, u32 size) const {
  constexpr u32 longest_way_out = 8;
  return linear + size - program_->start < size + program_->length + longest_way_out || linear + size - kernel_base < size + kernel_size;
}

// Looked at when the registers are final.
bool Generator::touches_differing_bytes(const State& s) const {
  const Insn& insn = program_->insn;
  constexpr u32 around = 256;
  const auto near_register = [&](Gpr reg, Seg seg) {
    const bool narrow = seg == Seg::ss ? !segment(seg).big() : insn.address_size == 2;
    const u32 offset = narrow ? s.gpr[reg] & 0xFFFFu : s.gpr[reg];
    return differs_by_place(segment(seg).base + offset - around, 2 * around);
  };
  if (is_stack_row(insn) && differs_by_place(stack_address(s) - around, 2 * around)) return true;
  if ((insn.row == Row::leave || insn.row == Row::enter) && near_register(ebp, Seg::ss)) return true;
  const Family family = insn.info().family;
  if ((family == Family::string || family == Family::io) && (near_register(esi, insn.mem.segment) || near_register(edi, Seg::es)))
    return true;
  if (!insn.has_memory || insn.row == Row::lea || insn.row == Row::nop) return false;
  u32 at = memory_address(s);
  for (unsigned i = 0; i < insn.operand_count && is_bit_row(insn.row); ++i) {
    const Operand& o = insn.operand[i];
    if (o.slot != Slot::modrm_reg || o.kind != OperandKind::reg) continue;
    const i32 bit = insn.operand_size == 2 ? static_cast<i16>(s.gpr[o.reg]) : static_cast<i32>(s.gpr[o.reg]);
    const u32 base = segment(insn.mem.segment).base;
    const u32 offset = at - base + static_cast<u32>(bit / 8);
    at = base + (insn.address_size == 2 ? offset & 0xFFFFu : offset);
  }
  return differs_by_place(at - 4, operand_size(insn) + 8);
}

void Generator::registers(State& s) {
  for (u32& r : s.gpr) r = values_.integer();
  s.eflags = flag::fixed1 | flag::if_ | (static_cast<u32>(values_.bits()) & flag::status);
  if (values_.one_in(16)) s.eflags |= flag::ac;
  if (values_.one_in(16)) s.eflags |= flag::id;
  const Insn& insn = program_->insn;
  const Family family = program_->defined ? insn.info().family : Family::alu;
  if (values_.one_in(family == Family::string || family == Family::io ? 2 : 16)) s.eflags |= flag::df;
  s.gpr[esp] = offset_in(segment(Seg::ss), program_->defined && is_stack_row(insn) ? 32 : 4);
  if (!segment(Seg::ss).big()) s.gpr[esp] = (s.gpr[esp] & 0xFFFFu) | (static_cast<u32>(values_.bits()) & 0xFFFF0000u);
  if (!values_.one_in(4)) s.gpr[esp] -= stack_address(s) & 3u;
  if (family == Family::muldiv && values_.one_in(2)) s.gpr[edx] = values_.one_in(2) ? 0 : (s.gpr[eax] >> 31 != 0 ? ~0u : 0);
  if (program_->fpu) fpu_state(s.fpu);
}

void Generator::fpu_state(FxImage& image) {
  constexpr u32 exceptions = 0x3F;
  image.fcw = 0x37F;
  image.fop = 0;
  image.fip = image.fdp = 0;
  image.mxcsr = 0x1F80;
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
void Generator::implicit_addresses(State& s) {
  auto& gpr = s.gpr;
  const Insn& insn = program_->insn;
  const auto place = [&](Gpr reg, Seg seg, u32 size) {
    u32 linear = 0;
    do {  // code reads otherwise on both sides
      gpr[reg] = offset_in(segment(seg), size);
      linear = segment(seg).base + (insn.address_size == 2 ? gpr[reg] & 0xFFFFu : gpr[reg]);
    } while (linear + 256 - code_base < code_size + 512);
    return linear;
  };
  const bool port_string = insn.info().family == Family::io && insn.operand_count == 2 && memory_of(insn) != nullptr;
  if (insn.info().family == Family::string || port_string) {
    for (const Gpr reg : {esi, edi}) {
      const u32 linear = place(reg, reg == edi ? Seg::es : insn.mem.segment, 4);
      if (values_.one_in(2)) {
        values_.fill_alike(window(linear, 64));
      } else {
        values_.fill(window(linear, 16));
      }
    }
    if (values_.one_in(2)) gpr[eax] = values_.below(2) * 0x01010101u;
    if (!values_.one_in(8)) gpr[ecx] = values_.below(40);
  }
  if (insn.row == Row::maskmovq || insn.row == Row::maskmovdqu) values_.fill(window(place(edi, insn.mem.segment, 16), 16));
  if (insn.row == Row::xlat) {
    values_.fill(window(place(ebx, insn.mem.segment, 1), 1));
    gpr[ebx] -= gpr[eax] & 0xFFu;
  }
  if (insn.row == Row::leave || insn.row == Row::enter) values_.fill(window(place(ebp, Seg::ss, 4), 4));
  if (is_bit_row(insn.row)) {
    for (unsigned i = 0; i < insn.operand_count; ++i) {
      const Operand& o = insn.operand[i];
      if (o.slot == Slot::modrm_reg && o.kind == OperandKind::reg && o.reg != esp && !values_.one_in(8))
        gpr[o.reg] = values_.below(0x4000) - 0x2000;
    }
  }
  if (is_stack_row(insn)) values_.fill(window(stack_address(s), 32));
  if (insn.row == Row::popf || insn.row == Row::iret) {
    // TF: a single step would end in the test itself. NT: an IRET that returns to itself means another thing in 64-bit mode's kernel.
    const u32 flags_byte = stack_address(s, insn.row == Row::iret ? 2u * insn.operand_size : 0) + 1;
    const u32 at = flags_byte - data_base;
    if (at < data_size) put(flags_byte, data_[at] & (insn.row == Row::iret ? 0xBEu : 0xFEu), 1);
  }
}

// Aims the memory operand; false: these registers cannot.
bool Generator::memory_operand(State& s) {
  const Insn& insn = program_->insn;
  auto& gpr = s.gpr;
  if (!insn.has_memory) return true;
  const u32 size = operand_size(insn);
  const SegmentCache& seg = segment(insn.mem.segment);
  u32 offset = offset_in(seg, size);
  if (must_be_aligned(insn)) offset -= (seg.base + offset) & (size - 1);  // hosts punish locked accesses that split a cache line
  if ((size == 16 || size == 512) && !values_.one_in(16)) offset -= (seg.base + offset) & 15u;
  const u32 base = insn.mem.base;
  const u32 index = insn.mem.index;
  const u32 rest = offset - insn.mem.displacement;
  if (base != no_reg && base != index) {
    const u32 wanted = rest - (index == no_reg ? 0 : gpr[index] * insn.mem.scale);
    gpr[base] = insn.address_size == 2 ? (gpr[base] & 0xFFFF0000u) | (wanted & 0xFFFFu) : wanted;
  } else if (index != no_reg) {
    gpr[index] = rest / (insn.mem.scale + (base == index ? 1u : 0u));
  }
  const u32 reached = memory_address(s);
  if (insn.row == Row::lea || insn.row == Row::nop) return true;
  if (address_sanitizer && (!is_safe(reached) || !is_safe(reached + size))) return false;
  if (must_be_aligned(insn) && (reached & (size - 1)) != 0) {
    // Registers that cannot reach an aligned address: an absent page is as good.
    if (reached - data_base < data_size || reached - code_base < code_size) return false;
  }
  values_.fill(window(reached, size));
  special_contents(reached);
  return true;
}

// Contents that random bytes hardly ever are.
void Generator::special_contents(u32 linear) {
  const auto change = [&](u32 offset, auto update) {
    const u32 at = linear + offset - data_base;
    if (at >= data_size - 4) return;
    u32 v = 0;
    std::memcpy(&v, data_.data() + at, 4);
    put(linear + offset, update(v), 4);
  };
  // Bit 17 is an extension of some hosts, which the guest's CPU does not have.
  const u32 mxcsr_bits = values_.one_in(8) ? ~(1u << 17) : 0xFFFFu;
  switch (program_->insn.row) {
    case Row::ldmxcsr: change(0, [&](u32 v) { return v & mxcsr_bits; }); break;
    case Row::fxrstor: change(24, [&](u32 v) { return v & mxcsr_bits; }); break;
    case Row::bound:
      change(0, [&](u32) { return values_.integer(); });
      change(4, [&](u32) { return values_.integer(); });
      break;
    default: break;
  }
}

// Gives indirect jumps somewhere to go.
void Generator::jump_target(State& s) {
  const Insn& insn = program_->insn;
  switch (insn.row) {
    case Row::call_far:
    case Row::jmp_far:
    case Row::ret_far:
    case Row::iret: far_target(s); return;
    default: break;
  }
  const u32 target = hlt_address() - segment(Seg::cs).base;
  if (insn.row == Row::ret) put(stack_address(s), target, insn.operand_size);
  if (insn.row != Row::jmp && insn.row != Row::call) return;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& o = insn.operand[i];
    if (o.kind == OperandKind::mem) put(memory_address(s), target, insn.operand_size);
    if (o.kind == OperandKind::reg) s.gpr[o.reg] = target;
  }
}

void Generator::far_target(State& s) {
  const Insn& insn = program_->insn;
  const u16 selector = code_target(values_);
  const u32 offset = hlt_address() - cache_of(batch_->ldt, selector).base;
  const u32 size = insn.operand_size;
  if (insn.row == Row::ret_far || insn.row == Row::iret) {
    put(stack_address(s), offset, size);
    put(stack_address(s, size), selector, 2);
  } else if (insn.has_memory) {
    put(memory_address(s), offset, size);
    put(memory_address(s) + size, selector, 2);
  }
}

// Selectors for the instructions that load or examine them.
void Generator::selectors(State& s) {
  const Insn& insn = program_->insn;
  const auto fill_operands = [&](auto choose) {
    for (unsigned i = 0; i < insn.operand_count; ++i) {
      const Operand& o = insn.operand[i];
      if (o.kind == OperandKind::mem) put(memory_address(s), choose(), 2);
      if (o.kind == OperandKind::reg && o.reg_class != RegClass::segment && (o.read || insn.row == Row::arpl))
        s.gpr[o.reg] = (s.gpr[o.reg] & 0xFFFF0000u) | choose();
    }
  };
  const auto any = [&] { return any_selector(values_); };
  const auto stack = [&] { return stack_target(values_); };
  const bool loads_ss = insn.operand_count > 0 && insn.operand[0].reg_class == RegClass::segment && insn.operand[0].reg == 2;
  switch (insn.row) {
    case Row::mov_to_sreg: loads_ss ? fill_operands(stack) : fill_operands(any); break;
    case Row::lar:
    case Row::lsl:
    case Row::verr:
    case Row::verw:
    case Row::arpl: fill_operands(any); break;
    case Row::pop_sreg: put(stack_address(s), loads_ss ? stack() : any(), 2); break;
    case Row::lds:
    case Row::les:
    case Row::lfs:
    case Row::lgs: put(memory_address(s) + insn.operand_size, any(), 2); break;
    case Row::lss: put(memory_address(s) + insn.operand_size, stack(), 2); break;
    default: break;
  }
}

}  // namespace ring3::hostcpu
