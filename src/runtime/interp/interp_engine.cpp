#include "runtime/interp/interp_engine.h"

#include <ctime>

namespace ring3 {

namespace {

// Instructions between two looks at the clock and at stop requests: some 10 microseconds.
constexpr unsigned steps_per_look = 256;

// Host input comes in without a deadline: look for it now and then even when no timer is due, some milliseconds apart.
constexpr unsigned looks_per_service = 256;

constexpr auto port_rows = [] {
  std::array<bool, row_count + 1> is_port{};
  for (unsigned n = 0; n < row_count; ++n) is_port[n] = row_table[n].family == Family::io;
  return is_port;
}();

Nanoseconds now() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<Nanoseconds>(t.tv_sec) * 1'000'000'000u + static_cast<Nanoseconds>(t.tv_nsec);
}

}  // namespace

InterpEngine::InterpEngine(Vcpu& vcpu) : v_(vcpu), stepper_(vcpu) { v_.mem.set_watcher(this); }

InterpEngine::~InterpEngine() { v_.mem.set_watcher(nullptr); }

StopInfo InterpEngine::run() {
  CpuState& s = v_.s;
  for (;;) {
    if (v_.bus.stop_requested()) return {StopReason::bus_request, {}};
    service_when_due();
    if (s.halted) {
      // There is no NMI source: nothing can wake it (SDM vol. 2, HLT).
      if ((s.eflags & flag::if_) == 0) return {StopReason::halted_for_good, {}};
      if (!v_.bus.interrupt_requested()) {
        v_.bus.wait_for_event();
      } else if (stepper_.take_interrupt() == StepOutcome::stop) {
        return stepper_.stop_info();
      }
    } else if (!run_steps()) {
      return stepper_.stop_info();
    }
  }
}

bool InterpEngine::run_steps() {
  const CpuState& s = v_.s;
  // Nothing raises the line while no port is touched and no timer runs, so it is asked for only once per look; while it is high, IF and
  // the shadow decide at each boundary.
  bool line = v_.bus.interrupt_requested();
  for (unsigned n = 0; n < steps_per_look; ++n) {
    if (line && (s.eflags & flag::if_) != 0) {
      if (stepper_.take_interrupt() == StepOutcome::stop) return false;
      line = v_.bus.interrupt_requested();
    }
    switch (stepper_.step()) {
      case StepOutcome::fault:  // not held back here
      case StepOutcome::ok: break;
      case StepOutcome::halted: return true;
      case StepOutcome::stop: return false;
    }
    // A port may have stopped the machine or armed a timer.
    if (port_rows[static_cast<unsigned>(stepper_.last_row())]) return true;
  }
  return true;
}

void InterpEngine::service_when_due() {
  const std::optional<Nanoseconds> deadline = v_.bus.next_deadline();
  if (++looks_ % looks_per_service != 0 && !(deadline && now() >= *deadline)) return;
  v_.bus.service();
}

void InterpEngine::reset() { stepper_.forget_all(); }

EngineStats InterpEngine::stats() const {
  EngineStats out;
  out.interpreted_by_row = stepper_.executed();
  out.delivered = stepper_.delivered();
  out.last_exceptions = stepper_.exceptions().last();
  return out;
}

void InterpEngine::code_written(PhysAddr address, u32 size) {
  stepper_.code_written(address, size);
  // A page that has no code left (it was freed and holds data now) gets its quick writes back.
  for (u64 page = address.value & ~u64{page_mask}; page < address.value + size; page += page_size) {
    if (!stepper_.has_code({page})) v_.mem.unwatch_code({page});
  }
}

}  // namespace ring3
