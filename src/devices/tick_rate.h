// Exact conversion between nanoseconds and the ticks of a crystal. Splitting off whole seconds keeps the products inside 64 bits for
// every rate up to 10 GHz, so no rounding error ever accumulates.
#pragma once

#include "devices/bus.h"

namespace ring3 {

struct TickRate {
  static constexpr u64 ns_per_second = 1'000'000'000;
  u64 hz;

  // Ticks that have happened `elapsed` nanoseconds after tick 0.
  [[nodiscard]] constexpr u64 ticks_in(Nanoseconds elapsed) const {
    return elapsed / ns_per_second * hz + elapsed % ns_per_second * hz / ns_per_second;
  }
  // The earliest time at which ticks_in() reaches `ticks`.
  [[nodiscard]] constexpr Nanoseconds time_of(u64 ticks) const {
    return ticks / hz * ns_per_second + (ticks % hz * ns_per_second + hz - 1) / hz;
  }
};

}  // namespace ring3
