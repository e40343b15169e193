// Loading data and stack segment registers in protected mode.
#pragma once

#include "runtime/vcpu.h"

namespace ring3 {

// MOV/POP/LDS... into ES, SS, DS, FS or GS with the checks of SDM vol. 2, MOV; sets the accessed bit. False: `v.fault` (#GP, #NP, #SS with
// the selector, #GP(0) for a NULL SS, or #PF) and the register is unchanged. Protected mode only; `segment` is not CS.
[[nodiscard]] bool load_segment(Vcpu& v, Seg segment, u16 selector);

// After a return to an outer ring: data segments that the new CPL may not hold become NULL, and NULL selectors with an RPL become 0 (SDM
// vol. 2, IRET and RET).
void drop_inner_segments(CpuState& s);

}  // namespace ring3
