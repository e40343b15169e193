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
  // machine on every host; flags that depend on the host: see docs/architecture.md. Executes the host's CPUID (slow inside a virtual
  // machine) and measures the host's TSC for about 4 ms.
  static CpuModel make_default();
  // The same with given feature flags (raw host leaves 1 and 7, both restricted to what ring3 supports) and TSC frequency in kHz (0:
  // unknown, the guest calibrates by itself). For tests and for machines that must not depend on the host.
  static CpuModel make(u32 host_leaf1_ecx, u32 host_leaf1_edx, u32 host_leaf7_ebx, u32 host_ext1_edx, u32 tsc_khz);

  // SDM vol. 2, CPUID: leaves above the highest basic one show the data of the highest basic one. `cr4` would show in OSXSAVE, which is
  // never announced.
  [[nodiscard]] CpuidResult cpuid(u32 leaf, u32 subleaf, u32 cr4) const;
  [[nodiscard]] bool has(Feature feature) const { return (features_ & (u64{1} << static_cast<unsigned>(feature))) != 0; }
  // CR4 bits that may be set; setting another one is #GP(0).
  [[nodiscard]] u32 cr4_allowed() const { return cr4_allowed_; }
  // CPUID.80000001H:EDX.NX: EFER.NXE may be set.
  [[nodiscard]] bool has_nx() const { return (ext1_edx_ & (1u << 20)) != 0; }
  // IA32_ARCH_CAPABILITIES.
  [[nodiscard]] u64 arch_capabilities() const;
  // kHz, 0 if not known.
  [[nodiscard]] u32 tsc_khz() const { return tsc_khz_; }

 private:
  u64 features_ = 0;
  u32 leaf1_ecx_ = 0;
  u32 leaf1_edx_ = 0;
  u32 leaf7_ebx_ = 0;
  u32 ext1_edx_ = 0;
  u32 cr4_allowed_ = 0;
  u32 tsc_khz_ = 0;
};

// The host's time-stamp counter now; the guest's is this plus CpuState::tsc_offset.
[[nodiscard]] u64 read_tsc();

}  // namespace ring3
