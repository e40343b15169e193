#include "base/file.h"

#include "base/error.h"
#include "base/size.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace ring3 {

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

std::string in_quotes(std::string_view name) {
  std::string out = "'";
  for (const char c : name) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  return out + "'";
}

std::vector<u8> read_file(const std::string& path, std::string_view what, u64 limit, std::string_view limit_hint) {
  // O_NONBLOCK: opening a FIFO without a writer must not wait; it has no effect on regular files.
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid())
    throw UserError(fmt::format("{} {}: cannot open: {}; check the path and its permissions", what, in_quotes(path), std::strerror(errno)));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) throw UserError(fmt::format("{} {}: cannot stat: {}", what, in_quotes(path), std::strerror(errno)));
  if (!S_ISREG(st.st_mode)) throw UserError(fmt::format("{} {}: is not a regular file; give the path of a file", what, in_quotes(path)));
  const u64 size = static_cast<u64>(st.st_size);
  if (size == 0) throw UserError(fmt::format("{} {}: the file is empty; fetch or build it again", what, in_quotes(path)));
  if (size > limit)
    throw UserError(fmt::format("{} {}: {} is larger than the {} available; {}", what, in_quotes(path), format_size(size),
                                format_size(limit), limit_hint));

  std::vector<u8> bytes(size);
  u64 done = 0;
  while (done < size) {
    const ssize_t n = ::read(fd.get(), bytes.data() + done, std::min<u64>(size - done, u64{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw UserError(fmt::format("{} {}: cannot read: {}", what, in_quotes(path), std::strerror(errno)));
    if (n == 0) throw UserError(fmt::format("{} {}: shrank while it was read; wait until it is complete", what, in_quotes(path)));
    done += static_cast<u64>(n);
  }
  return bytes;
}

Fd create_file(const std::string& path, std::string_view what) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666));
  if (!fd.valid())
    throw UserError(
        fmt::format("{} {}: cannot write: {}; name a file in a folder you can write to", what, in_quotes(path), std::strerror(errno)));
  return fd;
}

NewFile::NewFile(const std::string& path, std::string_view what) : path_(path) {
  struct stat st {};
  const bool exists = ::stat(path.c_str(), &st) == 0;
  // Opening a file that exists finds out whether it may be replaced; O_TRUNC waits until there is something to put into it.
  if (exists) fd_ = Fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
  if (exists && fd_.valid() && !S_ISREG(st.st_mode)) return;
  if (!exists || fd_.valid()) {
    if (char* real = exists ? ::realpath(path.c_str(), nullptr) : nullptr) {  // keeps a symbolic link in its place
      path_ = real;
      std::free(real);
    }
    temporary_ = fmt::format("{}.{}.tmp", path_, ::getpid());
    fd_ = Fd(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, exists ? st.st_mode & 0777u : 0666u));
  }
  if (fd_.valid()) return;
  temporary_.clear();
  throw UserError(
      fmt::format("{} {}: cannot write: {}; name a file in a folder you can write to", what, in_quotes(path), std::strerror(errno)));
}

NewFile::~NewFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

bool NewFile::write(std::string_view bytes) { return write_all(fd_.get(), bytes); }

bool NewFile::commit() {
  if (temporary_.empty()) return true;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return false;
  temporary_.clear();
  return true;
}

void reserve_standard_files() {
  for (int fd = 0; fd <= 2; ++fd) {
    // open() takes the lowest free number: this one.
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF) static_cast<void>(::open("/dev/null", O_RDWR));
  }
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

}  // namespace ring3
