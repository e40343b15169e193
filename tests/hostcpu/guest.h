// A guest whose user pages lie as layout.h says, with PAE and NX as on the host, at CPL 3: for engines.
#pragma once

#include "devices/bus.h"
#include "executor.h"
#include "runtime/interp/native_stubs.h"
#include "runtime/memory/ram.h"
#include "runtime/system/cpu_model.h"
#include "runtime/vcpu.h"

#include <span>

namespace ring3::hostcpu {

// Is told when the guest's kernel has taken the CPU from a program.
class ProgramWatcher {
 public:
  virtual ~ProgramWatcher() = default;
  // The OUT that says so is being executed. May put the CPU into another program. False: the engine is to return.
  virtual bool program_left() = 0;
  // Asked now and then while a program runs. True: it has run for too long, the engine is to return.
  virtual bool overran() = 0;
};

// No devices, no interrupts; a write to `stop_port` goes to the watcher.
class StopBus final : public Bus {
 public:
  static constexpr u16 stop_port = 0xF4;

  u32 io_read(u16, unsigned) override { return ~0u; }
  void io_write(u16 port, unsigned, u32) override {
    if (port == stop_port && !watcher->program_left()) stop = true;
  }
  u64 mmio_read(PhysAddr, unsigned) override { return ~u64{0}; }
  void mmio_write(PhysAddr, unsigned, u64) override {}
  [[nodiscard]] bool interrupt_requested() const override { return false; }
  u8 acknowledge_interrupt() override { return 0; }
  void service() override {
    if (watcher->overran()) stop = true;
  }
  [[nodiscard]] std::optional<Nanoseconds> next_deadline() const override { return std::nullopt; }
  void wait_for_event() override {}
  [[nodiscard]] bool stop_requested() const override { return stop; }
  void set_ferr(bool) override {}

  ProgramWatcher* watcher = nullptr;
  bool stop = false;
};

// The guest's kernel: one handler for each vector, which writes to the stop port. Supervisor pages, out of reach of generated addresses.
inline constexpr u32 idt_at = kernel_base;
inline constexpr u32 gdt_at = kernel_base + page;
inline constexpr u32 ldt_at = kernel_base + page + 0x400;
inline constexpr u32 tss_at = kernel_base + page + 0x800;
inline constexpr u32 handlers_at = kernel_base + 2 * page;
inline constexpr u32 handler_spacing = 16;
inline constexpr u32 fpu_image_at = kernel_base + 3 * page;
inline constexpr u32 kernel_stack_top = kernel_base + 8 * page;
// What leaves the code under test.
inline constexpr u8 leave_vector = 0x80;

class Guest {
 public:
  explicit Guest(CpuState& cpu);

  [[nodiscard]] u8* data();
  [[nodiscard]] u8* code();  // of the code page
  [[nodiscard]] u8* kernel(u32 linear);
  // Puts code (at most to the end of its page) where `linear` is, and HLTs where the code before was.
  void place_code(u32 linear, std::span<const u8> bytes);
  void load_ldt(const Ldt& ldt);
  // CPL 3 in the program's segments, ready to execute it.
  void enter(const Batch& batch, const Program& program, const State& state);
  // The same from within ProgramWatcher::program_left.
  void enter_from_handler(const Batch& batch, const Program& program, const State& state);

  CpuState& state;
  GuestRam ram{1u << 20};
  StopBus bus;
  Memory memory;
  CpuModel model = CpuModel::make_default();
  NativeStubs stubs;
  Vcpu vcpu;

 private:
  u32 placed_at_ = code_base;
  u32 placed_ = 0;
};

}  // namespace ring3::hostcpu
