// Stacks that control transfers push to before the transfer is certain, and the stacks of other rings.
#pragma once

#include "runtime/system/descriptor.h"

namespace ring3 {

// A stack that is written before it becomes the current one. Nothing of CpuState changes until `adopt`.
class PendingStack {
 public:
  // The current stack; running out of it is #SS(ext).
  static PendingStack current(const Vcpu& v, u32 ext);

  // The stack of ring `level` (0..2, lower than CPL) from the TSS, with the checks that SDM vol. 2 lists at INT n and CALL: #TS with the
  // TSS selector or the new SS, #SS for an absent segment, #PF. False: `v.fault`.
  [[nodiscard]] static bool inner(Vcpu& v, u32 level, u32 ext, PendingStack& out);

  // Is there room for `count` items of `size` bytes in the segment? Else #SS, with the selector if it is another ring's.
  [[nodiscard]] bool has_room(Vcpu& v, unsigned count, unsigned size);
  // After `has_room`: can the items be written? Else #PF, or #AC(ext) on a stack of ring 3. Sets the accessed bit of another ring's stack
  // segment, so every other check comes before. The pushes cannot fault after this.
  [[nodiscard]] bool make_writable(Vcpu& v, unsigned count, unsigned size);
  [[nodiscard]] bool push(Vcpu& v, u32 value, unsigned size);

  // Makes it the current stack: SS and ESP (SP if the segment is 16-bit). The caller sets CPL.
  void adopt(Vcpu& v) const;

 private:
  SegmentCache ss_;
  Descriptor descriptor_;  // of another ring's stack segment
  u32 pointer_ = 0;
  u32 error_code_ = 0;
  u32 ext_ = 0;
  bool other_ring_ = false;
  bool user_ = false;
};

// Checks SS of a return to ring `level`: #GP with the selector, #SS for an absent segment (SDM vol. 2, IRET and RET). `out` is not yet
// marked accessed. Where RET says #SS for an absent stack segment, IRET's list of exceptions says #NP; Intel CPUs raise #SS for both.
[[nodiscard]] bool fetch_outer_stack(Vcpu& v, u16 selector, u32 level, Descriptor& out);

}  // namespace ring3
