// Exit statuses of `ring3 run`. Codes of ring3's own are even; isa-debug-exit gives odd ones, so the two never collide.
#pragma once

namespace ring3::exit_code {

inline constexpr int power_off = 0;
inline constexpr int usage = 2;
inline constexpr int reset = 4;
inline constexpr int triple_fault = 6;
inline constexpr int halted = 8;
inline constexpr int missing_feature = 10;
inline constexpr int internal_error = 12;
inline constexpr int quit_key = 14;
inline constexpr int lockstep_difference = 16;
inline constexpr int timeout = 124;  // as timeout(1)

}  // namespace ring3::exit_code
