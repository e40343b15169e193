#include "runtime/system/rows.h"

namespace ring3 {

void add_system_handlers(HandlerTable& table) {
  system::add_segment_moves(table);
  system::add_segment_queries(table);
  system::add_table_registers(table);
  system::add_control_registers(table);
  system::add_debug_registers(table);
  system::add_msrs(table);
  system::add_processor_rows(table);
  system::add_fast_system_calls(table);
  system::add_software_interrupts(table);
  system::add_interrupt_return(table);
  system::add_far_transfers(table);
}

}  // namespace ring3
