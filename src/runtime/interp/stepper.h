// Executes guest instructions one at a time: the slow, correct path under every engine.
#pragma once

#include "base/types.h"
#include "frontend/decoder.h"
#include "runtime/engine.h"
#include "runtime/interp/handlers.h"
#include "runtime/vcpu.h"

#include <array>

namespace ring3 {

// What remains to be done after a step; `stop` carries the reason out of the run loop.
enum class StepOutcome : u8 { ok, halted, stop };

class Stepper {
 public:
  explicit Stepper(Vcpu& vcpu);
  ~Stepper();
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  // Executes the already decoded instruction at EIP: handler, EIP, interrupt shadow, single-step trap, fault delivery.
  // Every flow ends at an instruction boundary with CpuState exact.
  StepOutcome execute(const Insn& insn);
  // Fetches, decodes (cached by physical address while the page is watched) and executes the instruction at EIP. Fetch faults and #UD
  // are delivered to the guest.
  StepOutcome step();
  // Delivers `vcpu.fault` to the guest, as raised by the instruction at EIP.
  StepOutcome deliver();
  // Recognizes a pending interrupt if IF and the shadow allow. Returns ok also when there was none.
  StepOutcome take_interrupt();

  // Forget decoded instructions of a written page (called by the engine's CodeWatcher).
  void code_written(PhysAddr address, u32 size);

  [[nodiscard]] const StopInfo& stop_info() const { return stop_; }
  // Executed by the interpreter, by row; the last element counts invalid opcodes.
  [[nodiscard]] const std::array<u64, row_count + 1>& executed() const { return executed_; }
  // Exceptions and interrupts delivered, by vector.
  [[nodiscard]] const std::array<u64, 256>& delivered() const { return delivered_; }

 private:
  struct Cache;
  Vcpu& v_;
  HandlerTable handlers_;
  Decoder decoder_;
  Cache* cache_;
  StopInfo stop_;
  std::array<u64, row_count + 1> executed_{};
  std::array<u64, 256> delivered_{};
};

}  // namespace ring3
