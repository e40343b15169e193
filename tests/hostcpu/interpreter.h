// The interpreter's rows as an executor: a guest at CPL 3 with paging, whose pages lie as layout.h says.
#pragma once

#include "devices/bus.h"
#include "executor.h"
#include "runtime/interp/handlers.h"
#include "runtime/interp/native_stubs.h"
#include "runtime/memory/ram.h"
#include "runtime/system/cpu_model.h"

namespace ring3::hostcpu {

// No ports, no devices, no interrupts.
class NoBus final : public Bus {
 public:
  u32 io_read(u16, unsigned) override { return ~0u; }
  void io_write(u16, unsigned, u32) override {}
  u64 mmio_read(PhysAddr, unsigned) override { return ~u64{0}; }
  void mmio_write(PhysAddr, unsigned, u64) override {}
  [[nodiscard]] bool interrupt_requested() const override { return false; }
  u8 acknowledge_interrupt() override { return 0; }
  void service() override {}
  [[nodiscard]] std::optional<Nanoseconds> next_deadline() const override { return std::nullopt; }
  void wait_for_event() override {}
  [[nodiscard]] bool stop_requested() const override { return false; }
  void set_ferr(bool) override {}
};

class Interpreter final : public Executor {
 public:
  Interpreter();
  [[nodiscard]] std::string name() const override { return "interpreter"; }
  [[nodiscard]] u8* data() override;
  void run(const Case& test, Outcome& out) override;

  // Whether there is something to test: a handler, and a feature that the CPU model announces.
  [[nodiscard]] bool has(Row row) const { return handlers_.get(row) != nullptr && model_.has(row_info(row).feature); }

 private:
  CpuState state_;
  GuestRam ram_{1u << 20};
  NoBus bus_;
  Memory memory_{state_, ram_, bus_};
  CpuModel model_ = CpuModel::make_default();
  NativeStubs stubs_;
  Vcpu vcpu_{state_, memory_, bus_, model_};
  HandlerTable handlers_;
};

}  // namespace ring3::hostcpu
