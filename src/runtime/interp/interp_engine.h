// The engine that only interprets: `--engine interp`, the reference for lockstep, and the first way to boot anything.
#pragma once

#include "runtime/engine.h"
#include "runtime/interp/stepper.h"

namespace ring3 {

class InterpEngine : public Engine, private CodeWatcher {
 public:
  // Becomes the memory's code watcher until it is destroyed.
  explicit InterpEngine(Vcpu& vcpu);
  ~InterpEngine() override;
  InterpEngine(const InterpEngine&) = delete;
  InterpEngine& operator=(const InterpEngine&) = delete;

  StopInfo run() override;
  void reset() override;
  [[nodiscard]] EngineStats stats() const override;

  [[nodiscard]] const Stepper& stepper() const { return stepper_; }

 private:
  void code_written(PhysAddr address, u32 size) override;

  // Steps until the bus should be looked at again. False: the run ends, see stepper_.stop_info().
  bool run_steps();
  void service_when_due();

  Vcpu& v_;
  Stepper stepper_;
  unsigned looks_ = 0;
};

}  // namespace ring3
