#include "devices/system_control.h"

namespace ring3 {

namespace {

// Counter 1 of the PIT ran at a divisor of 18 for memory refresh; chip sets toggle the bit at that rate whatever counter 1 is set to.
constexpr u64 refresh_ticks = 18;

}  // namespace

u8 SystemControlB::read_byte(u32) {
  const bool refresh = (Pit::rate.ticks_in(clock_.now()) / refresh_ticks) & 1;
  return static_cast<u8>(written_ | (refresh ? 0x10 : 0) | (pit_.out(2) ? 0x20 : 0));
}

void SystemControlB::write_byte(u32, u8 value) {
  written_ = value & 0x0F;
  pit_.set_gate2((value & 1) != 0);
}

u8 SystemControlA::read_byte(u32) { return value_; }

void SystemControlA::write_byte(u32, u8 value) {
  const bool resets = (value & 1) != 0 && (value_ & 1) == 0;
  value_ = value & 3;
  a20_.set(A20Gate::Source::port92, (value & 2) != 0);
  if (resets) reset_();
}

}  // namespace ring3
