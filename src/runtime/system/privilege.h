// Checks at the head of privileged rows.
#pragma once

#include "runtime/system/descriptor.h"

namespace ring3 {

// Protected mode outside v8086: the only mode whose segment and gate rules this version has.
[[nodiscard]] inline bool in_protected_mode(const CpuState& s) { return s.protected_mode() && !s.v8086(); }

// CPL 0, or #GP(0).
[[nodiscard]] inline bool require_cpl0(Vcpu& v) { return v.s.cpl == 0 || refuse(v, Vector::general_protection, 0); }

}  // namespace ring3
