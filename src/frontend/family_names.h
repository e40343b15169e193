// The families of the instruction table as users write them (--interpret).
#pragma once

#include "frontend/rows.h"

#include <array>
#include <string_view>

namespace ring3 {

// In the order of `Family`.
inline constexpr std::array<std::string_view, 16> family_names{"alu", "shift", "muldiv",  "bit",     "mov",    "stack", "control", "string",
                                                               "io",  "flag",  "decimal", "segment", "system", "x87",   "mmx",     "sse"};
static_assert(static_cast<std::size_t>(Family::sse) + 1 == family_names.size());
static_assert(family_names[static_cast<std::size_t>(Family::decimal)] == "decimal");

}  // namespace ring3
