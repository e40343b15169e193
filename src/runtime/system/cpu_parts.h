// The CPU models as data: which part each one stands for, and what that part's CPUID says.
#pragma once

#include "base/types.h"
#include "runtime/system/cpu_model.h"

#include <string_view>

namespace ring3 {

// CPUID.01H flags (SDM vol. 2, CPUID, tables 3-10 and 3-11).
namespace cpuid1_edx {
inline constexpr u32 fpu = 1u << 0, de = 1u << 2, pse = 1u << 3, tsc = 1u << 4, msr = 1u << 5, pae = 1u << 6, cx8 = 1u << 8, sep = 1u << 11,
                     pge = 1u << 13, cmov = 1u << 15, pat = 1u << 16, pse36 = 1u << 17, clfsh = 1u << 19, mmx = 1u << 23, fxsr = 1u << 24,
                     sse = 1u << 25, sse2 = 1u << 26;
}  // namespace cpuid1_edx
namespace cpuid1_ecx {
inline constexpr u32 sse3 = 1u << 0, pclmulqdq = 1u << 1, ssse3 = 1u << 9, sse41 = 1u << 19, sse42 = 1u << 20, movbe = 1u << 22,
                     popcnt = 1u << 23, aes = 1u << 25, rdrand = 1u << 30;
}  // namespace cpuid1_ecx

struct CpuPart {
  std::string_view name;  // on the command line
  std::string_view part;
  u32 signature;  // CPUID.01H:EAX: stepping, model, family
  u32 max_leaf;   // highest basic one
  u32 leaf1_ebx;  // brand index
  u32 leaf1_edx;  // all that the part announces, also what ring3 leaves out
  u32 leaf2_eax;  // cache and TLB descriptors (SDM vol. 2, CPUID, table 3-12)
  u32 leaf2_edx;
};

// For CpuName::core only names and signature mean something; the rest depends on the host.
[[nodiscard]] const CpuPart& cpu_part(CpuName name);

}  // namespace ring3
