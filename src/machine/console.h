// The serial console's host side: stdin and stdout. The guest never waits for the host, and no byte is lost: output queues up to a bound,
// then the console says it is full and the UART keeps its transmitter busy.
//
// O_NONBLOCK belongs to the open file description, which the user's shell shares, so it is never set there. Pipes and terminals are opened
// a second time through /proc/self/fd, sockets are written with MSG_DONTWAIT; what cannot be reopened is polled before small writes.
#pragma once

#include "base/file.h"
#include "base/types.h"

#include <poll.h>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ring3 {

// One direction of one host descriptor without blocking.
class HostChannel {
 public:
  enum class Kind : u8 { regular, reopened, socket, polled, closed };
  // `writing` chooses the direction. A descriptor that is not open gives a closed channel.
  HostChannel(int fd, bool writing);

  // Bytes transferred; 0: not now; empty: end of file, or nobody reads any more.
  [[nodiscard]] std::optional<size_t> read(char* to, size_t size);
  [[nodiscard]] std::optional<size_t> write(std::string_view bytes);
  [[nodiscard]] int fd() const { return own_.valid() ? own_.get() : fd_; }
  [[nodiscard]] bool open() const { return kind_ != Kind::closed; }
  [[nodiscard]] Kind kind() const { return kind_; }
  void close() { kind_ = Kind::closed; }

 private:
  [[nodiscard]] bool ready(short events) const;

  int fd_;
  Fd own_;  // the second description, if there is one
  Kind kind_;
};

class Console {
 public:
  struct Settings {
    int in = 0;
    int out = 1;
    bool escape_key = false;  // Ctrl-A commands (terminals)
  };
  explicit Console(const Settings& settings);

  // --- guest side ---
  // False: the queue is full, the byte was not taken.
  [[nodiscard]] bool put(u8 byte);
  [[nodiscard]] bool can_put() const { return queued() < queue_limit; }
  // The next input byte, if the user typed one.
  [[nodiscard]] std::optional<u8> get();
  [[nodiscard]] bool has_input() const { return !input_.empty(); }

  // --- host side ---
  // Move what the host takes and gives without waiting: both directions, or output only.
  void pump();
  void flush();
  // What to wait for: appended to `fds`. Input from pipes and files is waited for only when the guest took what was there.
  void add_poll(std::vector<pollfd>& fds) const;
  // At the end of the run: writes what is queued, waiting at most `patience` nanoseconds without progress. False: bytes were given up.
  bool drain(u64 patience);
  [[nodiscard]] bool quit_requested() const { return quit_; }

 private:
  static constexpr size_t queue_limit = size_t{64} << 10;
  // A terminal is read ahead of a guest that takes nothing, so that Ctrl-A x still gets through; pipes and files simply wait.
  static constexpr size_t typed_limit = size_t{64} << 10;
  // Beyond this much, a byte's producer flushes itself instead of waiting for the next `pump`.
  static constexpr size_t flush_at = 2048;

  [[nodiscard]] size_t queued() const { return output_.size() - written_; }
  void fill();
  void accept(char byte);
  void say(std::string_view text);
  [[nodiscard]] bool wants_input() const { return in_.open() && input_.size() < (escape_key_ ? typed_limit : 1); }

  HostChannel in_;
  HostChannel out_;
  bool escape_key_;
  bool escaped_ = false;
  bool quit_ = false;
  std::string output_;
  size_t written_ = 0;  // bytes at the front of output_ that are out
  std::deque<u8> input_;
};

}  // namespace ring3
