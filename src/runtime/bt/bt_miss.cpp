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
  v_.s.link.held_fault = entry ? HeldFault::none : HeldFault::raised;
  if (!entry) return {0, prepare_page_fault()};
  // The walk may have set A or D in the running block.
  return {cache_.generation() == generation ? *entry : 0, 0};
}

bool BtEngine::prepare_page_fault() {
  if (!delivers_ || guard_->event()) return false;
  const u64 return_address = *reinterpret_cast<const u64*>(v_.s.link.emitted_stack + contract::fill_caller);
  const MissSite& site = miss_site(return_address - 1);
  // An x87 pointer may not be stored yet, and MMX instructions that fault have changed the x87 state already.
  if (site.block->uses_x87) return false;
  prepare_fault(site.eip, site.esp_pending);
  count_unfinished(*site.block, site.point);
  return true;
}

// For a stub that delivers it and may still find that it cannot: then C++ does, as the same fault is held.
void BtEngine::prepare_fault(u32 eip, i32 esp_pending) {
  CpuState& s = v_.s;
  const Fault& fault = v_.fault;
  s.eip = eip;
  if (fault.vector == Vector::page) s.cr2 = fault.address;
  s.link.esp_pending = esp_pending;
  s.link.error_code = fault.error_code;
  s.link.gate_offset = static_cast<u32>(fault.vector) * 8;
  stepper_.note_fault();
  s.link.held_fault = HeldFault::noted;
}

// Of a block whose instruction at `point` faults: it and those behind it are not executed.
void BtEngine::count_unfinished(const Block& block, u32 point) {
  if (options_.count) counters_.skipped_instructions += block.rest_of_segment(point);
}

// What comes after it counts anew.
StepOutcome BtEngine::deliver(HeldFault fault, const Block& block, u32 point) {
  if (fault != HeldFault::noted) return stepper_.deliver();
  if (options_.count) counters_.skipped_instructions -= block.rest_of_segment(point);
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
  const HeldFault fault = std::exchange(s.link.held_fault, HeldFault::none);
  // FPU instructions have faults that come before #PF (SDM vol. 3, table 6-2).
  if (fault == HeldFault::noted || (fault == HeldFault::raised && !block.uses_fpu)) {
    if (deliver(fault, block, site.point) == StepOutcome::stop) {
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
