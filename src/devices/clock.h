// Where a device that must know "now" when a register is read gets it from.
#pragma once

#include "devices/bus.h"

namespace ring3 {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic; never goes back. All deadlines are on this scale.
  [[nodiscard]] virtual Nanoseconds now() const = 0;
};

}  // namespace ring3
