// The transfers that kernels with flat segments make all the time, done by a few comparisons: events through 32-bit gates to ring 0, and
// IRET from ring 0. Descriptors, TSS and frame are reached through the tables of the supervisor's view. Whatever is not usual (another
// type, a fault, a missing table entry, a frame across pages) is refused before anything has changed, and delivery.cpp or
// interrupt_return.cpp does it by the manual's pseudo-code.
#pragma once

#include "runtime/vcpu.h"

namespace ring3 {

// As the pseudo-code of SDM vol. 2, INT n, names them.
struct GateEvent {
  u8 vector = 0;
  bool check_dpl = false;  // INT n, INT3, INTO
  bool has_error_code = false;
  u32 error_code = 0;
  u32 return_eip = 0;
  u32 pushed_eflags = 0;
};

// True: the CPU is at the handler's first instruction. False: nothing has changed. Both want Vcpu::shortcuts.
[[nodiscard]] bool deliver_flat(Vcpu& v, const GateEvent& event);
// True: the IRET with 32-bit operands is done. False: nothing has changed.
[[nodiscard]] bool return_flat(Vcpu& v);

}  // namespace ring3
