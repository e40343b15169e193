// Executes guest instructions one at a time: the slow, correct path under every engine.
#pragma once

#include "base/types.h"
#include "frontend/decoder.h"
#include "runtime/engine.h"
#include "runtime/interp/handlers.h"
#include "runtime/stats.h"
#include "runtime/vcpu.h"

#include <array>

namespace ring3 {

namespace interp {
struct DecodedInsn;
}
enum class Delivery : u8;

// What remains to be done after a step; `stop` carries the reason out of the run loop.
enum class StepOutcome : u8 {
  ok,
  halted,
  stop,
  fault,  // held back: Vcpu::fault
};

class Stepper {
 public:
  explicit Stepper(Vcpu& vcpu);
  ~Stepper();
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  // Executes the already decoded instruction at EIP: handler, EIP, interrupt shadow, single-step trap, fault delivery.
  // Every flow ends at an instruction boundary with CpuState exact.
  StepOutcome execute(const Insn& insn);
  // The same for one whose handler was looked up before; with `hold_fault` a fault is left to the caller, who has the state before it.
  StepOutcome execute(const Insn& insn, Handler handler, bool hold_fault) { return run(insn, handler, hold_fault); }
  [[nodiscard]] Handler handler_of(const Insn& insn) const;  // #UD for what the CPU model lacks
  // Fetches, decodes (cached by physical address while the page is watched) and executes the instruction at EIP. Fetch faults and #UD
  // are delivered to the guest.
  StepOutcome step();
  // Delivers `vcpu.fault` to the guest, as raised by the instruction at EIP.
  StepOutcome deliver();
  // Its two halves: counts and traces the fault; delivers it. Emitted code may do the second itself.
  void note_fault();
  StepOutcome deliver_noted();
  // Recognizes a pending interrupt if IF and the shadow allow. Returns ok also when there was none.
  StepOutcome take_interrupt();

  // --- called by the engine's CodeWatcher; all are safe while an instruction executes ---
  // Forgets decoded instructions that have a byte in [address, address + size). Also due before Memory::unwatch_code of a page: without
  // the watch nobody would tell of later writes.
  void code_written(PhysAddr address, u32 size);
  // Is an instruction of this physical page kept, so that the page must stay watched?
  [[nodiscard]] bool has_code(PhysAddr page) const;

  // After state was changed from outside. Not while an instruction executes.
  void forget_all();

  [[nodiscard]] const StopInfo& stop_info() const { return stop_; }
  // A REP yielded between two elements and nothing came in since: RF is set only in case something does.
  [[nodiscard]] bool repeating() const { return repeating_; }
  // Emitted code left a REP between two elements: what comes in before it goes on pushes RF.
  void yield_repeat() {
    v_.s.eflags |= flag::rf;
    repeating_ = true;
  }
  // Of the instruction executed last.
  [[nodiscard]] Row last_row() const { return last_row_; }
  // Exceptions and interrupts delivered so far.
  [[nodiscard]] u64 deliveries() const { return deliveries_; }
  // Executed by the interpreter, by row; the last element counts invalid opcodes.
  [[nodiscard]] const std::array<u64, row_count + 1>& executed() const { return executed_; }
  // Exceptions and interrupts delivered, by vector.
  [[nodiscard]] const std::array<u64, 256>& delivered() const { return delivered_; }
  // The last exceptions delivered (not interrupts).
  [[nodiscard]] const ExceptionLog& exceptions() const { return exceptions_; }

 private:
  struct Cache;
  StepOutcome run(const Insn& insn, Handler handler, bool hold_fault = false);
  // Null: `vcpu.fault` says why.
  const interp::DecodedInsn* decode_at_eip();
  // Returns the instruction's length; 0: `vcpu.fault` says why. `in_page` of the bytes lie in the first page.
  unsigned fetch_and_decode(u32 linear, bool user, bool code32, unsigned in_page, Insn& insn);
  StepOutcome debug_trap(u32 reasons);  // #DB at this boundary; bits of DR6
  StepOutcome finish(Delivery delivery);
  StepOutcome stop_missing(const Insn& insn);
  StepOutcome stop_mode();  // real mode or v8086

  Vcpu& v_;
  HandlerTable handlers_;
  Decoder decoder_;
  Cache* cache_;
  StopInfo stop_;
  Row last_row_ = Row::invalid;
  bool repeating_ = false;
  u64 deliveries_ = 0;
  std::array<u64, row_count + 1> executed_{};
  std::array<u64, 256> delivered_{};
  ExceptionLog exceptions_;
};

}  // namespace ring3
