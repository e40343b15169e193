// The interpreter's rows, called one by one, as an executor.
#pragma once

#include "frontend/decoder.h"
#include "guest.h"
#include "runtime/interp/handlers.h"

namespace ring3::hostcpu {

class Interpreter final : public Executor {
 public:
  [[nodiscard]] std::string name() const override { return "interpreter"; }
  [[nodiscard]] u8* data() override { return guest_.data(); }
  void run(const Case& test, Outcome& out) override;

  // Whether there is something to test: a handler, and a feature that the CPU model announces.
  [[nodiscard]] bool has(Row row) const { return handlers_.get(row) != nullptr && guest_.model.has(row_info(row).feature); }

 private:
  // Executes one instruction and advances EIP.
  void execute(const Insn& insn, Outcome& out);

  CpuState state_;
  Guest guest_{state_};
  HandlerTable handlers_;
  Decoder decoder_;
};

}  // namespace ring3::hostcpu
