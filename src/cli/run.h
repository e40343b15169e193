// One run from options to exit status.
#pragma once

#include "cli/options.h"

namespace ring3 {

// The exit status, or the negative number of the signal by which the process is to die. Throws UserError.
[[nodiscard]] int run_machine(const Options& options);

}  // namespace ring3
