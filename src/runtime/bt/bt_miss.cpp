// Soft-table misses of sites that look up by call (translator/stubs.h): no host signal, and no interpreter where the tables can be filled.
#include <utility>

#include "base/error.h"
#include "runtime/bt/bt_engine.h"

namespace ring3 {

namespace {

// A call costs a hit some two nanoseconds and a miss by fault two microseconds, so a site is given the benefit of the doubt once.
constexpr u8 misses_before_call = 2;

}  // namespace

void BtEngine::look_up_by_call(Block& block, u32 point, u64 host) {
  if (!options_.translator.optimizations.on(Optimization::miss_calls)) return;
  SiteForm& form = forms_.at(block.key.physical + block.point(point).guest_offset);
  if (form.misses < misses_before_call && ++form.misses < misses_before_call) return;
  form.calls = true;
  if (cache_.call_look_up(block, point, host)) ++counters_.calling_sites;
}

// A C++ exception cannot pass through emitted code; what may be thrown here is that the host has no memory left.
contract::Filled BtEngine::fill_entry(BtEngine* engine, u32 linear, u32 write) noexcept { return engine->fill(linear, write != 0); }

contract::Filled BtEngine::fill(u32 linear, bool write) {
  ++counters_.misses_by_call;
  const u64 generation = cache_.generation();
  const std::optional<u64> entry = v_.mem.fill(linear, write ? Access::write : Access::read, v_.s.cpl == 3, v_.fault);
  v_.s.link.fill_fault = entry ? FillFault::none : FillFault::raised;
  if (!entry) return {0, prepare_page_fault()};
  // The walk may have set A or D in the running block.
  return {cache_.generation() == generation ? *entry : 0, 0};
}

// For the stub that delivers it, which may still find that it cannot: then miss_here does, with the same fault.
bool BtEngine::prepare_page_fault() {
  CpuState& s = v_.s;
  if (!delivers_ || guard_->event()) return false;
  const u64 return_address = *reinterpret_cast<const u64*>(s.link.emitted_stack + contract::fill_caller);
  const MissSite& site = miss_site(return_address - 1);
  // An x87 pointer may not be stored yet, and MMX instructions that fault have changed the x87 state already.
  if (site.block->uses_x87) return false;
  s.eip = site.eip;
  s.cr2 = v_.fault.address;
  s.link.esp_pending = site.esp_pending;
  s.link.error_code = v_.fault.error_code;
  stepper_.note_fault();
  s.link.fill_fault = FillFault::noted;
  return true;
}

StepOutcome BtEngine::deliver(FillFault fault) {
  if (fault != FillFault::noted) stepper_.note_fault();
  return stepper_.deliver_noted();
}

BtEngine::Next BtEngine::on_miss() {
  CpuState& s = v_.s;
  const CodeCache::Site site = cache_.find_host(s.link.exit_argument - 1);
  if (site.block == nullptr) throw InternalError("a look-up was called from outside every block");
  Block& block = *site.block;
  s.eip = guest_eip(block, site.point);
  if (block.point(site.point).shadowed) s.shadow = Shadow::sti;
  ++counters_.calls_unfilled;
  ++counters_.skipped_instructions;
  const u64 generation = cache_.generation();
  const FillFault fault = std::exchange(s.link.fill_fault, FillFault::none);
  // FPU instructions have faults that come before #PF (SDM vol. 3, table 6-2).
  if (fault == FillFault::noted || (fault == FillFault::raised && !block.uses_fpu)) {
    if (deliver(fault) == StepOutcome::stop) {
      stop_ = stepper_.stop_info();
      return Next::stop;
    }
  } else {
    if (step() == Next::stop) return Next::stop;
    if (after_access() == Next::stop) return Next::stop;
  }
  return go_on_in(block, site.point + 1, generation);
}

}  // namespace ring3
