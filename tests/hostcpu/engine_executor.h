// An engine as an executor: each case is a run from CPL 3 into the guest kernel's handler.
#pragma once

#include "codecache/code_region.h"
#include "guest.h"
#include "runtime/bt/bt_engine.h"

#include <memory>

namespace ring3::hostcpu {

class EngineExecutor final : public Executor {
 public:
  EngineExecutor();
  ~EngineExecutor() override;
  [[nodiscard]] std::string name() const override { return "translator"; }
  [[nodiscard]] u8* data() override { return guest_.data(); }
  void run(const Case& test, Outcome& out) override;
  // The same case once more without writing its code anew: an engine may have learnt something about the instruction, such as that its
  // operand is misaligned.
  void run_again(const Case& test, Outcome& out);

  // Whether the last case's own instruction ran in the interpreter.
  [[nodiscard]] bool interpreted() const { return interpreted_; }

 private:
  CodeRegion region_;
  CpuState& state_;
  Guest guest_;
  std::unique_ptr<BtEngine> engine_;
  bool interpreted_ = false;
};

}  // namespace ring3::hostcpu
