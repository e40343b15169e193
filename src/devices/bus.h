// What a CPU engine sees of the board: ports, physical addresses that are not RAM, the interrupt line, and time.
#pragma once

#include "base/types.h"
#include "guest/address.h"

#include <optional>
#include <utility>

namespace ring3 {

// Host monotonic nanoseconds; the machine's only clock.
using Nanoseconds = u64;

class Bus {
 public:
  virtual ~Bus() = default;

  // `size` is 1, 2 or 4 bytes. Unknown ports read as all ones.
  virtual u32 io_read(u16 port, unsigned size) = 0;
  virtual void io_write(u16 port, unsigned size, u32 value) = 0;

  // An access to this port raises no line, arms no timer and stops nothing: nothing has to be asked for again after it.
  [[nodiscard]] virtual bool is_quiet(u16 /*port*/) const { return false; }

  // Physical accesses outside RAM; `size` is 1, 2, 4 or 8 and the access does not cross a page. Unknown addresses read as all ones.
  virtual u64 mmio_read(PhysAddr address, unsigned size) = 0;
  virtual void mmio_write(PhysAddr address, unsigned size, u64 value) = 0;

  // INTR of the CPU.
  [[nodiscard]] virtual bool interrupt_requested() const = 0;
  // INTA cycle: returns the vector and moves the request into service.
  virtual u8 acknowledge_interrupt() = 0;

  // Runs device timers that are due and moves host input into devices. Called at safe points only.
  virtual void service() = 0;
  // When `service` must run next, as host monotonic time; empty: no timer is armed.
  [[nodiscard]] virtual std::optional<Nanoseconds> next_deadline() const = 0;
  // HLT: blocks the thread until a deadline, host input or a stop request; then behaves like `service`.
  virtual void wait_for_event() = 0;

  // A device asked the machine to stop (power-off, reset, debug exit, time-out, quit key).
  [[nodiscard]] virtual bool stop_requested() const = 0;
  // FERR# of the FPU (IRQ 13 wiring, CR0.NE = 0).
  virtual void set_ferr(bool asserted) = 0;
  // IGNNE# of the FPU: with CR0.NE = 0, x87 instructions go on although an exception is pending.
  [[nodiscard]] virtual bool ignne() const { return false; }

  // Whoever makes an access for the CPU notes it; the engine that takes the note asks again for interrupt line, deadline and stop requests.
  void note_access() { accessed_ = true; }
  [[nodiscard]] bool take_access() { return std::exchange(accessed_, false); }

 private:
  bool accessed_ = false;
};

}  // namespace ring3
