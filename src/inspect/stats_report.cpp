#include "inspect/stats_report.h"

#include "base/size.h"

#include <fmt/format.h>
#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

namespace ring3 {
namespace {

using Out = std::back_insert_iterator<std::string>;
using Named = std::pair<std::string, u64>;

// Rows of a list that are worth a line of the screen.
constexpr size_t listed = 24;
constexpr size_t per_line = 6;

double percent(u64 part, u64 whole) { return whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole); }

// The largest first, several to a line.
void put_list(Out out, std::string_view title, std::vector<Named> items) {
  std::erase_if(items, [](const Named& item) { return item.second == 0; });
  if (items.empty()) return;
  std::stable_sort(items.begin(), items.end(), [](const Named& a, const Named& b) { return a.second > b.second; });
  fmt::format_to(out, "{}\n", title);
  for (size_t i = 0; i < std::min(items.size(), listed); ++i) {
    fmt::format_to(out, "{}{} {}", i % per_line == 0 ? "  " : ", ", items[i].first, items[i].second);
    if (i % per_line == per_line - 1 || i + 1 == std::min(items.size(), listed)) fmt::format_to(out, "\n");
  }
  if (items.size() > listed) fmt::format_to(out, "  and {} more\n", items.size() - listed);
}

void put_cache(Out out, const EngineStats& s) {
  if (s.cache_size == 0) return;
  fmt::format_to(out, "blocks               {} translated, {} moved, {} invalidated, cache emptied {} times\n", s.blocks, s.blocks_moved,
                 s.blocks_invalidated, s.cache_flushes);
  fmt::format_to(out, "cache                {} of {} used\n", format_size(s.cache_used), format_size(s.cache_size));
  const double expansion = s.guest_bytes == 0 ? 0.0 : static_cast<double>(s.host_bytes) / static_cast<double>(s.guest_bytes);
  fmt::format_to(out, "translated           {} guest instructions, {} to {}, expansion {:.2f}\n", s.guest_instructions,
                 format_size(s.guest_bytes), format_size(s.host_bytes), expansion);
  fmt::format_to(out, "jumps                {} direct ones chained, {} indirect look-ups\n", s.chained_jumps, s.indirect_lookups);
}

void put_time(Out out, const EngineStats& s, double seconds) {
  const u64 measured = s.time_in_cache + s.time_translating + s.time_in_runtime;
  fmt::format_to(out, "time                 {:.2f} s", seconds);
  if (measured != 0) {
    const auto in_seconds = [](u64 ns) { return static_cast<double>(ns) / 1e9; };
    fmt::format_to(out, ": {:.2f} in the cache, {:.2f} translating, {:.2f} in the runtime", in_seconds(s.time_in_cache),
                   in_seconds(s.time_translating), in_seconds(s.time_in_runtime));
  }
  fmt::format_to(out, "\n");
}

void put_unknown(Out out, std::string_view title, const BusMap::Unknown& unknown) {
  std::vector<Named> items;
  for (const auto& [address, count] : unknown.reads) items.emplace_back(fmt::format("r {:#x}:", address), count);
  for (const auto& [address, count] : unknown.writes) items.emplace_back(fmt::format("w {:#x}:", address), count);
  if (unknown.unlisted != 0) items.emplace_back("others", unknown.unlisted);
  put_list(out, title, std::move(items));
}

}  // namespace

std::string stats_report(const EngineStats& s, const BoardCounts& board, double seconds) {
  std::string text;
  const Out out = std::back_inserter(text);
  const u64 interpreted = s.interpreted();
  const u64 executed = s.emitted + interpreted;
  fmt::format_to(out, "--- ring3 statistics ---\n");
  fmt::format_to(out, "guest instructions   {} executed: {} emitted ({:.3f} %), {} interpreted\n", executed, s.emitted,
                 percent(s.emitted, executed), interpreted);
  put_time(out, s, seconds);
  put_cache(out, s);

  std::vector<Named> exits;
  for (const ExitCount& e : s.exits) exits.emplace_back(e.reason, e.count);
  put_list(out, "exits to the runtime by reason", std::move(exits));

  std::vector<Named> memory;
  for (const ExitCount& e : s.memory) memory.emplace_back(e.reason, e.count);
  put_list(out, "memory tables", std::move(memory));

  std::vector<Named> vectors;
  for (size_t v = 0; v < s.delivered.size(); ++v) vectors.emplace_back(fmt::format("{:#04x}:", v), s.delivered[v]);
  put_list(out, "exceptions and interrupts by vector", std::move(vectors));

  std::vector<Named> rows;
  for (unsigned row = 0; row <= row_count; ++row) rows.emplace_back(row_name(static_cast<Row>(row)), s.interpreted_by_row[row]);
  put_list(out, "interpreted by row", std::move(rows));

  put_unknown(out, "accesses to ports where nothing is", board.ports);
  put_unknown(out, "accesses to memory where nothing is", board.memory);
  if (board.debug_bytes_lost != 0) fmt::format_to(out, "port E9h: {} bytes lost, stdout was not read\n", board.debug_bytes_lost);
  return text;
}

}  // namespace ring3
