// Guest RAM: one memfd, mapped once for the runtime.
#pragma once

#include "base/types.h"
#include "guest/address.h"

namespace ring3 {

class GuestRam {
 public:
  // `bytes` is a multiple of 1 MiB, at most 3 GiB. RAM is guest physical [0, bytes). Throws UserError when the host refuses.
  explicit GuestRam(u64 bytes);
  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  [[nodiscard]] u64 size() const { return size_; }
  // Host address of guest physical 0. The mapping is followed and preceded by unmapped guards of 64 KiB.
  [[nodiscard]] u8* base() const { return base_; }
  [[nodiscard]] bool contains(PhysAddr address, u64 size) const { return address.value < size_ && size <= size_ - address.value; }
  [[nodiscard]] u8* at(PhysAddr address) const { return base_ + address.value; }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  u64 size_ = 0;
  u8* base_ = nullptr;
  int fd_ = -1;
};

}  // namespace ring3
