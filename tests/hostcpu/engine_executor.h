// The engines as executors: each state is a run from CPL 3 into the guest kernel's handler.
#pragma once

#include "codecache/code_region.h"
#include "guest.h"
#include "runtime/bt/bt_engine.h"
#include "runtime/interp/interp_engine.h"

#include <array>
#include <memory>
#include <string_view>

namespace ring3::hostcpu {

// What happens around each run of a program.
class StateObserver {
 public:
  virtual ~StateObserver() = default;
  virtual void before(u32 state) = 0;
  // False: the states that remain are not run.
  virtual bool after(u32 state, const Outcome& outcome) = 0;
};

class EngineExecutor final : private ProgramWatcher {
 public:
  // The last two: the translator, with all accesses through a window, at a high host address or at 0.
  enum class Kind : u8 { interpreter, translator, windows, low_window };

  explicit EngineExecutor(Kind kind);
  ~EngineExecutor();
  EngineExecutor(const EngineExecutor&) = delete;
  EngineExecutor& operator=(const EngineExecutor&) = delete;

  [[nodiscard]] std::string_view name() const {
    constexpr std::array<std::string_view, 4> names{"interpreter", "translator", "translator with windows", "translator with a low window"};
    return names[static_cast<unsigned>(kind_)];
  }
  [[nodiscard]] bool translates() const { return kind_ != Kind::interpreter; }
  // The data pages [data_base, data_end).
  [[nodiscard]] u8* data() { return guest_.data(); }
  [[nodiscard]] const CpuModel& model() const { return guest_.model; }

  void load_ldt(const Ldt& ldt) { guest_.load_ldt(ldt); }
  void place(const Program& program);
  // Runs states [first, first + count) of the batch without leaving the engine in between. `failure` says why an outcome is `not_run`.
  void run(const Batch& batch, const Program& program, u32 first, u32 count, StateObserver& observer);
  [[nodiscard]] const std::string& failure() const { return failure_; }
  // The descriptor caches after the last run, as they were in the program.
  [[nodiscard]] const std::array<SegmentCache, segment_count>& segments() const { return segments_; }

  // Whether the code ran with windows as its kind wants.
  [[nodiscard]] bool windows_as_wanted() {
    const MemoryStats stats = guest_.vcpu.mem.stats();
    return (stats.windows_opened != 0) == (kind_ >= Kind::windows) && (stats.windows_low != 0) == (kind_ == Kind::low_window);
  }
  // How often this row was interpreted so far, faults included.
  [[nodiscard]] u64 interpreted(Row row) const { return stepper().executed()[static_cast<unsigned>(row)]; }

 private:
  bool program_left() override;
  bool overran() override;
  void take_outcome();
  [[nodiscard]] const Stepper& stepper() const { return bt_ != nullptr ? bt_->stepper() : interp_->stepper(); }

  Kind kind_;
  CodeRegion region_;
  CpuState& state_;
  Guest guest_;
  std::unique_ptr<BtEngine> bt_;
  std::unique_ptr<InterpEngine> interp_;
  Engine* engine_ = nullptr;
  std::array<SegmentCache, segment_count> segments_{};
  std::string failure_;
  u32 way_out_ = 0;  // length of what leaves the program
  // Of the run going on.
  const Batch* batch_ = nullptr;
  const Program* program_ = nullptr;
  StateObserver* observer_ = nullptr;
  u32 current_ = 0;
  u32 end_ = 0;
  u64 started_ = 0;       // CPU time at which the current state began, ns
  bool endless_ = false;  // it has run for too long
  Outcome outcome_;
};

}  // namespace ring3::hostcpu
