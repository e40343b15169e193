// The user's terminal in raw mode, and its way back.
#pragma once

#include "base/file.h"

#include <sys/types.h>
#include <termios.h>

namespace ring3 {

// Puts a terminal into raw mode for its lifetime. Nothing happens when `fd` is not a terminal.
//
// The settings come back in every case. Orderly ends use the destructor. For the others (SIGKILL, a crash, abort) a guardian process,
// forked here, waits on a pipe that only this process holds: when the pipe closes without a farewell, the guardian restores the terminal.
// Create it before the process grows or starts threads: the fork is cheap then.
class RawTerminal {
 public:
  explicit RawTerminal(int fd);
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  [[nodiscard]] bool active() const { return fd_ >= 0; }
  // Around a stop of the whole process (SIGTSTP): the shell gets the terminal as it was; afterwards it is raw again.
  void suspend();
  void resume();

 private:
  void start_guardian();

  int fd_ = -1;
  termios original_{};
  Fd farewell_;  // write end of the guardian's pipe
  pid_t guardian_ = -1;
};

}  // namespace ring3
