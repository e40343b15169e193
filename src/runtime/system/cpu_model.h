// What the guest's CPU claims to be: CPUID leaves, features, MSRs it has.
#pragma once

#include "base/types.h"
#include "frontend/rows.h"

#include <optional>
#include <string>
#include <string_view>

namespace ring3 {

struct PagingModel;

struct CpuidResult {
  u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// The models that can be chosen: four parts of their time, without the flags that ring3 does not implement, and all that it does.
enum class CpuName : u8 { i486, pentium, pentium2, pentium3, core };

// As users write it (--cpu); empty if there is no such model.
[[nodiscard]] std::optional<CpuName> find_cpu(std::string_view name);
// Their names, separated by ", ".
[[nodiscard]] std::string cpu_names();
// A table of all models for people to read: name, part, family/model/stepping, CPUID flags. The last model's flags are those on this host.
[[nodiscard]] std::string cpu_list();

class CpuModel {
 public:
  [[nodiscard]] static CpuModel make(CpuName name);
  // CpuName::core: everything that is supported, limited to what the host has. Family/model/stepping fixed, so guests see the same
  // machine on every host; flags that depend on the host: see docs/architecture.md. Executes the host's CPUID (slow inside a virtual
  // machine) and measures the host's TSC for about 4 ms.
  [[nodiscard]] static CpuModel make_default();
  // The same with given feature flags (raw host leaves 1 and 7, both restricted to what ring3 supports) and TSC frequency in kHz (0:
  // unknown, the guest calibrates by itself). For tests and for machines that must not depend on the host.
  [[nodiscard]] static CpuModel make(u32 host_leaf1_ecx, u32 host_leaf1_edx, u32 host_leaf7_ebx, u32 host_ext1_edx, u32 tsc_khz);

  // SDM vol. 2, CPUID: leaves above the highest basic one show the data of the highest basic one. `cr4` would show in OSXSAVE, which is
  // never announced.
  [[nodiscard]] CpuidResult cpuid(u32 leaf, u32 subleaf, u32 cr4) const;
  [[nodiscard]] bool has(Feature feature) const { return (features_ & (u64{1} << static_cast<unsigned>(feature))) != 0; }
  // CR4 bits that may be set; setting another one is #GP(0). Without Feature::cr4 the register itself is #UD.
  [[nodiscard]] u32 cr4_allowed() const { return cr4_allowed_; }
  // CPUID.80000001H:EDX.NX: EFER exists, and EFER.NXE may be set.
  [[nodiscard]] bool has_nx() const { return (ext1_edx_ & (1u << 20)) != 0; }
  // CPUID.01H:EDX.PAT: IA32_PAT exists.
  [[nodiscard]] bool has_pat() const { return (leaf1_edx_ & (1u << 16)) != 0; }
  // CPUID.07H:EDX: IA32_SPEC_CTRL, IA32_PRED_CMD and IA32_ARCH_CAPABILITIES exist.
  [[nodiscard]] bool has_speculation_control() const { return leaf7_edx_ != 0; }
  // IA32_MISC_ENABLE exists (SDM vol. 4: from family 0Fh and family 6 model 0Dh on).
  [[nodiscard]] bool has_misc_enable() const { return part_ == CpuName::core; }
  // WRMSR sets all 64 bits of the time-stamp counter, not the low half with the rest cleared (SDM vol. 3, 18.17.3).
  [[nodiscard]] bool writes_whole_tsc() const { return part_ == CpuName::core; }
  // IA32_ARCH_CAPABILITIES.
  [[nodiscard]] u64 arch_capabilities() const;
  // MXCSR bits that exist, and what FXSAVE stores as MXCSR_MASK: 0 stands for FFBFh, without DAZ (SDM vol. 1, 11.6.6).
  [[nodiscard]] u32 mxcsr_mask() const { return part_ == CpuName::core ? 0xFFFF : 0xFFBF; }
  [[nodiscard]] u32 stored_mxcsr_mask() const { return part_ == CpuName::core ? 0xFFFF : 0; }
  // What it says about page tables.
  [[nodiscard]] PagingModel paging() const;
  // kHz, 0 if not known.
  [[nodiscard]] u32 tsc_khz() const { return tsc_khz_; }

 private:
  explicit CpuModel(CpuName part) : part_(part) {}
  void derive();  // features and CR4 bits from the CPUID flags
  [[nodiscard]] CpuidResult cpuid_core(u32 leaf, u32 subleaf) const;

  CpuName part_;
  u64 features_ = 0;
  u32 leaf1_ecx_ = 0;
  u32 leaf1_edx_ = 0;
  u32 leaf7_ebx_ = 0;
  u32 leaf7_edx_ = 0;
  u32 ext1_edx_ = 0;
  u32 cr4_allowed_ = 0;
  u32 tsc_khz_ = 0;
};

// The host's time-stamp counter now; the guest's is this plus CpuState::tsc_offset.
[[nodiscard]] u64 read_tsc();

}  // namespace ring3
