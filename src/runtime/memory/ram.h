// Guest RAM: one memfd, mapped once for the runtime.
#pragma once

#include "base/mapping.h"
#include "base/types.h"
#include "guest/address.h"

namespace ring3 {

class GuestRam {
 public:
  static constexpr u64 granule = u64{1} << 20;
  static constexpr u64 max_size = u64{3} << 30;
  static constexpr u64 guard_size = u64{64} << 10;

  // `bytes` is a multiple of 1 MiB, at most 3 GiB and not 0. RAM is guest physical [0, bytes). Throws UserError when `bytes` is out of
  // range or the host refuses. Bytes that nobody touched cost no host memory.
  explicit GuestRam(u64 bytes);
  ~GuestRam() = default;
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  [[nodiscard]] u64 size() const { return size_; }
  // Host address of guest physical 0. The mapping is followed and preceded by unmapped guards of 64 KiB.
  [[nodiscard]] u8* base() const { return base_; }
  [[nodiscard]] bool contains(PhysAddr address, u64 size) const { return address.value < size_ && size <= size_ - address.value; }
  [[nodiscard]] u8* at(PhysAddr address) const { return base_ + address.value; }
  [[nodiscard]] int fd() const { return file_.fd(); }

 private:
  u64 size_ = 0;
  MemFd file_;
  Mapping mapping_;
  u8* base_ = nullptr;
};

}  // namespace ring3
