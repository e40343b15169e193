// Durations as people write them: 60s, 2m, 500ms.
#pragma once

#include "base/types.h"

#include <string_view>

namespace ring3 {

// Nanoseconds. A plain number means seconds; units are ms, s, m and h; fractions are allowed ("1.5s"). Throws UserError naming `option`
// when the text is not a duration, not positive, or above 1,000 hours.
[[nodiscard]] u64 parse_duration(std::string_view text, std::string_view option);

// Host monotonic time in nanoseconds.
[[nodiscard]] u64 monotonic_now();

}  // namespace ring3
