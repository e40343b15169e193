// The files with rows of the families segment and system, and the far control transfers; handlers.cpp joins them.
#pragma once

#include "runtime/interp/handlers.h"

namespace ring3::system {

void add_segment_moves(HandlerTable&);        // segment_moves.cpp: MOV/PUSH/POP of segment registers, LDS and friends
void add_segment_queries(HandlerTable&);      // segment_queries.cpp: LAR LSL VERR VERW ARPL
void add_table_registers(HandlerTable&);      // table_registers.cpp: LGDT LIDT SGDT SIDT LLDT LTR SLDT STR
void add_control_registers(HandlerTable&);    // control_registers.cpp: MOV CR, LMSW SMSW CLTS INVLPG
void add_debug_registers(HandlerTable&);      // debug_registers.cpp: MOV DR
void add_msrs(HandlerTable&);                 // msr.cpp: RDMSR WRMSR
void add_processor_rows(HandlerTable&);       // processor.cpp: CPUID RDTSC RDTSCP RDPMC HLT WBINVD INVD RDRAND RDSEED UD
void add_fast_system_calls(HandlerTable&);    // fast_system_calls.cpp: SYSENTER SYSEXIT
void add_software_interrupts(HandlerTable&);  // delivery.cpp: INT n INT3 INTO INT1
void add_interrupt_return(HandlerTable&);     // interrupt_return.cpp: IRET
void add_far_transfers(HandlerTable&);        // far_transfer.cpp: far JMP CALL RET

}  // namespace ring3::system
