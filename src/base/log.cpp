#include "base/log.h"

#include "base/error.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ring3 {
namespace {

constexpr size_t flush_at = size_t{64} << 10;

}  // namespace

TraceLog::TraceLog(std::string_view list, const std::string& path) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    const std::string_view name = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    const auto known = std::find(trace_names.begin(), trace_names.end(), name);
    if (name == "all")
      wanted_ = ~0u;
    else if (known != trace_names.end())
      wanted_ |= 1u << (known - trace_names.begin());
    else
      throw UserError(fmt::format("--trace {}: no such trace; choose from all, {}", in_quotes(name), fmt::join(trace_names, ", ")));
  }
  if (wanted_ != 0 && !path.empty()) file_ = create_file(path, "--trace-file");
}

TraceLog::~TraceLog() { flush(); }

void TraceLog::write(Trace what, std::string_view text) {
  buffer_ += trace_names[static_cast<size_t>(what)];
  buffer_ += ": ";
  buffer_ += text;
  buffer_ += '\n';
  if (buffer_.size() >= flush_at) flush();
}

void TraceLog::flush() {
  if (buffer_.empty()) return;
  if (!write_all(file_.valid() ? file_.get() : STDERR_FILENO, buffer_)) {
    const std::string why = fmt::format("ring3: --trace-file: {}; tracing ends\n", std::strerror(errno));
    static_cast<void>(write_all(STDERR_FILENO, why));
    wanted_ = 0;
  }
  buffer_.clear();
}

}  // namespace ring3
