// Pushes and pops that can be taken back: they work on a copy of the stack pointer, which the caller stores when nothing can fault any
// more.
#pragma once

#include "runtime/interp/operands.h"

namespace ring3::interp {

class StackCursor {
 public:
  explicit StackCursor(Vcpu& v) : v_(v), mask_(v.s.segment(Seg::ss).big() ? ~0u : 0xFFFFu), pointer_(v.s.gpr[esp] & mask_) {}

  template <typename T>
  [[nodiscard]] bool push(T value) {
    const u32 below = (pointer_ - static_cast<u32>(sizeof(T))) & mask_;
    if (!v_.store(Seg::ss, below, value)) return false;
    pointer_ = below;
    return true;
  }
  template <typename T>
  [[nodiscard]] bool pop(T& value) {
    if (!v_.load(Seg::ss, pointer_, value)) return false;
    pointer_ = (pointer_ + static_cast<u32>(sizeof(T))) & mask_;
    return true;
  }
  // Moves without an access.
  void skip(u32 bytes) { pointer_ = (pointer_ + bytes) & mask_; }
  [[nodiscard]] u32 pointer() const { return pointer_; }
  [[nodiscard]] u32 mask() const { return mask_; }
  // Stores ESP or SP.
  void commit() { v_.set_stack_pointer(pointer_); }

 private:
  Vcpu& v_;
  u32 mask_;
  u32 pointer_;
};

}  // namespace ring3::interp
