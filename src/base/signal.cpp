#include "base/signal.h"

#include "base/error.h"

#include <sys/signalfd.h>
#include <unistd.h>

namespace ring3 {

TerminationSignals::TerminationSignals() {
  sigset_t wanted;
  sigemptyset(&wanted);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP}) {
    struct sigaction current {};
    // A blocked signal is delivered to the signalfd even when its action is to be ignored; leave those alone.
    if (::sigaction(number, nullptr, &current) == 0 && current.sa_handler == SIG_IGN) continue;
    sigaddset(&wanted, number);
  }
  fd_ = Fd(::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd_.valid()) throw UserError("the host refused a signalfd: too many open files; raise the limit with 'ulimit -n'");
  pthread_sigmask(SIG_BLOCK, &wanted, &old_mask_);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, &old_pipe_);
}

TerminationSignals::~TerminationSignals() {
  ::sigaction(SIGPIPE, &old_pipe_, nullptr);
  pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

std::optional<int> TerminationSignals::next() {
  signalfd_siginfo info{};
  if (::read(fd_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return std::nullopt;
  return static_cast<int>(info.ssi_signo);
}

void die_by_signal(int number) {
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  ::sigaction(number, &standard, nullptr);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number);
  ::raise(number);
  pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
}

}  // namespace ring3
