// May the guest use these ports? CPL against IOPL, then the TSS's I/O permission bitmap (SDM vol. 1, 18.5).
#pragma once

#include "runtime/vcpu.h"

namespace ring3 {

// `size` is 1, 2 or 4. False: `v.fault` is set: #GP(0), or a fault from reading the TSS.
[[nodiscard]] bool io_permitted(Vcpu& v, u16 port, unsigned size);

// One access that is permitted: the bus, and the I/O breakpoints that it meets.
[[nodiscard]] u32 read_port(Vcpu& v, u16 port, unsigned size);
void write_port(Vcpu& v, u16 port, unsigned size, u32 value);

}  // namespace ring3
