#include "machine/console.h"

#include "base/duration.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>

namespace ring3 {
namespace {

constexpr char ctrl_a = 1;
// A pipe that polls writable takes PIPE_BUF bytes without blocking (pipe(7)).
constexpr size_t polled_write = 512;

}  // namespace

HostChannel::HostChannel(int fd, bool writing) : fd_(fd), kind_(Kind::polled) {
  struct stat st {};
  const int flags = ::fcntl(fd, F_GETFL);
  const int wrong_way = writing ? O_RDONLY : O_WRONLY;
  if (flags < 0 || (flags & O_ACCMODE) == wrong_way || ::fstat(fd, &st) != 0) {
    kind_ = Kind::closed;
  } else if (S_ISREG(st.st_mode)) {
    kind_ = Kind::regular;
  } else if (S_ISSOCK(st.st_mode)) {
    kind_ = Kind::socket;
  } else {
    const std::string path = fmt::format("/proc/self/fd/{}", fd);
    own_ = Fd(::open(path.c_str(), (writing ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (own_.valid()) kind_ = Kind::reopened;
  }
}

bool HostChannel::ready(short events) const {
  pollfd p{fd_, events, 0};
  return ::poll(&p, 1, 0) > 0 && (p.revents & (events | POLLHUP | POLLERR)) != 0;
}

std::optional<size_t> HostChannel::read(char* to, size_t size) {
  if (kind_ == Kind::closed) return std::nullopt;
  if (kind_ == Kind::polled && !ready(POLLIN)) return 0;
  const ssize_t n = kind_ == Kind::socket ? ::recv(fd(), to, size, MSG_DONTWAIT) : ::read(fd(), to, size);
  if (n > 0) return static_cast<size_t>(n);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  close();
  return std::nullopt;
}

std::optional<size_t> HostChannel::write(std::string_view bytes) {
  if (kind_ == Kind::closed) return std::nullopt;
  if (kind_ == Kind::polled) {
    if (!ready(POLLOUT)) return 0;
    bytes = bytes.substr(0, polled_write);
  }
  const ssize_t n = kind_ == Kind::socket ? ::send(fd(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                                          : ::write(fd(), bytes.data(), bytes.size());
  if (n >= 0) return static_cast<size_t>(n);
  if (errno == EAGAIN || errno == EINTR) return 0;
  close();
  return std::nullopt;
}

Console::Console(const Settings& settings) : in_(settings.in, false), out_(settings.out, true), escape_key_(settings.escape_key) {}

bool Console::put(u8 byte) {
  if (!can_put()) return false;
  output_ += static_cast<char>(byte);
  if (queued() >= flush_at && (queued() % flush_at) == 0) flush();
  return true;
}

std::optional<u8> Console::get() {
  if (input_.empty()) return std::nullopt;
  const u8 byte = input_.front();
  input_.pop_front();
  return byte;
}

void Console::pump() {
  flush();
  fill();
}

void Console::flush() {
  while (queued() != 0) {
    const std::optional<size_t> n = out_.write(std::string_view(output_).substr(written_));
    if (!n) {  // nobody reads any more: the guest goes on, its output has no place to go
      written_ = output_.size();
      break;
    }
    if (*n == 0) break;
    written_ += *n;
  }
  if (written_ == output_.size() || written_ >= queue_limit) {
    output_.erase(0, written_);
    written_ = 0;
  }
}

void Console::fill() {
  if (!wants_input()) return;
  char buffer[256];
  const std::optional<size_t> n = in_.read(buffer, sizeof buffer);
  if (!n) return;
  for (size_t i = 0; i < *n; ++i) accept(buffer[i]);
}

void Console::accept(char byte) {
  if (!escape_key_ || (!escaped_ && byte != ctrl_a)) {
    input_.push_back(static_cast<u8>(byte));
    return;
  }
  if (!escaped_) {
    escaped_ = true;
    return;
  }
  escaped_ = false;
  switch (byte) {
    case 'x': quit_ = true; break;
    case 'h': say("\r\nCtrl-A h  this help\r\nCtrl-A x  quit ring3\r\nCtrl-A Ctrl-A  send Ctrl-A to the guest\r\n"); break;
    case ctrl_a: input_.push_back(static_cast<u8>(ctrl_a)); break;
    default: break;
  }
}

void Console::say(std::string_view text) {
  output_ += text;
  flush();
}

void Console::add_poll(std::vector<pollfd>& fds) const {
  if (wants_input()) fds.push_back({in_.fd(), POLLIN, 0});
  if (out_.open() && queued() != 0) fds.push_back({out_.fd(), POLLOUT, 0});
}

bool Console::drain(u64 patience) {
  u64 last_progress = monotonic_now();
  while (queued() != 0) {
    const size_t before = queued();
    flush();
    if (queued() == 0) return true;
    const u64 now = monotonic_now();
    if (queued() < before) last_progress = now;
    if (now - last_progress >= patience) return false;
    pollfd p{out_.fd(), POLLOUT, 0};
    ::poll(&p, 1, static_cast<int>(std::min<u64>((patience - (now - last_progress)) / 1'000'000 + 1, 1000)));
  }
  return true;
}

}  // namespace ring3
