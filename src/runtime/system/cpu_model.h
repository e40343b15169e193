// What the guest's CPU claims to be: CPUID leaves, features, MSRs it has.
#pragma once

#include "base/types.h"
#include "frontend/rows.h"

#include <array>
#include <string>

namespace ring3 {

struct CpuidResult {
  u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
};

class CpuModel {
 public:
  // The default model: everything that is supported, limited to what the host has. Family/model/stepping fixed, so guests see the same
  // machine on every host; flags that depend on the host: see docs/architecture.md.
  static CpuModel make_default();

  [[nodiscard]] CpuidResult cpuid(u32 leaf, u32 subleaf, u32 cr4) const;
  [[nodiscard]] bool has(Feature feature) const { return (features_ & (u64{1} << static_cast<unsigned>(feature))) != 0; }

 private:
  u64 features_ = 0;
};

// Value of the guest's time-stamp counter now.
[[nodiscard]] u64 read_tsc();

}  // namespace ring3
