// What the host must offer before anything starts (docs/architecture.md, "What the host must offer").
#pragma once

#include "base/types.h"

#include <string>

namespace ring3 {

struct HostFacts {
  bool bmi2 = false;
  bool fsgsbase = false;  // usable from user mode: CPU and kernel
  bool memfd = false;
  unsigned kernel_major = 0;
  unsigned kernel_minor = 0;
};

[[nodiscard]] HostFacts read_host_facts();

// Throws UserError naming what is missing and how to mend it.
void check_host(const HostFacts& facts);

}  // namespace ring3
