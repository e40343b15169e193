#include "runtime/system/cpu_model.h"

#include "guest/registers.h"
#include "runtime/memory/memory.h"
#include "runtime/system/cpu_parts.h"

#include <cpuid.h>
#include <x86intrin.h>
#include <algorithm>
#include <chrono>
#include <cstring>

namespace ring3 {
namespace {

namespace leaf1_edx {
using namespace cpuid1_edx;
// What the runtime implements by itself, whatever the host has.
constexpr u32 own = de | pse | msr | pae | sep | pge | pat;
constexpr u32 by_host = fpu | tsc | cx8 | cmov | clfsh | mmx | fxsr | sse | sse2;
// PSE-36 is for the parts whose physical addresses end at 36 bits with it; the default model leaves it to PAE.
constexpr u32 implemented = own | by_host | pse36;
}  // namespace leaf1_edx
namespace leaf1_ecx {
using namespace cpuid1_ecx;
constexpr u32 by_host = sse3 | pclmulqdq | ssse3 | sse41 | sse42 | movbe | popcnt | aes | rdrand;
}  // namespace leaf1_ecx
namespace leaf7_ebx {
// The FPU saves its data pointer only at unmasked exceptions, and FCS/FDS read as 0: true for all hosts with these bits, and emitted x87
// code cannot give more than the host does (docs/architecture.md, FPU).
constexpr u32 fdp_excptn_only = 1u << 6, zero_fcs_fds = 1u << 13, rdseed = 1u << 18;
}  // namespace leaf7_ebx
namespace leaf7_edx {
constexpr u32 ibrs_ibpb = 1u << 26, arch_capabilities = 1u << 29;
}
namespace ext1_edx {
constexpr u32 nx = 1u << 20, rdtscp = 1u << 27;
}

constexpr u32 max_basic_leaf = 0x16;
constexpr u32 max_extended_leaf = 0x80000008;
constexpr u32 vendor_ebx = 0x756E6547, vendor_ecx = 0x6C65746E, vendor_edx = 0x49656E69;  // GenuineIntel
constexpr char brand[49] = "ring3 virtual CPU";

u32 brand_word(unsigned index) {
  u32 word = 0;
  std::memcpy(&word, brand + index * 4, 4);
  return word;
}

CpuidResult brand_leaf(unsigned part) {
  return {brand_word(part * 4), brand_word(part * 4 + 1), brand_word(part * 4 + 2), brand_word(part * 4 + 3)};
}

// Deterministic cache parameters (SDM vol. 2, CPUID leaf 4): type 1 data, 2 code, 3 unified; 64-byte lines.
CpuidResult cache_leaf(u32 type, u32 level, u32 ways, u32 sets) {
  return {type | (level << 5) | (1u << 8), ((ways - 1) << 22) | 63u, sets - 1, 0};
}

CpuidResult cache_parameters(u32 subleaf) {
  switch (subleaf) {
    case 0: return cache_leaf(1, 1, 8, 64);     // 32 KiB
    case 1: return cache_leaf(2, 1, 8, 64);     // 32 KiB
    case 2: return cache_leaf(3, 2, 16, 1024);  // 1 MiB
    default: return {};
  }
}

// Host TSC against the host's monotonic clock: two bracketed samples 4 ms apart, some 10 ppm, as good as a board's crystal. 0 if the
// host's TSC does not run at a constant rate.
u32 measure_tsc_khz() {
  u32 a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(0x80000007, &a, &b, &c, &d) == 0 || (d & (1u << 8)) == 0) return 0;
  using Clock = std::chrono::steady_clock;
  struct Sample {
    u64 tsc;
    Clock::time_point time;
  };
  const auto sample = [] {
    Sample best{};
    u64 narrowest = ~u64{0};
    for (int i = 0; i < 16; ++i) {
      const u64 before = read_tsc();
      const auto time = Clock::now();
      const u64 after = read_tsc();
      if (after - before >= narrowest) continue;
      narrowest = after - before;
      best = {before + (after - before) / 2, time};
    }
    return best;
  };
  const Sample first = sample();
  while (Clock::now() - first.time < std::chrono::milliseconds(4)) _mm_pause();
  const Sample last = sample();
  const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(last.time - first.time).count();
  if (nanoseconds <= 0 || last.tsc <= first.tsc) return 0;
  return static_cast<u32>((last.tsc - first.tsc) * 1'000'000 / static_cast<u64>(nanoseconds));
}

}  // namespace

u64 read_tsc() { return __rdtsc(); }

CpuModel CpuModel::make_default() {
  u32 a = 0, b = 0, leaf1_ecx = 0, leaf1_edx = 0, leaf7_ebx = 0, ext1_edx = 0, unused = 0;
  __get_cpuid(1, &a, &b, &leaf1_ecx, &leaf1_edx);
  __get_cpuid_count(7, 0, &a, &leaf7_ebx, &unused, &b);
  __get_cpuid(0x80000001, &a, &b, &unused, &ext1_edx);
  return make(leaf1_ecx, leaf1_edx, leaf7_ebx, ext1_edx, measure_tsc_khz());
}

CpuModel CpuModel::make(u32 host_leaf1_ecx, u32 host_leaf1_edx, u32 host_leaf7_ebx, u32 host_ext1_edx, u32 tsc_khz) {
  CpuModel m(CpuName::core);
  m.leaf1_edx_ = (host_leaf1_edx & leaf1_edx::by_host) | leaf1_edx::own;
  m.leaf1_ecx_ = host_leaf1_ecx & leaf1_ecx::by_host;
  m.leaf7_ebx_ = (host_leaf7_ebx & leaf7_ebx::rdseed) | leaf7_ebx::fdp_excptn_only | leaf7_ebx::zero_fcs_fds;
  m.leaf7_edx_ = leaf7_edx::ibrs_ibpb | leaf7_edx::arch_capabilities;
  m.ext1_edx_ = ext1_edx::nx | (host_ext1_edx & ext1_edx::rdtscp);
  m.tsc_khz_ = tsc_khz;
  m.derive();
  return m;
}

// Every host has what these parts announce: SSE and everything before it belong to x86-64.
CpuModel CpuModel::make(CpuName name) {
  if (name == CpuName::core) return make_default();
  CpuModel m(name);
  m.leaf1_edx_ = cpu_part(name).leaf1_edx & leaf1_edx::implemented;
  m.derive();
  return m;
}

void CpuModel::derive() {
  const u32 d1 = leaf1_edx_;
  const u32 c1 = leaf1_ecx_;
  const auto add = [this](Feature feature, bool present) {
    if (present) features_ |= u64{1} << static_cast<unsigned>(feature);
  };
  const bool p6 = part_ >= CpuName::pentium2;
  add(Feature::base, true);
  add(Feature::i486, true);
  add(Feature::cr4, (d1 & ~leaf1_edx::fpu) != 0);
  add(Feature::p6, p6);
  add(Feature::rdpmc, p6);
  add(Feature::prefetchw, part_ == CpuName::core);
  add(Feature::cmov, (d1 & leaf1_edx::cmov) != 0);
  add(Feature::cmov_x87, (d1 & leaf1_edx::cmov) != 0 && (d1 & leaf1_edx::fpu) != 0);
  add(Feature::x87, (d1 & leaf1_edx::fpu) != 0);
  add(Feature::tsc, (d1 & leaf1_edx::tsc) != 0);
  add(Feature::msr, (d1 & leaf1_edx::msr) != 0);
  add(Feature::cx8, (d1 & leaf1_edx::cx8) != 0);
  add(Feature::sep, (d1 & leaf1_edx::sep) != 0);
  add(Feature::mmx, (d1 & leaf1_edx::mmx) != 0);
  add(Feature::fxsr, (d1 & leaf1_edx::fxsr) != 0);
  add(Feature::sse, (d1 & leaf1_edx::sse) != 0);
  add(Feature::sse2, (d1 & leaf1_edx::sse2) != 0);
  add(Feature::sse3, (c1 & leaf1_ecx::sse3) != 0);
  add(Feature::ssse3, (c1 & leaf1_ecx::ssse3) != 0);
  add(Feature::sse41, (c1 & leaf1_ecx::sse41) != 0);
  add(Feature::sse42, (c1 & leaf1_ecx::sse42) != 0);
  add(Feature::popcnt, (c1 & leaf1_ecx::popcnt) != 0);
  add(Feature::movbe, (c1 & leaf1_ecx::movbe) != 0);
  add(Feature::aes, (c1 & leaf1_ecx::aes) != 0);
  add(Feature::pclmulqdq, (c1 & leaf1_ecx::pclmulqdq) != 0);
  add(Feature::clflush, (d1 & leaf1_edx::clfsh) != 0);
  add(Feature::rdtscp, (ext1_edx_ & ext1_edx::rdtscp) != 0);
  add(Feature::rdrand, (c1 & leaf1_ecx::rdrand) != 0);
  add(Feature::rdseed, (leaf7_ebx_ & leaf7_ebx::rdseed) != 0);

  // SDM vol. 3, 2.5: a bit of CR4 exists with the flag for what it controls.
  const auto allow = [this](u32 bit, bool present) {
    if (present) cr4_allowed_ |= bit;
  };
  allow(cr4::tsd, (d1 & leaf1_edx::tsc) != 0);
  allow(cr4::de, (d1 & leaf1_edx::de) != 0);
  allow(cr4::pse, (d1 & leaf1_edx::pse) != 0);
  allow(cr4::pae, (d1 & leaf1_edx::pae) != 0);
  allow(cr4::pge, (d1 & leaf1_edx::pge) != 0);
  allow(cr4::pce, has(Feature::rdpmc));
  allow(cr4::osfxsr, (d1 & leaf1_edx::fxsr) != 0);
  allow(cr4::osxmmexcpt, (d1 & leaf1_edx::sse) != 0);
}

PagingModel CpuModel::paging() const {
  return {.physical_bits = (leaf1_edx_ & leaf1_edx::pae) != 0 ? 36u : 32u, .pse36 = (leaf1_edx_ & leaf1_edx::pse36) != 0, .pat = has_pat()};
}

u64 CpuModel::arch_capabilities() const {
  // Nothing speculates across guest privilege levels by way of guest mappings here: user and supervisor views are separate translations,
  // and what protects the host is the host's business. So say that no mitigation is needed; otherwise kernels would run page-table
  // isolation (two CR3 loads per system call), retpolines (which defeat return prediction) and buffer clearing for nothing.
  constexpr u64 rdcl_no = 1u << 0;             // no Meltdown: no page-table isolation
  constexpr u64 ibrs_all = 1u << 1;            // enhanced IBRS: IA32_SPEC_CTRL.IBRS set once instead of retpolines
  constexpr u64 skip_l1dfl_vmentry = 1u << 3;  // no L1 flush
  constexpr u64 ssb_no = 1u << 4;
  constexpr u64 mds_no = 1u << 5;
  constexpr u64 if_pschange_mc_no = 1u << 6;  // page size changes are safe (iTLB multihit)
  constexpr u64 taa_no = 1u << 8;
  constexpr u64 sbdr_ssdp_no = 1u << 13;  // the three kinds of MMIO stale data
  constexpr u64 fbsdp_no = 1u << 14;
  constexpr u64 psdp_no = 1u << 15;
  constexpr u64 bhi_no = 1u << 20;
  constexpr u64 pbrsb_no = 1u << 24;
  constexpr u64 gds_no = 1u << 26;
  constexpr u64 rfds_no = 1u << 27;
  constexpr u64 its_no = u64{1} << 62;
  return rdcl_no | ibrs_all | skip_l1dfl_vmentry | ssb_no | mds_no | if_pschange_mc_no | taa_no | sbdr_ssdp_no | fbsdp_no | psdp_no |
         bhi_no | pbrsb_no | gds_no | rfds_no | its_no;
}

CpuidResult CpuModel::cpuid(u32 leaf, u32 subleaf, u32 /*cr4*/) const {
  if (part_ == CpuName::core) return cpuid_core(leaf, subleaf);
  const CpuPart& part = cpu_part(part_);
  switch (std::min(leaf, part.max_leaf)) {
    case 0: return {part.max_leaf, vendor_ebx, vendor_ecx, vendor_edx};
    case 1: return {part.signature, part.leaf1_ebx, 0, leaf1_edx_};
    default: return {part.leaf2_eax, 0, 0, part.leaf2_edx};
  }
}

CpuidResult CpuModel::cpuid_core(u32 leaf, u32 subleaf) const {
  switch (leaf) {
    case 0: return {max_basic_leaf, vendor_ebx, vendor_ecx, vendor_edx};
    // CLFLUSH line: 8 quadwords; APIC id 0.
    case 1: return {cpu_part(part_).signature, 8u << 8, leaf1_ecx_, leaf1_edx_};
    case 2: return {0xB003FF01, 0, 0, 0};  // caches: leaf 4; data TLB 64 entries, code TLB 128
    case 4: return cache_parameters(subleaf);
    case 7: return subleaf == 0 ? CpuidResult{0, leaf7_ebx_, 0, leaf7_edx_} : CpuidResult{};
    // TSC = crystal * EBX / EAX. The ratio 1 lets the crystal carry the whole frequency exactly.
    case 0x15: return tsc_khz_ == 0 || tsc_khz_ > 4'294'967 ? CpuidResult{} : CpuidResult{1, 1, tsc_khz_ * 1000, 0};
    case 0x16: return {(tsc_khz_ + 500) / 1000, (tsc_khz_ + 500) / 1000, 100, 0};
    case 0x80000000: return {max_extended_leaf, 0, 0, 0};
    case 0x80000001: return {0, 0, 0, ext1_edx_};
    case 0x80000002: return brand_leaf(0);
    case 0x80000003: return brand_leaf(1);
    case 0x80000004: return brand_leaf(2);
    case 0x80000006: return {0, 0, 64 | (8u << 12) | (1024u << 16), 0};  // L2: 64-byte lines, 16-way (code 8), 1 MiB
    case 0x80000007: return {0, 0, 0, 1u << 8};                          // invariant TSC
    case 0x80000008: return {36 | (32u << 8), 0, 0, 0};                  // physical and linear address bits
    default: break;
  }
  const bool basic_hole = leaf <= max_basic_leaf;
  const bool extended_hole = leaf >= 0x80000000 && leaf <= max_extended_leaf;
  return basic_hole || extended_hole ? CpuidResult{} : cpuid_core(max_basic_leaf, subleaf);
}

}  // namespace ring3
