#include "devices/reset_control.h"

namespace ring3 {

u8 ResetControl::read_byte(u32) { return value_; }

void ResetControl::write_byte(u32, u8 value) {
  const bool resets = (value & 4) != 0 && (value_ & 4) == 0;
  value_ = value & 0x0E;
  if (resets) reset_();
}

}  // namespace ring3
