// Owned host mappings and memfds.
#pragma once

#include "base/types.h"

namespace ring3 {

// A range of host address space that is unmapped when its owner goes.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  // Each takes a size in bytes (rounded up to host pages by the kernel) and returns an empty mapping when the host refuses; errno says why.

  // Address space only: any access faults.
  [[nodiscard]] static Mapping reserve(u64 size);
  // The same at `address`. Empty too if something is mapped there.
  [[nodiscard]] static Mapping reserve_at(u64 address, u64 size);
  // Zero pages, readable and writable, that cost nothing until touched: not counted as committed memory, and never backed by huge pages,
  // which would turn a few touched words into megabytes.
  [[nodiscard]] static Mapping sparse(u64 size);

  [[nodiscard]] explicit operator bool() const { return data_ != nullptr; }
  [[nodiscard]] u8* data() const { return data_; }
  [[nodiscard]] u64 size() const { return size_; }

  // Maps `size` bytes of `fd` from `file_offset`, shared, over this mapping from byte `offset`; readable, and writable if asked for.
  // `populate`: its page tables are filled at once.
  [[nodiscard]] bool map_file(u64 offset, u64 size, int fd, u64 file_offset, bool writable = true, bool populate = false) const;
  // The same with a private copy: writes stay here.
  [[nodiscard]] bool map_copy(u64 offset, u64 size, int fd, u64 file_offset) const;
  // Makes [offset, offset + size) read-only; address space only, as `reserve` does. False: the host refuses, errno says why.
  [[nodiscard]] bool write_protect(u64 offset, u64 size) const;
  [[nodiscard]] bool close(u64 offset, u64 size) const;
  // Makes [offset, offset + size) of a private mapping read as zero again and gives its memory back.
  void discard(u64 offset, u64 size) const;
  // The same for a part of a sparse mapping, and gives back the host's page tables too. False: the host refuses, errno says why, and
  // nothing may be left there.
  [[nodiscard]] bool renew(u64 offset, u64 size) const;

 private:
  Mapping(u8* data, u64 size) : data_(data), size_(size) {}

  u8* data_ = nullptr;
  u64 size_ = 0;
};

// Anonymous memory with a file descriptor.
class MemFd {
 public:
  MemFd() = default;
  MemFd(MemFd&& other) noexcept;
  MemFd& operator=(MemFd&& other) noexcept;
  ~MemFd();

  // Empty when the host refuses; errno says why (EFBIG: above RLIMIT_FSIZE).
  [[nodiscard]] static MemFd create(const char* name, u64 size);

  [[nodiscard]] explicit operator bool() const { return fd_ >= 0; }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  explicit MemFd(int fd) : fd_(fd) {}

  int fd_ = -1;
};

}  // namespace ring3
