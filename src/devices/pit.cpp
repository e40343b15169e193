#include "devices/pit.h"

namespace ring3 {

namespace {

// Ticks start here, so that a load time computed backwards (mode 3, new count after the high half) stays positive.
constexpr u64 first_tick = u64{1} << 20;

}  // namespace

Pit::Pit(const Clock& clock, InterruptLine irq0) : clock_(clock), irq0_(std::move(irq0)), epoch_(clock.now()), synced_tick_(first_tick) {
  counters_[2].set_gate(first_tick, false);
}

u64 Pit::sync() {
  run(clock_.now());
  return synced_tick_;
}

void Pit::sync_to(u64 tick) {
  if (tick <= synced_tick_) return;
  const std::optional<u64> rise = counters_[0].next_rise(synced_tick_);
  synced_tick_ = tick;
  for (PitCounter& counter : counters_) counter.advance(tick);
  if (rise && *rise <= tick) irq0_.raise_edge();
}

void Pit::follow_out0(u64 tick) {
  const u8 mode = counters_[0].state().mode;
  irq0_.set(mode == 2 || mode == 3 || counters_[0].out(tick));
}

void Pit::set_gate2(bool level) {
  const u64 tick = sync();
  counters_[2].set_gate(tick, level);
}

bool Pit::out(unsigned counter) {
  const u64 tick = sync();
  return counters_[counter % 3].out(tick);
}

std::optional<Nanoseconds> Pit::next_deadline() const {
  const std::optional<u64> rise = counters_[0].next_rise(synced_tick_);
  if (!rise) return std::nullopt;
  return epoch_ + rate.time_of(*rise - first_tick);
}

void Pit::run(Nanoseconds now) {
  if (static_cast<i64>(now - epoch_) > 0) sync_to(first_tick + rate.ticks_in(now - epoch_));
}

u8 Pit::read_byte(u32 offset) {
  const u64 tick = sync();
  if ((offset & 3) == 3) return 0xFF;  // the control word register cannot be read; the bus floats
  return counters_[offset & 3].read_byte(tick);
}

void Pit::write_byte(u32 offset, u8 value) {
  const u64 tick = sync();
  if ((offset & 3) == 3)
    write_control(tick, value);
  else
    counters_[offset & 3].write_count_byte(tick, value);
  if ((offset & 3) == 0) follow_out0(tick);
}

void Pit::write_control(u64 tick, u8 value) {
  const unsigned select = value >> 6;
  const u8 access = (value >> 4) & 3;
  if (select == 3) {
    // Read-back command (data sheet, figure 11): COUNT# and STATUS# are active low.
    for (unsigned i = 0; i < 3; ++i) {
      if ((value & (2u << i)) == 0) continue;
      if ((value & 0x20) == 0) counters_[i].latch_count(tick);
      if ((value & 0x10) == 0) counters_[i].latch_status(tick);
    }
    return;
  }
  if (access == 0) {
    counters_[select].latch_count(tick);
    return;
  }
  const u8 mode = (value >> 1) & 7;
  counters_[select].write_control(tick, access, mode > 5 ? static_cast<u8>(mode & 3) : mode, (value & 1) != 0);
  if (select == 0) follow_out0(tick);
}

Pit::State Pit::state() const { return {{counters_[0].state(), counters_[1].state(), counters_[2].state()}, synced_tick_, irq0_.level()}; }

void Pit::restore(const State& state) {
  // The saved ticks continue from now.
  for (unsigned i = 0; i < 3; ++i) counters_[i].restore(state.counters[i]);
  synced_tick_ = state.synced_tick;
  epoch_ = clock_.now() - rate.time_of(synced_tick_ - first_tick);
  irq0_.set(state.irq0_level);
}

}  // namespace ring3
