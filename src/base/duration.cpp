#include "base/duration.h"

#include "base/error.h"
#include "base/file.h"

#include <fmt/format.h>
#include <charconv>
#include <cmath>
#include <ctime>

namespace ring3 {

u64 parse_duration(std::string_view text, std::string_view option) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  const std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  const double seconds = unit.empty() || unit == "s" ? 1 : unit == "ms" ? 1e-3 : unit == "m" ? 60 : unit == "h" ? 3600 : 0;
  constexpr double limit = 1000.0 * 3600.0;
  const double value = number * seconds;
  if (error != std::errc{} || !std::isfinite(value) || value < 1e-9 || value > limit)
    throw UserError(fmt::format("{} {}: not a duration; write a number and a unit, like 60s, 2m or 500ms", option, in_quotes(text)));
  return static_cast<u64>(value * 1e9);
}

u64 monotonic_now() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000u + static_cast<u64>(t.tv_nsec);
}

}  // namespace ring3
