#include "base/terminal.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>

namespace ring3 {
namespace {

// tcsetattr from a background process group raises SIGTTOU; blocked, the call goes through (POSIX, tcsetattr).
void set_attributes(int fd, const termios& settings) {
  sigset_t ttou;
  sigset_t old;
  sigemptyset(&ttou);
  sigaddset(&ttou, SIGTTOU);
  pthread_sigmask(SIG_BLOCK, &ttou, &old);
  while (::tcsetattr(fd, TCSANOW, &settings) != 0 && errno == EINTR) {
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

void close_all_but(int a, int b) {
  const int low = a < b ? a : b;
  const int high = a < b ? b : a;
  if (low > 0) ::close_range(0, static_cast<unsigned>(low - 1), 0);
  if (high - low > 1) ::close_range(static_cast<unsigned>(low + 1), static_cast<unsigned>(high - 1), 0);
  ::close_range(static_cast<unsigned>(high + 1), ~0u, 0);
}

// The guardian's whole life. Only async-signal-safe calls.
[[noreturn]] void guard(int terminal, int pipe_end, const termios& original) {
  sigset_t everything;
  sigfillset(&everything);
  ::sigprocmask(SIG_SETMASK, &everything, nullptr);
  close_all_but(terminal, pipe_end);
  char byte = 0;
  ssize_t n = 0;
  do n = ::read(pipe_end, &byte, 1);
  while (n < 0 && errno == EINTR);
  if (n == 0) ::tcsetattr(terminal, TCSANOW, &original);
  ::_exit(0);
}

}  // namespace

RawTerminal::RawTerminal(int fd) {
  if (!::isatty(fd) || ::tcgetattr(fd, &original_) != 0) return;
  fd_ = fd;
  start_guardian();
  resume();
}

RawTerminal::~RawTerminal() {
  if (!active()) return;
  suspend();
  if (guardian_ < 0) return;
  const bool told = write_all(farewell_.get(), "q");
  farewell_.reset();
  if (told) {
    while (::waitpid(guardian_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

void RawTerminal::suspend() {
  if (active()) set_attributes(fd_, original_);
}

void RawTerminal::resume() {
  if (!active()) return;
  termios raw = original_;
  ::cfmakeraw(&raw);
  set_attributes(fd_, raw);
}

void RawTerminal::start_guardian() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return;
  Fd read_end(ends[0]);
  farewell_ = Fd(ends[1]);
  guardian_ = ::fork();
  if (guardian_ == 0) guard(fd_, read_end.get(), original_);
  if (guardian_ < 0) farewell_.reset();
}

}  // namespace ring3
