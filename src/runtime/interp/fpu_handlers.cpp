// Registers the rows of families x87, mmx and sse.
#include "runtime/interp/fpu_rows.h"
#include "runtime/interp/handlers.h"

namespace ring3 {

void add_fpu_handlers(HandlerTable& table) {
  for (unsigned i = 0; i < row_count; ++i) {
    switch (row_table[i].family) {
      case Family::x87: table.set(static_cast<Row>(i), fpu::x87_execute); break;
      case Family::mmx:
      case Family::sse: table.set(static_cast<Row>(i), fpu::simd_execute); break;
      default: break;
    }
  }
  table.set(Row::fldcw, fpu::fldcw);
  table.set(Row::fnclex, fpu::fnclex);
  table.set(Row::fninit, fpu::fninit);
  table.set(Row::fnstcw, fpu::fnstcw);
  table.set(Row::fnstsw, fpu::fnstsw);
  table.set(Row::fwait, fpu::fwait);
  table.set(Row::fdisi8087_nop, fpu::x87_no_operation);
  table.set(Row::feni8087_nop, fpu::x87_no_operation);
  table.set(Row::fsetpm287_nop, fpu::x87_no_operation);
  table.set(Row::fnstenv, fpu::fnstenv);
  table.set(Row::fnsave, fpu::fnstenv);
  table.set(Row::fldenv, fpu::fldenv);
  table.set(Row::frstor, fpu::fldenv);
  table.set(Row::maskmovq, fpu::mask_move);
  table.set(Row::maskmovdqu, fpu::mask_move);
  table.set(Row::fxsave, fpu::fxsave);
  table.set(Row::fxrstor, fpu::fxrstor);
  table.set(Row::ldmxcsr, fpu::ldmxcsr);
  table.set(Row::stmxcsr, fpu::stmxcsr);
}

}  // namespace ring3
