// One machine: everything there is, in construction order, and the loop around the engine that knows what a reset means.
#pragma once

#include "base/log.h"
#include "base/sanitizer.h"
#include "codecache/code_region.h"
#include "guest/cpu_state.h"
#include "machine/board.h"
#include "machine/loaders/loader.h"
#include "runtime/bt/bt_engine.h"
#include "runtime/engine.h"
#include "runtime/interp/native_stubs.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/ram.h"
#include "runtime/system/cpu_model.h"
#include "runtime/vcpu.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace ring3 {

enum class EngineKind : u8 { bt, interp };

// Emitted code cannot run beside AddressSanitizer: there Machine refuses `bt` with a UserError.
inline constexpr EngineKind default_engine = address_sanitizer ? EngineKind::interp : EngineKind::bt;

struct MachineConfig {
  BootOptions boot;
  u64 ram_bytes = u64{256} << 20;
  bool reboot = true;  // a reset or triple fault starts the guest again instead of ending the run
  CpuName cpu = CpuName::core;
  EngineKind engine = default_engine;
  u64 cache_bytes = u64{32} << 20;    // of translated code
  std::optional<u64> contexts_bytes;  // Memory::limit_contexts
  BtOptions bt;
  BoardConfig board;
};

enum class RunEnd : u8 {
  power_off,
  debug_exit,  // value: (v << 1) | 1
  reset,
  triple_fault,
  halted_for_good,
  timeout,
  missing_feature,
  lockstep_difference,
  quit_key,
  signal,  // value: the signal's number
};

struct RunResult {
  RunEnd end = RunEnd::power_off;
  u32 value = 0;
  std::string detail;  // from the engine: may have several lines
};

class Machine {
 public:
  // Checks the memory size and loads the guest: throws UserError before anything runs.
  Machine(const MachineConfig& config, TraceLog& trace);

  // `on_reboot` hears why the guest starts again, before its memory is gone.
  [[nodiscard]] RunResult run(const std::function<void(const RunResult& why)>& on_reboot);

  [[nodiscard]] Board& board() { return board_; }
  [[nodiscard]] const CpuState& cpu() const { return cpu_; }
  [[nodiscard]] const Memory& memory() const { return memory_; }
  [[nodiscard]] const GuestRam& ram() const { return ram_; }
  // Null when the engine does not translate.
  [[nodiscard]] const CodeCache* code_cache() const;
  // The block that lockstep checking stopped at, or null.
  [[nodiscard]] const Block* difference() const;
  [[nodiscard]] EngineStats stats() const { return engine_->stats(); }

 private:
  void power_on();

  MachineConfig config_;
  GuestRam ram_;
  CodeRegion region_;
  CpuState& cpu_;  // lies in front of the code cache
  Board board_;
  Memory memory_;
  CpuModel model_;
  NativeStubs native_;
  Vcpu vcpu_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace ring3
