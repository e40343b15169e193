// The interpreter's own files, one function each; handlers.cpp joins them to the families that handlers.h names.
#pragma once

#include "runtime/interp/handlers.h"

namespace ring3::interp {

void add_arithmetic(HandlerTable&);  // arithmetic.cpp: alu, muldiv
void add_shifts(HandlerTable&);      // shifts.cpp: shift
void add_bits(HandlerTable&);        // bits.cpp: bit
void add_decimal(HandlerTable&);     // decimal.cpp: decimal
void add_moves(HandlerTable&);       // moves.cpp: mov
void add_flags(HandlerTable&);       // flags.cpp: flag, PUSHF and POPF
void add_stack(HandlerTable&);       // stack.cpp: stack except PUSHF and POPF
void add_branches(HandlerTable&);    // branches.cpp: near control transfers
void add_strings(HandlerTable&);     // strings.cpp: string
void add_ports(HandlerTable&);       // ports.cpp: io

}  // namespace ring3::interp
