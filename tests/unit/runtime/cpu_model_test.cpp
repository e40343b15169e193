// The CPU models that users can choose, against what those parts' documents say (SDM vol. 2, CPUID; vol. 3, 2.5; AP-485).
#include "runtime/system/cpu_model.h"

#include "guest/registers.h"
#include "runtime/memory/memory.h"

#include <gtest/gtest.h>

#include <array>
#include <initializer_list>
#include <string>

namespace ring3 {
namespace {

constexpr std::array all{CpuName::i486, CpuName::pentium, CpuName::pentium2, CpuName::pentium3, CpuName::core};

TEST(CpuModelTest, Names) {
  EXPECT_EQ(find_cpu("486"), CpuName::i486);
  EXPECT_EQ(find_cpu("pentium"), CpuName::pentium);
  EXPECT_EQ(find_cpu("pentium2"), CpuName::pentium2);
  EXPECT_EQ(find_cpu("pentium3"), CpuName::pentium3);
  EXPECT_EQ(find_cpu("core"), CpuName::core);
  EXPECT_EQ(find_cpu("list"), std::nullopt);
  EXPECT_EQ(find_cpu(""), std::nullopt);
  EXPECT_EQ(cpu_names(), "486, pentium, pentium2, pentium3, core");
  EXPECT_NE(cpu_list().find("4/3/5"), std::string::npos);
  EXPECT_NE(cpu_list().find("6/143/8"), std::string::npos);
}

TEST(CpuModelTest, SignaturesAndLeaves) {
  const auto leaf = [](CpuName name, u32 number) { return CpuModel::make(name).cpuid(number, 0, 0); };
  for (const CpuName name : all) {
    const CpuidResult zero = leaf(name, 0);
    EXPECT_EQ(zero.ebx, 0x756E6547u);
    EXPECT_EQ(zero.edx, 0x49656E69u);
    EXPECT_EQ(zero.ecx, 0x6C65746Eu);
    // A leaf above the highest basic one reads as that one.
    const CpuidResult last = leaf(name, zero.eax);
    const CpuidResult beyond = leaf(name, 0x40000000);
    EXPECT_EQ(beyond.eax, last.eax);
    EXPECT_EQ(beyond.edx, last.edx);
  }
  EXPECT_EQ(leaf(CpuName::i486, 0).eax, 1u);
  EXPECT_EQ(leaf(CpuName::pentium, 0).eax, 1u);
  EXPECT_EQ(leaf(CpuName::pentium2, 0).eax, 2u);
  EXPECT_EQ(leaf(CpuName::pentium3, 0).eax, 2u);
  // Family, model, stepping.
  EXPECT_EQ(leaf(CpuName::i486, 1).eax, 0x435u);
  EXPECT_EQ(leaf(CpuName::pentium, 1).eax, 0x52Cu);
  EXPECT_EQ(leaf(CpuName::pentium2, 1).eax, 0x652u);
  EXPECT_EQ(leaf(CpuName::pentium3, 1).eax, 0x68Au);
  EXPECT_EQ(leaf(CpuName::core, 1).eax, 0x806F8u);
  EXPECT_EQ(leaf(CpuName::pentium3, 1).ebx, 2u) << "brand index: Pentium III";
  EXPECT_EQ(leaf(CpuName::pentium2, 2).edx, 0x0C040843u) << "512 KiB second level";
  EXPECT_EQ(leaf(CpuName::pentium3, 2).edx, 0x0C040882u) << "256 KiB second level";
  EXPECT_EQ(leaf(CpuName::pentium3, 2).eax & 0xFF, 1u) << "asked once";
  // Extended leaves came with the Pentium 4.
  for (const CpuName name : {CpuName::i486, CpuName::pentium, CpuName::pentium2, CpuName::pentium3}) {
    EXPECT_LT(leaf(name, 0x80000000).eax, 0x80000000u);
  }
}

TEST(CpuModelTest, FlagsAreThoseOfThePartOrFewer) {
  struct Known {
    CpuName name;
    u32 always;  // announced
    u32 part;    // all that the part announces
  };
  constexpr u32 left_out = 1u << 1 | 1u << 7 | 1u << 9 | 1u << 12 | 1u << 14;  // VME, MCE, APIC, MTRR, MCA
  for (const Known& k : {Known{CpuName::i486, 0x1, 0x1}, Known{CpuName::pentium, 0x139, 0x3BF},
                         Known{CpuName::pentium2, 0x0183A979, 0x0183FBFF}, Known{CpuName::pentium3, 0x0383A979, 0x0387FBFF}}) {
    const CpuidResult one = CpuModel::make(k.name).cpuid(1, 0, 0);
    EXPECT_EQ(one.edx & k.always, k.always) << std::hex << one.edx;
    EXPECT_EQ(one.edx & ~k.part, 0u) << std::hex << one.edx;
    EXPECT_EQ(one.edx & left_out, 0u) << std::hex << one.edx;
    EXPECT_EQ(one.ecx, 0u);
  }
}

TEST(CpuModelTest, FeaturesBeginWithTheirModel) {
  struct Begin {
    Feature feature;
    CpuName first;
  };
  constexpr std::array begins{
      Begin{Feature::base, CpuName::i486},     Begin{Feature::i486, CpuName::i486},    Begin{Feature::x87, CpuName::i486},
      Begin{Feature::cr4, CpuName::pentium},   Begin{Feature::tsc, CpuName::pentium},  Begin{Feature::msr, CpuName::pentium},
      Begin{Feature::cx8, CpuName::pentium},   Begin{Feature::p6, CpuName::pentium2},  Begin{Feature::rdpmc, CpuName::pentium2},
      Begin{Feature::cmov, CpuName::pentium2}, Begin{Feature::sep, CpuName::pentium2}, Begin{Feature::cmov_x87, CpuName::pentium2},
      Begin{Feature::mmx, CpuName::pentium2},  Begin{Feature::sse, CpuName::pentium3}, Begin{Feature::fxsr, CpuName::pentium2},
      Begin{Feature::sse2, CpuName::core},     Begin{Feature::clflush, CpuName::core}, Begin{Feature::prefetchw, CpuName::core}};
  for (const CpuName name : all) {
    const CpuModel model = CpuModel::make(name);
    for (const Begin& b : begins) {
      EXPECT_EQ(model.has(b.feature), name >= b.first) << static_cast<int>(name) << ' ' << static_cast<int>(b.feature);
    }
    EXPECT_FALSE(model.has(Feature::monitor));
    for (const Feature f : {Feature::sse3, Feature::ssse3, Feature::sse41, Feature::sse42, Feature::popcnt, Feature::movbe, Feature::aes,
                            Feature::pclmulqdq, Feature::rdtscp, Feature::rdrand, Feature::rdseed}) {
      if (name != CpuName::core) {
        EXPECT_FALSE(model.has(f)) << static_cast<int>(f);
      }
    }
  }
}

TEST(CpuModelTest, ControlBitsModelSpecificRegistersAndPaging) {
  constexpr u32 p6 = cr4::tsd | cr4::pse | cr4::pae | cr4::pge | cr4::pce | cr4::osfxsr;
  constexpr u32 debug_extensions = cr4::de;
  const auto cr4_of = [](CpuName name) { return CpuModel::make(name).cr4_allowed() & ~debug_extensions; };
  EXPECT_EQ(cr4_of(CpuName::i486), 0u);
  EXPECT_EQ(cr4_of(CpuName::pentium), cr4::tsd | cr4::pse);
  EXPECT_EQ(cr4_of(CpuName::pentium2), p6);
  EXPECT_EQ(cr4_of(CpuName::pentium3), p6 | cr4::osxmmexcpt);
  for (const CpuName name : all) {
    const CpuModel model = CpuModel::make(name);
    const bool core = name == CpuName::core;
    EXPECT_EQ((model.cr4_allowed() & cr4::de) != 0, (model.cpuid(1, 0, 0).edx >> 2 & 1) != 0);
    EXPECT_EQ(model.has_nx(), core);
    EXPECT_EQ(model.has_speculation_control(), core);
    EXPECT_EQ(model.has_misc_enable(), core);
    EXPECT_EQ(model.writes_whole_tsc(), core);
    EXPECT_EQ(model.has_pat(), name >= CpuName::pentium2);
    EXPECT_EQ(model.mxcsr_mask(), core ? 0xFFFFu : 0xFFBFu);
    EXPECT_EQ(model.stored_mxcsr_mask(), core ? 0xFFFFu : 0u);
    const PagingModel paging = model.paging();
    EXPECT_EQ(paging.physical_bits, name >= CpuName::pentium2 ? 36u : 32u);
    EXPECT_EQ(paging.pat, model.has_pat());
    EXPECT_EQ(paging.pse36, (model.cpuid(1, 0, 0).edx >> 17 & 1) != 0);
  }
}

// Every register of every leaf of the default model (SDM vol. 2, CPUID): what is reserved is 0, what describes the same thing agrees.
TEST(CpuModelTest, LeavesOfTheDefaultModelInFull) {
  const CpuModel model = CpuModel::make(~0u, ~0u, ~0u, ~0u, 2'000'300);
  const auto leaf = [&](u32 number, u32 subleaf = 0) { return model.cpuid(number, subleaf, 0); };
  const auto expect = [&](u32 number, const CpuidResult& want) {
    const CpuidResult got = leaf(number);
    EXPECT_EQ(got.eax, want.eax) << std::hex << number;
    EXPECT_EQ(got.ebx, want.ebx) << std::hex << number;
    EXPECT_EQ(got.ecx, want.ecx) << std::hex << number;
    EXPECT_EQ(got.edx, want.edx) << std::hex << number;
  };
  expect(0, {0x16, 0x756E6547, 0x6C65746E, 0x49656E69});
  EXPECT_EQ(leaf(1).ebx, 0x00000800u) << "no brand index, lines of 8 quadwords, APIC 0";
  expect(2, {0xB003FF01, 0, 0, 0});
  for (const u32 unused : {3u, 5u, 6u, 8u, 0xAu, 0xDu, 0x14u, 0x80000005u}) expect(unused, {});
  EXPECT_EQ(leaf(7).eax, 0u) << "no further subleaf";
  EXPECT_EQ(leaf(7).ecx, 0u);
  EXPECT_EQ(leaf(7).edx, 1u << 26 | 1u << 29) << "IBRS and IBPB; IA32_ARCH_CAPABILITIES";
  expect(0x15, {1, 1, 2'000'300'000, 0});
  expect(0x16, {2000, 2000, 100, 0});
  expect(0x80000000, {0x80000008, 0, 0, 0});
  EXPECT_EQ(leaf(0x80000001).eax, 0u);
  EXPECT_EQ(leaf(0x80000001).ebx, 0u);
  EXPECT_EQ(leaf(0x80000001).ecx, 0u);
  expect(0x80000007, {0, 0, 0, 0x100});
  expect(0x80000008, {36 | 32 << 8, 0, 0, 0});

  std::string brand;
  for (const u32 number : {0x80000002u, 0x80000003u, 0x80000004u}) {
    const CpuidResult r = leaf(number);
    for (const u32 word : {r.eax, r.ebx, r.ecx, r.edx}) {
      for (unsigned shift = 0; shift < 32; shift += 8) brand += static_cast<char>(word >> shift);
    }
  }
  EXPECT_EQ(brand, std::string("ring3 virtual CPU") + std::string(48 - 17, '\0'));

  struct Cache {
    u32 type, level, bytes;
  };
  constexpr std::array caches{Cache{1, 1, 32 << 10}, Cache{2, 1, 32 << 10}, Cache{3, 2, 1 << 20}};
  for (u32 i = 0; i < caches.size(); ++i) {
    const CpuidResult r = leaf(4, i);
    EXPECT_EQ(r.eax, caches.at(i).type | caches.at(i).level << 5 | 1u << 8) << "self-initializing, one core, one thread";
    const u32 line = (r.ebx & 0xFFF) + 1;
    const u32 partitions = (r.ebx >> 12 & 0x3FF) + 1;
    const u32 ways = (r.ebx >> 22) + 1;
    EXPECT_EQ(line, 64u);
    EXPECT_EQ(ways * partitions * line * (r.ecx + 1), caches.at(i).bytes);
    EXPECT_EQ(r.edx, 0u);
  }
  EXPECT_EQ(leaf(4, 3).eax, 0u) << "no more caches";
  const CpuidResult second_level = leaf(0x80000006);
  EXPECT_EQ(second_level.ecx, 1024u << 16 | 8u << 12 | 64u) << "1 MiB, 16 ways (code 8), 64-byte lines";
  EXPECT_EQ((leaf(4, 2).ebx >> 22) + 1, 16u);
  EXPECT_EQ(second_level.eax | second_level.ebx | second_level.edx, 0u);
}

}  // namespace
}  // namespace ring3
