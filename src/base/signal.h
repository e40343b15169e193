// Signals by which the user ends or suspends the program, as events to poll. No handler is installed: the signals are blocked and read
// from a signalfd, so nothing asynchronous happens and no global is needed. Fault signals (SIGSEGV, SIGBUS, SIGFPE, SIGILL) and real-time
// signals are not touched.
#pragma once

#include "base/file.h"

#include <csignal>
#include <optional>

namespace ring3 {

// Blocks SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGTSTP in the calling thread (threads made later inherit it) for its lifetime, and ignores
// SIGPIPE: a closed stdout shows as EPIPE. Signals that the parent process ignores (nohup) stay ignored.
class TerminationSignals {
 public:
  TerminationSignals();
  ~TerminationSignals();
  TerminationSignals(const TerminationSignals&) = delete;
  TerminationSignals& operator=(const TerminationSignals&) = delete;

  // Readable while a signal waits.
  [[nodiscard]] int fd() const { return fd_.get(); }
  // The next signal's number; empty: none waits. Does not block.
  [[nodiscard]] std::optional<int> next();

 private:
  sigset_t old_mask_{};
  struct sigaction old_pipe_ {};
  Fd fd_;
};

// Ends the process by `number` with its default action, so that the parent sees the true cause. Returns only if that is impossible.
void die_by_signal(int number);

}  // namespace ring3
