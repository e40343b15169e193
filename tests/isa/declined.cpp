#include "isa/declined.h"

#include "frontend/guest_block.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

namespace ring3::isa {

namespace {

constexpr u32 kernel_mode =
    mode::code32 | mode::stack32 | mode::ds_es_ss_flat | mode::osfxsr | mode::cpl0 | mode::cs_flat | mode::protected_mode;
constexpr u32 code_at = 0x00100000;
constexpr u64 region_bytes = u64{1} << 20;

}  // namespace

// One way in which code may differ from flat 32-bit kernel code.
struct Declined::Variation {
  std::string_view name;
  u8 prefix = 0;  // put in front of the instruction
  u32 set = 0;    // mode bits
  u32 cleared = 0;
  u32 cs_base = 0;
  bool misaligned = false;
};

Declined::Declined() : region_(region_bytes), cache_(region_), translator_({}, cache_.stubs(), cache_.base()) {}

std::vector<std::vector<u8>> Declined::encodings(Row row) const {
  std::vector<std::vector<u8>> out;
  for (const hostcpu::Form& form : forms_.of(row)) {
    std::vector<u8> bytes(form.bytes.begin(), form.bytes.begin() + form.length);
    if (form.modrm.empty()) {
      bytes.resize(15);
      out.push_back(bytes);
      continue;
    }
    // [ebx], ECX and ESP with every register and every opcode extension; all where ModRM is part of the opcode.
    const auto wanted = [](u8 modrm) {
      return modrm < 0x40 ? (modrm & 7u) == 3 : modrm >= 0xC0 && ((modrm & 7u) == 1 || (modrm & 7u) == 4);
    };
    const bool any = std::ranges::any_of(form.modrm, wanted);
    for (const u8 modrm : form.modrm) {
      if (any && !wanted(modrm)) continue;
      bytes.resize(form.length);
      bytes.push_back(modrm);
      bytes.resize(15);
      out.push_back(bytes);
    }
  }
  return out;
}

std::vector<Feature> Declined::features(Row row) const {
  std::set<Feature> found;
  for (const std::vector<u8>& bytes : encodings(row)) {
    Insn insn;
    if (decoder_.decode(bytes, true, insn) == DecodeStatus::ok && insn.row == row) found.insert(insn.feature);
  }
  if (found.empty()) found.insert(row_info(row).feature);
  return {found.begin(), found.end()};
}

bool Declined::emits(const std::vector<u8>& bytes, const Variation& variation) {
  BlockKey key{code_at, code_at, (kernel_mode | variation.set) & ~variation.cleared, variation.cs_base, 0xFFFFFFFF};
  // Two instructions behind it: STI looks at them.
  Insn insn;
  if (decoder_.decode(bytes, true, insn) != DecodeStatus::ok) return false;
  std::vector<u8> code(bytes.begin(), bytes.begin() + insn.length);
  code.insert(code.end(), {0x90, 0x90});
  GuestBlock block;
  build_block(decoder_, key, code, page_size, 3, {}, block);
  SiteForms sites;
  if (variation.misaligned) sites.at(code_at).unaligned = true;
  TranslatedBlock out;
  translator_.translate(block, sites, cache_.next_offset(), nullptr, out);
  return out.points.front().emitted;
}

std::string Declined::describe(Row row) {
  static constexpr std::array variations{
      Variation{.name = "16-bit addresses", .prefix = 0x67},
      Variation{.name = "LOCK", .prefix = 0xF0},
      Variation{.name = "CS override", .prefix = 0x2E},
      Variation{.name = "FS or GS override", .prefix = 0x64},
      Variation{.name = "misaligned operands", .misaligned = true},
      Variation{.name = "CPL 1 and 2", .cleared = mode::cpl0},
      Variation{.name = "CPL 3", .set = mode::user, .cleared = mode::cpl0},
      Variation{.name = "16-bit stacks", .cleared = mode::stack32},
      Variation{.name = "data segments with base or limit", .cleared = mode::ds_es_ss_flat},
      Variation{.name = "code segments with base or limit", .cleared = mode::cs_flat, .cs_base = 0x1000},
      Variation{.name = "CR4.OSFXSR off", .cleared = mode::osfxsr},
      Variation{.name = "CR4.TSD above CPL 0", .set = mode::tsc_faults | mode::user, .cleared = mode::cpl0},
  };
  struct Encoding {
    std::vector<u8> bytes;
    Insn insn;
    bool emitted;
  };
  std::vector<Encoding> all;
  for (const std::vector<u8>& bytes : encodings(row)) {
    Encoding e{bytes, {}, false};
    if (decoder_.decode(bytes, true, e.insn) != DecodeStatus::ok || e.insn.row != row) continue;
    e.emitted = emits(bytes, {});
    all.push_back(e);
  }
  if (std::ranges::none_of(all, &Encoding::emitted)) return "all forms";

  // In flat code at CPL 0: what the declined forms have in common that the emitted ones lack.
  std::vector<std::string> words;
  const auto common = [&](std::string_view name, auto has) {
    const auto declined = [&](const Encoding& e) { return !e.emitted && has(e.insn); };
    const auto emitted = [&](const Encoding& e) { return e.emitted && has(e.insn); };
    if (std::ranges::none_of(all, declined)) return false;
    words.push_back(fmt::format("{}{}", std::ranges::any_of(all, emitted) ? "some with " : "", name));
    std::erase_if(all, declined);
    return true;
  };
  common("16-bit operands", [](const Insn& i) { return i.operand_size == 2 && i.mandatory_prefix == 0; });
  common("memory operands", [](const Insn& i) { return i.has_memory; });
  common("REP", [](const Insn& i) { return i.rep != Rep::none; });
  common("other operands", [](const Insn&) { return true; });

  for (const Variation& v : variations) {
    if ((v.set & mode::tsc_faults) != 0 && std::ranges::find(words, "CPL 3") != words.end()) continue;
    bool declined = false;
    bool emitted = false;
    for (const Encoding& e : all) {
      std::vector<u8> bytes = e.bytes;
      if (v.prefix != 0) {
        bytes.insert(bytes.begin(), v.prefix);
        bytes.resize(15);
        Insn insn;
        if (decoder_.decode(bytes, true, insn) != DecodeStatus::ok || insn.row != row) continue;
        // A prefix without effect says nothing about the form that it would make.
        if (v.prefix == 0xF0 && !insn.lock) continue;
        if (v.prefix != 0xF0 && v.prefix != 0x67 && !(insn.has_memory && insn.segment_override)) continue;
      }
      (emits(bytes, v) ? emitted : declined) = true;
    }
    if (declined) words.push_back(fmt::format("{}{}", emitted ? "some with " : "", v.name));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

}  // namespace ring3::isa
