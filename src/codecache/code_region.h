// Host memory for emitted code: executable at one address, writable at another, never both at one. In front of the code lies a page run
// for CpuState, so that emitted code reaches state and code from one register (translator/contract.h).
#pragma once

#include "base/types.h"

namespace ring3 {

class CodeRegion {
 public:
  // `bytes` of code, rounded up to 64 KiB, at most 1 GiB. Throws UserError when the host refuses.
  explicit CodeRegion(u64 bytes);
  ~CodeRegion();
  CodeRegion(const CodeRegion&) = delete;
  CodeRegion& operator=(const CodeRegion&) = delete;

  [[nodiscard]] void* state_area() const { return region_; }        // contract::limit_guard bytes, zeroed
  [[nodiscard]] u8* code() const { return region_ + state_size_; }  // executable alias, host address of offset 0
  [[nodiscard]] u8* writable() const { return writable_; }
  [[nodiscard]] u64 size() const { return size_; }
  [[nodiscard]] bool contains(u64 host) const {
    const u64 base = reinterpret_cast<u64>(code());
    return host >= base && host - base < size_;
  }

 private:
  u64 state_size_;
  u64 size_;
  u8* region_ = nullptr;
  u8* writable_ = nullptr;
  int fd_ = -1;
};

}  // namespace ring3
