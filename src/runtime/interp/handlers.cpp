#include "runtime/interp/handlers.h"

#include "runtime/interp/families.h"

namespace ring3 {

HandlerTable::HandlerTable() {
  add_alu_handlers(*this);
  add_mov_handlers(*this);
  add_stack_handlers(*this);
  add_control_handlers(*this);
  add_string_handlers(*this);
  add_fpu_handlers(*this);
  add_system_handlers(*this);
}

void add_alu_handlers(HandlerTable& t) {
  interp::add_arithmetic(t);
  interp::add_shifts(t);
  interp::add_bits(t);
  interp::add_decimal(t);
}

void add_mov_handlers(HandlerTable& t) {
  interp::add_moves(t);
  interp::add_flags(t);
}

void add_stack_handlers(HandlerTable& t) { interp::add_stack(t); }

void add_control_handlers(HandlerTable& t) { interp::add_branches(t); }

void add_string_handlers(HandlerTable& t) {
  interp::add_strings(t);
  interp::add_ports(t);
}

}  // namespace ring3
