// The table row -> interpreter function. Each family file fills its own rows.
#pragma once

#include "frontend/rows.h"
#include "runtime/vcpu.h"

#include <array>

namespace ring3 {

class HandlerTable {
 public:
  HandlerTable();  // all families (interp/handlers.cpp)
  void set(Row row, Handler handler) { table_[static_cast<unsigned>(row)] = handler; }
  // Null: the row has no interpreter; executing it ends the run with Flow::missing.
  [[nodiscard]] Handler get(Row row) const { return row == Row::invalid ? nullptr : table_[static_cast<unsigned>(row)]; }

 private:
  std::array<Handler, row_count> table_{};
};

// One per family file in runtime/interp/.
void add_alu_handlers(HandlerTable&);      // alu, shift, muldiv, bit, decimal: arithmetic.cpp, shifts.cpp, ...
void add_mov_handlers(HandlerTable&);      // mov, flag
void add_stack_handlers(HandlerTable&);    // stack (PUSHF/POPF included)
void add_control_handlers(HandlerTable&);  // near control transfers, BOUND; INT n/INT3/INTO/INT1/IRET/far forms are in runtime/system
void add_string_handlers(HandlerTable&);   // string and io
void add_fpu_handlers(HandlerTable&);      // x87, mmx, sse
void add_system_handlers(HandlerTable&);   // segment, system, far control transfers, interrupts

}  // namespace ring3
