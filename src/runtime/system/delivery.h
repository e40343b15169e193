// Delivery of exceptions and interrupts through the IDT (Intel SDM vol. 3, chapter 6), and far control transfers.
#pragma once

#include "runtime/vcpu.h"

namespace ring3 {

enum class Delivery : u8 { done, triple_fault, missing };

enum class EventKind : u8 { fault, software_interrupt, external_interrupt, nmi };

// Delivers `vcpu.fault`, raised by the instruction at the current EIP (faults push EIP as it is; the caller has already advanced EIP for
// traps). Handles faults during delivery: contributory -> #DF -> triple fault (SDM vol. 3, 6.15). Loads CR2 for page faults.
[[nodiscard]] Delivery deliver_fault(Vcpu& vcpu);

// INTR or NMI at an instruction boundary. Clears the HLT state.
[[nodiscard]] Delivery deliver_interrupt(Vcpu& vcpu, u8 vector);

// INT n, INT3, INTO, INT1: EIP is on the instruction, `return_eip` follows it. DPL of the gate is checked except for INT1.
// Returns Flow::jumped, Flow::fault (vcpu.fault set, state unchanged) or Flow::missing.
[[nodiscard]] Flow software_interrupt(Vcpu& vcpu, u8 vector, u32 return_eip, bool check_dpl);

}  // namespace ring3
