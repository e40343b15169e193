#include "base/mapping.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace ring3 {

namespace {

u8* map_anonymous(u64 size, int protection) {
  void* address = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return address == MAP_FAILED ? nullptr : static_cast<u8*>(address);
}

}  // namespace

Mapping::Mapping(Mapping&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

Mapping Mapping::reserve(u64 size) {
  u8* data = map_anonymous(size, PROT_NONE);
  return data == nullptr ? Mapping() : Mapping(data, size);
}

Mapping Mapping::reserve_at(u64 address, u64 size) {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  void* const wanted = reinterpret_cast<void*>(address);
  void* const data = mmap(wanted, size, PROT_NONE, flags, -1, 0);
  if (data == wanted) return {static_cast<u8*>(data), size};
  if (data != MAP_FAILED) munmap(data, size);  // a kernel that does not know the flag
  return {};
}

Mapping Mapping::sparse(u64 size) {
  u8* data = map_anonymous(size, PROT_READ | PROT_WRITE);
  if (data == nullptr) return {};
  // A kernel without huge pages refuses this with EINVAL, and then it is not needed.
  (void)madvise(data, size, MADV_NOHUGEPAGE);
  return {data, size};
}

bool Mapping::map_file(u64 offset, u64 size, int fd, u64 file_offset, bool writable, bool populate) const {
  const int flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE | (populate ? MAP_POPULATE : 0);
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  return mmap(data_ + offset, size, protection, flags, fd, static_cast<off_t>(file_offset)) != MAP_FAILED;
}

bool Mapping::map_copy(u64 offset, u64 size, int fd, u64 file_offset) const {
  constexpr int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
  return mmap(data_ + offset, size, PROT_READ | PROT_WRITE, flags, fd, static_cast<off_t>(file_offset)) != MAP_FAILED;
}

bool Mapping::write_protect(u64 offset, u64 size) const { return mprotect(data_ + offset, size, PROT_READ) == 0; }

bool Mapping::close(u64 offset, u64 size) const {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  return mmap(data_ + offset, size, PROT_NONE, flags, -1, 0) != MAP_FAILED;
}

bool Mapping::renew(u64 offset, u64 size) const {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  if (mmap(data_ + offset, size, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) return false;
  (void)madvise(data_ + offset, size, MADV_NOHUGEPAGE);
  return true;
}

void Mapping::discard(u64 offset, u64 size) const { (void)madvise(data_ + offset, size, MADV_DONTNEED); }

MemFd::MemFd(MemFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

MemFd& MemFd::operator=(MemFd&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

MemFd::~MemFd() {
  if (fd_ >= 0) close(fd_);
}

MemFd MemFd::create(const char* name, u64 size) {
  // Growing a file past RLIMIT_FSIZE does not only fail, it raises SIGXFSZ; ask first.
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < size) {
    errno = EFBIG;
    return {};
  }
  MemFd result(memfd_create(name, MFD_CLOEXEC));
  if (!result) return {};
  if (ftruncate(result.fd_, static_cast<off_t>(size)) != 0) {
    const int reason = errno;
    result = MemFd();
    errno = reason;
  }
  return result;
}

}  // namespace ring3
