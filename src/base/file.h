// Host files: owned descriptors and whole-file reads whose failures name the file.
#pragma once

#include "base/types.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ring3 {

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { reset(); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    reset();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

// The name of a file as it stands in an error line: quoted, control characters replaced, so that the line stays one line.
[[nodiscard]] std::string in_quotes(std::string_view name);

// Reads a regular file of at most `limit` bytes. `what` names its purpose in messages ("kernel"). Throws UserError: missing, unreadable,
// not a regular file, empty, or larger than `limit` (then the message ends with `limit_hint`, which says how to mend it).
[[nodiscard]] std::vector<u8> read_file(const std::string& path, std::string_view what, u64 limit, std::string_view limit_hint);

// Creates or truncates `path` for writing. `what` is the option that asked for it. Throws UserError.
[[nodiscard]] Fd create_file(const std::string& path, std::string_view what);

// A file that appears under its name only when it is complete: what is written goes to a temporary file beside it, which commit() renames.
// If the name stands for something that is no regular file (a pipe, a terminal), the text goes there directly.
class NewFile {
 public:
  // `what` is the option that asked for it. Throws UserError if the file could not be written now.
  NewFile(const std::string& path, std::string_view what);
  ~NewFile();  // without commit(): nothing remains
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  // False on an error (errno says which).
  [[nodiscard]] bool write(std::string_view bytes);
  [[nodiscard]] bool commit();

 private:
  std::string path_;
  std::string temporary_;  // empty: `fd_` is the file itself, or the temporary one was renamed
  Fd fd_;
};

// Opens /dev/null for those of the descriptors 0, 1 and 2 that the caller of the program closed. Without it the next file opened would take
// the number, and guest output would go into that file. Call it before anything else is opened.
void reserve_standard_files();

// Writes all of `bytes`; false on an error (errno says which).
[[nodiscard]] bool write_all(int fd, std::string_view bytes);

}  // namespace ring3
