// Sizes in bytes as people write them: 256M.
#pragma once

#include "base/types.h"

#include <string>
#include <string_view>

namespace ring3 {

// "256M", "1G", "640K", "4096" (bytes); K, M and G are powers of 1024, either case, an optional B or iB after them.
// Throws UserError naming `option` when the text is not a size or does not fit 64 bits.
[[nodiscard]] u64 parse_size(std::string_view text, std::string_view option);

// The shortest exact form, or one decimal: "256 MiB", "1.5 MiB", "17 bytes".
[[nodiscard]] std::string format_size(u64 bytes);

}  // namespace ring3
