#include "forms.h"

#include <algorithm>
#include <map>
#include <span>

namespace ring3::hostcpu {

namespace {

using Bytes = std::vector<u8>;

const std::array<Bytes, 7> prefix_sets{{{}, {0x66}, {0xF3}, {0xF2}, {0x66, 0xF3}, {0x66, 0xF2}, {0x67}}};
const std::array<Bytes, 4> escapes{{{}, {0x0F}, {0x0F, 0x38}, {0x0F, 0x3A}}};

bool is_prefix(u8 byte) {
  constexpr std::array<u8, 11> prefixes{0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3};
  return std::find(prefixes.begin(), prefixes.end(), byte) != prefixes.end();
}

// F2 and F3 where they mean nothing: newer CPUs give some of these a meaning (F3 BSF is TZCNT), so they prove nothing.
bool meaningless_repeat(const Insn& insn, const Bytes& prefixes) {
  const u8 last = prefixes.empty() ? u8{0} : prefixes.back();
  return (last == 0xF2 || last == 0xF3) && insn.rep == Rep::none && insn.mandatory_prefix != last;
}

// The prefix makes the row only for JCXZ; elsewhere the generator adds it.
bool is_wanted(const Insn& insn, const Bytes& prefixes) {
  const bool address_prefix = !prefixes.empty() && prefixes[0] == 0x67;
  if (address_prefix != (insn.row == Row::jcxz)) return false;
  // 0F 0D with a register is a NOP for Intel and undefined for AMD.
  const u8* const opcode = &insn.bytes[insn.opcode_offset];
  const bool vendors_differ = insn.row == Row::nop && opcode[0] == 0x0F && opcode[1] == 0x0D && !insn.has_memory;
  return !vendors_differ && !meaningless_repeat(insn, prefixes);
}

}  // namespace

Forms::Forms(const Decoder& decoder) {
  for (const Bytes& prefixes : prefix_sets) {
    for (const Bytes& escape : escapes) {
      for (unsigned opcode = 0; opcode < 256; ++opcode) {
        if (escape.empty() && (opcode == 0x0F || is_prefix(static_cast<u8>(opcode)))) continue;
        if (escape.size() == 1 && (opcode == 0x38 || opcode == 0x3A)) continue;
        Bytes bytes = prefixes;
        bytes.insert(bytes.end(), escape.begin(), escape.end());
        bytes.push_back(static_cast<u8>(opcode));
        const std::size_t head = bytes.size();
        bytes.resize(15);
        std::map<Row, Form> found;
        for (unsigned modrm = 0; modrm < 256; ++modrm) {
          bytes[head] = static_cast<u8>(modrm);
          Insn insn;
          if (decoder.decode(bytes, true, insn) != DecodeStatus::ok || !is_wanted(insn, prefixes)) continue;
          Form& form = found[insn.row];
          std::copy_n(bytes.begin(), head, form.bytes.begin());
          form.length = static_cast<u8>(head);
          if (insn.modrm_offset == 0) break;
          form.modrm.push_back(static_cast<u8>(modrm));
        }
        for (auto& [row, form] : found) forms_[static_cast<unsigned>(row)].push_back(std::move(form));
      }
    }
  }
}

}  // namespace ring3::hostcpu
