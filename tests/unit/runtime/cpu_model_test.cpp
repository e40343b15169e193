// The CPU models that users can choose, against what those parts' documents say (SDM vol. 2, CPUID; vol. 3, 2.5; AP-485).
#include "runtime/system/cpu_model.h"

#include "guest/registers.h"
#include "runtime/memory/memory.h"

#include <gtest/gtest.h>

#include <array>
#include <initializer_list>

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

}  // namespace
}  // namespace ring3
