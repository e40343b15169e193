// The screen behind --stats.
#pragma once

#include "devices/bus_map.h"
#include "runtime/stats.h"

#include <string>

namespace ring3 {

struct BoardCounts {
  const BusMap::Unknown& ports;
  const BusMap::Unknown& memory;
  u64 debug_bytes_lost = 0;
};

// At most some 40 lines: lists are cut after their largest entries. `seconds` is the run's wall-clock time.
[[nodiscard]] std::string stats_report(const EngineStats& stats, const BoardCounts& board, double seconds);

}  // namespace ring3
