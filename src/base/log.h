// Traces: lines about what happens inside, written to a file when the user asked for them (--trace LIST --trace-file FILE).
#pragma once

#include "base/file.h"
#include "base/types.h"

#include <array>
#include <string>
#include <string_view>

namespace ring3 {

enum class Trace : u8 {
  io,          // port reads and writes
  mmio,        // reads and writes of device memory
  irq,         // interrupts acknowledged
  faults,      // exceptions delivered to the guest
  blocks,      // translations installed
  exits,       // returns from emitted code to the runtime, by reason
  invalidate,  // translations killed
  count
};
inline constexpr std::array<std::string_view, static_cast<size_t>(Trace::count)> trace_names{"io",     "mmio",  "irq",       "faults",
                                                                                             "blocks", "exits", "invalidate"};

class TraceLog {
 public:
  TraceLog() = default;  // everything off
  // `list`: names separated by commas, or "all". Lines go to `path`, or to stderr if it is empty. Throws UserError: an unknown name, or a
  // file that cannot be written.
  TraceLog(std::string_view list, const std::string& path);
  ~TraceLog();
  TraceLog(TraceLog&& other) noexcept = default;
  TraceLog& operator=(TraceLog&& other) noexcept = default;

  // Ask before formatting: traces that are off cost one test.
  [[nodiscard]] bool on(Trace what) const { return (wanted_ & (1u << static_cast<unsigned>(what))) != 0; }
  // Appends "<name>: <text>\n". A write error (disk full) ends tracing with one line on stderr; the run goes on.
  void write(Trace what, std::string_view text);
  void flush();

 private:
  u32 wanted_ = 0;
  Fd file_;
  std::string buffer_;
};

}  // namespace ring3
