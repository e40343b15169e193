#include "base/size.h"

#include "base/error.h"
#include "base/file.h"

#include <fmt/format.h>
#include <charconv>

namespace ring3 {
namespace {

// log2 of the unit's bytes, or -1.
int unit_shift(std::string_view unit) {
  if (unit.empty() || unit == "b" || unit == "B") return 0;
  const char c = static_cast<char>(unit.front() & ~0x20);
  const std::string_view rest = unit.substr(1);
  if (!rest.empty() && rest != "B" && rest != "b" && rest != "iB") return -1;
  return c == 'K' ? 10 : c == 'M' ? 20 : c == 'G' ? 30 : -1;
}

}  // namespace

u64 parse_size(std::string_view text, std::string_view option) {
  u64 number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const int shift = unit_shift(text.substr(static_cast<size_t>(end - text.data())));
  if (error != std::errc{} || shift < 0 || number > (~u64{0} >> shift))
    throw UserError(fmt::format("{} {}: not a size; write a number and a unit, like 256M or 1G", option, in_quotes(text)));
  return number << shift;
}

std::string format_size(u64 bytes) {
  constexpr std::string_view names[] = {"KiB", "MiB", "GiB"};
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  unsigned unit = 0;
  while (unit < 2 && bytes >> (10 * (unit + 2)) != 0) ++unit;
  const u64 scale = u64{1} << (10 * (unit + 1));
  if (bytes % scale == 0) return fmt::format("{} {}", bytes / scale, names[unit]);
  return fmt::format("{:.1f} {}", static_cast<double>(bytes) / static_cast<double>(scale), names[unit]);
}

}  // namespace ring3
