// Which tests prove the rows that the host's CPU does not judge.
#pragma once

#include "frontend/rows.h"

#include <string>

#include <array>
#include <vector>

namespace ring3::isa {

using Proofs = std::array<std::vector<std::string>, row_count>;

// True for rows whose every case runs on the host's CPU as well (tests/hostcpu).
[[nodiscard]] bool judged_by_host(Row row);
// Reads `row row...: test test...` lines. Throws UserError for unknown rows, and for rows that have no proof at all.
[[nodiscard]] Proofs read_proofs(const std::string& path);

}  // namespace ring3::isa
