// A device that has to act at a certain time even when nobody touches its registers.
#pragma once

#include "devices/bus.h"

#include <optional>

namespace ring3 {

class Timer {
 public:
  virtual ~Timer() = default;
  // When run() has something to do next (clock scale); empty: nothing is armed. May change after every register access.
  [[nodiscard]] virtual std::optional<Nanoseconds> next_deadline() const = 0;
  // Does all that was due at or before `now`; afterwards the next deadline is later than `now`. Calling it early or often is harmless.
  virtual void run(Nanoseconds now) = 0;
};

}  // namespace ring3
