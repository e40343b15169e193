// The listing behind --dump-cache: every valid block with guest and host code side by side.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace ring3 {

struct Block;
class CodeCache;
class GuestRam;

// Hands the text to `out` in pieces: totals, then the blocks, those executed most often first, equal ones by guest linear address.
// Guest bytes come from RAM as it is now. `out` returns false to stop (disk full).
void write_cache_listing(const CodeCache& cache, const GuestRam& ram, const std::function<bool(std::string_view)>& out);

// One block in the same form.
[[nodiscard]] std::string block_listing(const Block& block, const CodeCache& cache, const GuestRam& ram);

}  // namespace ring3
