// One face for all engines: run the guest CPU until something ends the run.
#pragma once

#include "base/types.h"
#include "runtime/stats.h"

#include <string>

namespace ring3 {

struct CpuState;

enum class StopReason : u8 {
  bus_request,      // Bus::stop_requested(): the machine knows why
  triple_fault,     // a fault while delivering #DF (SDM vol. 3, 6.15)
  halted_for_good,  // HLT with interrupts off
  missing_feature,  // the guest used something that is not there; `detail` names bytes, address and mode
  lockstep_difference,
};

struct StopInfo {
  StopReason reason = StopReason::bus_request;
  std::string detail;
};

class Engine {
 public:
  virtual ~Engine() = default;
  // Runs until the run must end. Host errors are C++ exceptions; guest faults never are.
  virtual StopInfo run() = 0;
  // Forgets everything cached about guest memory and CPU mode: after reset or after state was changed from outside.
  virtual void reset() = 0;
  // What the run did so far; what an engine does not have stays 0.
  [[nodiscard]] virtual EngineStats stats() const { return {}; }
};

}  // namespace ring3
