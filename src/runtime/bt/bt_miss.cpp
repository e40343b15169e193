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
u64 BtEngine::fill_entry(BtEngine* engine, u32 linear, u32 write) noexcept { return engine->fill(linear, write != 0); }

u64 BtEngine::fill(u32 linear, bool write) {
  ++counters_.misses_by_call;
  const u64 generation = cache_.generation();
  const std::optional<u64> entry = v_.mem.fill(linear, write ? Access::write : Access::read, v_.s.cpl == 3, v_.fault);
  fill_faulted_ = !entry;
  // The walk may have set A or D in the running block.
  return entry && cache_.generation() == generation ? *entry : 0;
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
  const bool faulted = std::exchange(fill_faulted_, false);
  // FPU instructions have faults that come before #PF (SDM vol. 3, table 6-2).
  if (faulted && !block.uses_fpu) {
    if (stepper_.deliver() == StepOutcome::stop) {
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
