// What IRET and RETF have in common.
#pragma once

#include "runtime/system/descriptor.h"

namespace ring3 {

// Checks the code segment of a return (SDM vol. 2, IRET and RET: #GP and #NP with the selector). `d` is filled, not yet marked accessed.
[[nodiscard]] bool fetch_return_segment(Vcpu& v, u16 selector, Descriptor& d);

// `size` bytes at SS:ESP + offset, in the width of the stack. False: #SS(0), #PF or #AC.
[[nodiscard]] bool peek_stack(Vcpu& v, u32 offset, unsigned size, u32& out);

// The last part of a return to an outer ring: CS, CPL, EIP, SS, ESP (SP if the new stack is 16-bit: the upper half of ESP stays as it was,
// which kernels rely on), and data segments that the new ring may not keep.
void enter_outer_ring(Vcpu& v, const SegmentCache& cs, u32 new_eip, const SegmentCache& ss, u32 new_esp);

}  // namespace ring3
