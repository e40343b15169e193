#include "runtime/system/cpu_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

namespace ring3 {
namespace {

// Signatures, descriptors and flags: Intel application note AP-485, tables 2-3, 2-7 and 3-4 to 3-7, and SDM vol. 2, CPUID. The Pentium III
// is one whose processor number is switched off, as firmware leaves it.
//   03020101h: descriptors 01h, 02h, 03h, the TLBs of both
//   0C040843h: 16 KiB code (08h) and data (0Ch), large-page TLB (04h), 512 KiB second level (43h)
//   0C040882h: the same with 256 KiB (82h)
constexpr std::array<CpuPart, 5> parts{{
    {"486", "Intel486 DX2, SL enhanced", 0x00000435, 1, 0, 0x00000001, 0, 0},
    {"pentium", "Pentium (P54C)", 0x0000052C, 1, 0, 0x000001BF, 0, 0},
    {"pentium2", "Pentium II (Deschutes)", 0x00000652, 2, 0, 0x0183F9FF, 0x03020101, 0x0C040843},
    {"pentium3", "Pentium III (Coppermine)", 0x0000068A, 2, 2, 0x0383F9FF, 0x03020101, 0x0C040882},
    // New enough that no kernel's list of vulnerable or broken models has it, so that only the feature flags and IA32_ARCH_CAPABILITIES
    // decide. reset.cpp shows the same value in EDX.
    {"core", "all that ring3 and this host have", 0x000806F8, 0, 0, 0, 0, 0},
}};

struct FlagName {
  u32 bit;
  std::string_view name;
};
constexpr std::array<FlagName, 17> edx_names{{{cpuid1_edx::fpu, "fpu"},
                                              {cpuid1_edx::de, "de"},
                                              {cpuid1_edx::pse, "pse"},
                                              {cpuid1_edx::tsc, "tsc"},
                                              {cpuid1_edx::msr, "msr"},
                                              {cpuid1_edx::pae, "pae"},
                                              {cpuid1_edx::cx8, "cx8"},
                                              {cpuid1_edx::sep, "sep"},
                                              {cpuid1_edx::pge, "pge"},
                                              {cpuid1_edx::cmov, "cmov"},
                                              {cpuid1_edx::pat, "pat"},
                                              {cpuid1_edx::pse36, "pse36"},
                                              {cpuid1_edx::clfsh, "clfsh"},
                                              {cpuid1_edx::mmx, "mmx"},
                                              {cpuid1_edx::fxsr, "fxsr"},
                                              {cpuid1_edx::sse, "sse"},
                                              {cpuid1_edx::sse2, "sse2"}}};
constexpr std::array<FlagName, 9> ecx_names{{{cpuid1_ecx::sse3, "sse3"},
                                             {cpuid1_ecx::pclmulqdq, "pclmulqdq"},
                                             {cpuid1_ecx::ssse3, "ssse3"},
                                             {cpuid1_ecx::sse41, "sse4.1"},
                                             {cpuid1_ecx::sse42, "sse4.2"},
                                             {cpuid1_ecx::movbe, "movbe"},
                                             {cpuid1_ecx::popcnt, "popcnt"},
                                             {cpuid1_ecx::aes, "aes"},
                                             {cpuid1_ecx::rdrand, "rdrand"}}};

constexpr std::size_t line_width = 100;

// Words from `at` on, wrapped so that all lines start in the same column.
void append_wrapped(std::string& out, std::size_t column, const std::string& words) {
  std::size_t used = column;
  std::size_t begin = 0;
  while (begin < words.size()) {
    const std::size_t end = std::min(words.find(' ', begin), words.size());
    if (used != column && used + 1 + (end - begin) > line_width) {
      out += "\n" + std::string(column, ' ');
      used = column;
    }
    if (used != column) {
      out += ' ';
      ++used;
    }
    out.append(words, begin, end - begin);
    used += end - begin;
    begin = end + 1;
  }
  out += '\n';
}

std::string flags_of(const CpuModel& model) {
  std::string out;
  const auto put = [&](std::string_view name) { out += fmt::format("{}{}", out.empty() ? "" : " ", name); };
  const CpuidResult one = model.cpuid(1, 0, 0);
  for (const FlagName& f : edx_names) {
    if ((one.edx & f.bit) != 0) put(f.name);
  }
  for (const FlagName& f : ecx_names) {
    if ((one.ecx & f.bit) != 0) put(f.name);
  }
  if (model.has_nx()) put("nx");
  if (model.has(Feature::rdtscp)) put("rdtscp");
  if (model.has(Feature::rdseed)) put("rdseed");
  if (model.has_speculation_control()) put("ibrs arch_capabilities");
  return out;
}

}  // namespace

const CpuPart& cpu_part(CpuName name) { return parts.at(static_cast<std::size_t>(name)); }

std::optional<CpuName> find_cpu(std::string_view name) {
  const auto* const found = std::ranges::find(parts, name, &CpuPart::name);
  if (found == parts.end()) return std::nullopt;
  return static_cast<CpuName>(found - parts.begin());
}

std::string cpu_names() {
  std::string out;
  for (const CpuPart& p : parts) out += fmt::format("{}{}", out.empty() ? "" : ", ", p.name);
  return out;
}

std::string cpu_list() {
  constexpr std::size_t flags_column = 57;
  std::string out = fmt::format("{:<10}{:<35}{:<12}{}\n", "name", "part", "fam/mod/st", "CPUID flags");
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const CpuPart& p = parts.at(i);
    // Families up to 6 and models of family 6 as they are shown: the extended model comes first.
    const u32 model = (p.signature >> 4 & 0xF) | (p.signature >> 12 & 0xF0);
    const std::string numbers = fmt::format("{}/{}/{}", p.signature >> 8 & 0xF, model, p.signature & 0xF);
    out += fmt::format("{:<10}{:<35}{:<12}", p.name, p.part, numbers);
    append_wrapped(out, flags_column, flags_of(CpuModel::make(static_cast<CpuName>(i))));
  }
  return out;
}

}  // namespace ring3
