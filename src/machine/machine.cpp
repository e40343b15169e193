#include "machine/machine.h"

#include "base/error.h"
#include "base/size.h"
#include "runtime/interp/interp_engine.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <cstring>

namespace ring3 {
namespace {

u64 checked_ram_size(u64 bytes) {
  if (bytes < minimum_ram || bytes > maximum_ram)
    throw UserError(
        fmt::format("--memory {}: must lie between {} and {}", format_size(bytes), format_size(minimum_ram), format_size(maximum_ram)));
  if (bytes % (u64{1} << 20) != 0)
    throw UserError(fmt::format("--memory {}: must be a multiple of 1 MiB; write it like 256M", format_size(bytes)));
  return bytes;
}

std::unique_ptr<Engine> make_engine(const MachineConfig& config, Vcpu& vcpu, CodeRegion& region) {
  if (address_sanitizer && config.engine == EngineKind::bt)
    throw UserError(
        "--engine bt: this ring3 is built with AddressSanitizer, whose memory lies where translated code needs a hole; use --engine "
        "interp");
  switch (config.engine) {
    case EngineKind::bt: return std::make_unique<BtEngine>(vcpu, region, config.bt);
    case EngineKind::interp: return std::make_unique<InterpEngine>(vcpu);
  }
  throw InternalError("unknown engine");
}

RunResult result_of(const StopInfo& stop, const StopRequest& request) {
  switch (stop.reason) {
    case StopReason::triple_fault: return {RunEnd::triple_fault, 0, stop.detail};
    case StopReason::halted_for_good: return {RunEnd::halted_for_good, 0, stop.detail};
    case StopReason::missing_feature: return {RunEnd::missing_feature, 0, stop.detail};
    case StopReason::lockstep_difference: return {RunEnd::lockstep_difference, 0, stop.detail};
    case StopReason::bus_request: break;
  }
  switch (request.cause) {
    case StopCause::power_off: return {RunEnd::power_off, 0, {}};
    case StopCause::reset: return {RunEnd::reset, 0, {}};
    case StopCause::debug_exit: return {RunEnd::debug_exit, request.value, {}};
    case StopCause::timeout: return {RunEnd::timeout, 0, {}};
    case StopCause::quit_key: return {RunEnd::quit_key, 0, {}};
    case StopCause::signal: return {RunEnd::signal, request.value, {}};
    case StopCause::none: break;
  }
  throw InternalError("the engine stopped for a bus request that nobody made");
}

}  // namespace

Machine::Machine(const MachineConfig& config, TraceLog& trace)
    : config_(config),
      ram_(checked_ram_size(config.ram_bytes)),
      region_(config.cache_bytes),
      cpu_(*new (region_.state_area()) CpuState),
      board_(config.board, ram_, trace),
      memory_(cpu_, ram_, board_),
      model_(CpuModel::make(config.cpu)),
      vcpu_(cpu_, memory_, board_, model_),
      engine_(make_engine(config, vcpu_, region_)) {
  vcpu_.native = &native_;
  vcpu_.trace = &trace;
  memory_.set_paging_model(model_.paging());
  if (config.contexts_bytes) memory_.limit_contexts(*config.contexts_bytes);
  board_.attach(memory_);
  power_on();
}

const CodeCache* Machine::code_cache() const {
  return config_.engine == EngineKind::bt ? &static_cast<const BtEngine&>(*engine_).cache() : nullptr;
}

const Block* Machine::difference() const {
  return config_.engine == EngineKind::bt ? static_cast<const BtEngine&>(*engine_).difference() : nullptr;
}

void Machine::power_on() {
  board_.power_on();
  enter_protected_mode(ram_, cpu_, load_guest(ram_, config_.boot));
  memory_.flush_all();
  engine_->reset();
}

RunResult Machine::run(const std::function<void(const RunResult& why)>& on_reboot) {
  for (;;) {
    const StopInfo stop = engine_->run();
    RunResult result = result_of(stop, board_.stop());
    const bool restarts = result.end == RunEnd::reset || result.end == RunEnd::triple_fault;
    if (!restarts || !config_.reboot) return result;
    on_reboot(result);
    // Guests find memory as after power-on, and its pages go back to the host; a host that cannot punch holes gets them zeroed instead.
    if (::madvise(ram_.base(), ram_.size(), MADV_REMOVE) != 0) std::memset(ram_.base(), 0, ram_.size());
    power_on();
  }
}

}  // namespace ring3
