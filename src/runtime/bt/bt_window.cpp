// Host faults of accesses in windows: pages that are not mapped yet, or may not be.
#include "runtime/bt/bt_engine.h"

#include "guest/block_key.h"

namespace ring3 {

namespace {

// A site that keeps meeting what no window can hold (devices, writes on code pages, data breakpoints) costs microseconds each time.
constexpr u8 unmapped_before_tables = 4;
// Guest faults too: by call they cost less. A site that initialises memory raises one for thousands of accesses, so there must be many.
constexpr u8 faults_before_tables = 64;

}  // namespace

// `distance`: of the host address from the start of the window; outside of it an address left its 4 GiB.
BtEngine::Next BtEngine::on_window_fault(Block& block, u32 point, i64 distance) {
  ++counters_.window_faults;
  const bool write = guard_->last().write;
  const bool inside = distance >= 0 && distance < static_cast<i64>(contract::linear_size);
  const u32 linear = static_cast<u32>(distance);
  if (inside && v_.mem.map_window(linear, write)) {
    resume_at(block, point);
    return Next::go_on;
  }
  if (!v_.mem.window_open()) {  // closed meanwhile: blocks without a window go on
    counters_.skipped_instructions += block.rest_of_segment(point);
    return Next::go_on;
  }
  // The interpreter fills the tables, or reaches what they cannot hold, or raises the guest's fault.
  ++counters_.skipped_instructions;
  const u64 physical = block.key.physical + block.point(point).guest_offset;
  const u64 generation = cache_.generation();
  const u64 deliveries = stepper_.deliveries();
  if (step() == Next::stop) return Next::stop;
  if (after_access() == Next::stop) return Next::stop;
  if (cache_.generation() != generation) return go_on_in(block, point + 1, generation);
  SiteForm& form = forms_.at(physical);
  const bool faulted = stepper_.deliveries() != deliveries;
  if (!inside && !faulted) {
    form.wraps = true;
    return translate_again(block, point);
  }
  const auto unserved = [&] { return v_.mem.context_selected() && !v_.mem.map_window(linear, write); };
  if (inside && (faulted ? ++form.faults == faults_before_tables : unserved() && ++form.unmapped == unmapped_before_tables)) {
    form.tables = true;
    if (faulted && options_.translator.optimizations.on(Optimization::miss_calls)) form.calls = true;
    ++counters_.window_leavers;
    return translate_again(block, point);
  }
  return go_on_in(block, point + 1, generation);
}

}  // namespace ring3
