// One counter of the 8254. Section names refer to the data sheet's "Mode Definitions".
#include "devices/pit.h"

#include <algorithm>

namespace ring3 {

namespace {

constexpr u64 never = ~u64{0};

bool periodic(u8 mode) { return mode == 2 || mode == 3; }
bool triggered_by_gate(u8 mode) { return mode == 1 || mode == 5; }

u32 from_bcd(u32 raw) { return (raw >> 12 & 15) * 1000 + (raw >> 8 & 15) * 100 + (raw >> 4 & 15) * 10 + (raw & 15); }
u32 to_bcd(u32 value) { return (value / 1000 % 10) << 12 | (value / 100 % 10) << 8 | (value / 10 % 10) << 4 | value % 10; }

// Mode 3: an odd count is high one clock longer than low.
u32 high_clocks(u32 period) { return (period + 1) / 2; }

}  // namespace

void PitCounter::write_control(u64 tick, u8 access, u8 mode, bool bcd) {
  advance(tick);
  const bool gate = s_.gate;
  s_ = State{};
  s_.gate = gate;
  s_.programmed = true;
  s_.access = access;
  s_.mode = mode;
  s_.bcd = bcd;
}

void PitCounter::write_count_byte(u64 tick, u8 value) {
  advance(tick);
  if (!s_.programmed) return;
  switch (s_.access) {
    case 1: count_written(tick, value); return;
    case 2: count_written(tick, u32{value} << 8); return;
    default:
      if (!s_.write_high_next) {
        s_.write_low = value;
        s_.write_high_next = true;
        if (s_.mode == 0) s_.loaded = false;  // the first byte stops the counting and sets OUT low
      } else {
        s_.write_high_next = false;
        count_written(tick, u32{value} << 8 | s_.write_low);
      }
  }
}

void PitCounter::count_written(u64 tick, u32 raw) {
  u32 clocks = s_.bcd ? from_bcd(raw) : raw;
  if (clocks == 0) clocks = s_.bcd ? 10000 : 0x10000;
  // A count of 1 is illegal in mode 2 and has no low half in mode 3; 2 is the nearest that counts.
  s_.count_register = periodic(s_.mode) ? std::max(clocks, 2u) : clocks;
  s_.count_valid = true;
  if (triggered_by_gate(s_.mode)) {
    s_.reload_pending = true;
    s_.reload_at = never;
  } else if (periodic(s_.mode) && s_.loaded && (s_.paused || tick >= s_.start)) {
    s_.reload_pending = true;
    s_.reload_at = s_.paused ? never : next_reload(tick);
  } else {
    load(tick);
    s_.paused = !s_.gate;
    s_.paused_elapsed = 0;
  }
}

void PitCounter::load(u64 tick) {
  s_.period = s_.count_register;
  s_.start = tick + 1;  // the CLK pulse after the write or trigger transfers the count
  s_.loaded = true;
  s_.paused = false;
  s_.reload_pending = false;
}

u64 PitCounter::next_reload(u64 tick) const {
  const u64 position = (tick - s_.start) % s_.period;
  const u64 cycle = tick - position;
  if (s_.mode == 3 && position < high_clocks(s_.period)) return cycle + high_clocks(s_.period);
  return cycle + s_.period;
}

void PitCounter::advance(u64 tick) {
  if (!s_.reload_pending || s_.reload_at > tick) return;
  const u64 position = (s_.reload_at - s_.start) % s_.period;
  s_.start = s_.reload_at;
  // Mode 3 takes the new count at the end of either half; after the high half it goes on with the low half of the new count.
  if (position != 0) s_.start -= high_clocks(s_.count_register);
  s_.period = s_.count_register;
  s_.reload_pending = false;
}

void PitCounter::set_gate(u64 tick, bool level) {
  advance(tick);
  if (level == s_.gate) return;
  s_.gate = level;
  if (triggered_by_gate(s_.mode)) {
    if (level && s_.count_valid) load(tick);
    return;
  }
  if (!s_.loaded) return;
  if (!level) {
    s_.paused_elapsed = tick >= s_.start ? tick - s_.start : 0;
    s_.paused = true;
    if (s_.reload_pending) s_.reload_at = never;
  } else if (periodic(s_.mode)) {
    load(tick);  // a rising GATE starts modes 2 and 3 anew
  } else {
    s_.start = tick - s_.paused_elapsed;
    s_.paused = false;
  }
}

bool PitCounter::out(u64 tick) const {
  if (!s_.programmed) return false;
  if (s_.mode == 0) return counting_started(tick) && elapsed(tick) >= s_.period;
  if (!s_.loaded) return true;
  if (s_.mode == 1) return counting_started(tick) && elapsed(tick) >= s_.period;
  if (s_.paused || !counting_started(tick)) return true;
  switch (s_.mode) {
    case 2: return elapsed(tick) % s_.period != s_.period - 1;
    case 3: return elapsed(tick) % s_.period < high_clocks(s_.period);
    default: return elapsed(tick) != s_.period;  // modes 4 and 5: a strobe of one clock
  }
}

std::optional<u64> PitCounter::next_rise(u64 tick) const {
  if (!s_.programmed || !s_.loaded || s_.paused) return std::nullopt;
  u64 rise = 0;
  switch (s_.mode) {
    case 0:
    case 1: rise = s_.start + s_.period; break;
    case 4:
    case 5: rise = s_.start + s_.period + 1; break;
    default:
      if (tick < s_.start) return s_.start + s_.period;
      if (s_.reload_pending && s_.mode == 3 && (s_.reload_at - s_.start) % s_.period != 0) return s_.reload_at + s_.count_register / 2;
      return s_.start + ((tick - s_.start) / s_.period + 1) * s_.period;
  }
  if (rise > tick) return rise;
  return std::nullopt;
}

u32 PitCounter::count(u64 tick) const {
  const u32 modulus = s_.bcd ? 10000 : 0x10000;
  u32 value = 0;
  if (!s_.loaded || !counting_started(tick)) {
    value = s_.count_register;
  } else if (s_.mode == 2) {
    value = s_.period - static_cast<u32>(elapsed(tick) % s_.period);
  } else if (s_.mode == 3) {
    // Counts down by two in each half from the even part of the count (an odd count is loaded less one).
    u32 position = static_cast<u32>(elapsed(tick) % s_.period);
    if (position >= high_clocks(s_.period)) position -= high_clocks(s_.period);
    value = (s_.period & ~1u) - 2 * position;
  } else {
    value = s_.period % modulus + modulus - static_cast<u32>(elapsed(tick) % modulus);
  }
  value %= modulus;
  return s_.bcd ? to_bcd(value) : value;
}

void PitCounter::latch_count(u64 tick) {
  advance(tick);
  if (s_.latched_bytes != 0) return;  // the first latch holds until it is read
  s_.latched_count = static_cast<u16>(count(tick));
  s_.latched_bytes = s_.access == 3 ? 2 : 1;
}

void PitCounter::latch_status(u64 tick) {
  advance(tick);
  if (s_.status_latched) return;
  const bool null_count = !s_.count_valid || s_.reload_pending || !s_.loaded || (!s_.paused && tick < s_.start);
  s_.latched_status = static_cast<u8>((out(tick) ? 0x80 : 0) | (null_count ? 0x40 : 0) | s_.access << 4 | s_.mode << 1 | (s_.bcd ? 1 : 0));
  s_.status_latched = true;
}

u8 PitCounter::read_byte(u64 tick) {
  advance(tick);
  if (s_.status_latched) {
    s_.status_latched = false;
    return s_.latched_status;
  }
  const u32 value = s_.latched_bytes != 0 ? s_.latched_count : count(tick);
  bool high = s_.access == 2;
  if (s_.access == 3) {
    high = s_.read_high_next;
    s_.read_high_next = !s_.read_high_next;
  }
  if (s_.latched_bytes != 0) --s_.latched_bytes;
  return static_cast<u8>(high ? value >> 8 : value);
}

}  // namespace ring3
