#include "assembler.h"

namespace ring3::hostcpu {

bool Assembler::assemble(Row row, const Wish& wish, Values& values, Insn& out) const {
  const std::vector<Form>& forms = forms_.of(row);
  const Form& form = forms[values.below(static_cast<u32>(forms.size()))];
  u8 modrm = 0;
  if (!form.modrm.empty()) {
    const auto any = [&] { return form.modrm[values.below(static_cast<u32>(form.modrm.size()))]; };
    modrm = any();
    const bool has_register_forms = form.modrm.back() >= 0xC0;
    while (modrm < 0xC0 && has_register_forms && values.one_in(3)) modrm = any();
  }
  const bool memory = !form.modrm.empty() && modrm < 0xC0;

  std::array<u8, 24> bytes{};
  u32 n = 0;
  if (values.one_in(wish.segment_prefix)) {
    constexpr std::array<u8, 6> prefixes{0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65};
    bytes[n++] = prefixes[values.below(wish.far_segments ? 6 : 4)];
  }
  if (values.one_in(wish.address_prefix)) bytes[n++] = 0x67;
  if (!wish.code32 && values.one_in(2)) bytes[n++] = 0x66;
  if (memory && values.one_in(8)) bytes[n++] = 0xF0;
  for (unsigned i = 0; i < form.length; ++i) bytes[n++] = form.bytes[i];
  if (!form.modrm.empty()) bytes[n++] = modrm;
  if (!form.modrm.empty()) bytes[n++] = static_cast<u8>(values.bits());  // SIB, or part of what follows
  for (unsigned i = 0; i < 12 && n < bytes.size(); i += 4) {
    const u32 v = values.one_in(2) ? values.integer() : static_cast<u32>(values.bits());
    for (unsigned k = 0; k < 4 && n < bytes.size(); ++k) bytes[n++] = static_cast<u8>(v >> (8 * k));
  }
  return decoder_.decode(std::span(bytes.data(), 15), wish.code32, out) == DecodeStatus::ok && out.row == row;
}

bool Assembler::refresh(Insn& insn, bool code32) const {
  const Insn before = insn;
  return decoder_.decode(std::span(before.bytes.data(), before.length), code32, insn) == DecodeStatus::ok && insn.row == before.row &&
         insn.length == before.length;
}

Displacement displacement_of(const Insn& insn) {
  if (!insn.has_memory) return {};
  if (insn.modrm_offset == 0) return {static_cast<u8>(insn.opcode_offset + 1), insn.address_size};  // MOV of AL or EAX
  const u8 modrm = insn.bytes[insn.modrm_offset];
  const u32 mod = modrm >> 6;
  const u32 rm = modrm & 7u;
  const auto at = [&](u32 extra) { return static_cast<u8>(insn.modrm_offset + 1u + extra); };
  if (insn.address_size == 2) {
    if (mod == 1) return {at(0), 1};
    return mod == 2 || rm == 6 ? Displacement{at(0), 2} : Displacement{};
  }
  const u32 sib = rm == 4 ? 1 : 0;
  const u32 base = rm == 4 ? insn.bytes[insn.modrm_offset + 1u] & 7u : rm;
  if (mod == 1) return {at(sib), 1};
  return mod == 2 || base == 5 ? Displacement{at(sib), 4} : Displacement{};
}

}  // namespace ring3::hostcpu
