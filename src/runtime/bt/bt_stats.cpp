#include "runtime/bt/bt_engine.h"

namespace ring3 {

EngineStats BtEngine::stats() const {
  EngineStats out;
  const CacheCounters& c = cache_.counters();
  out.emitted = options_.count ? emitted_instructions() : 0;
  out.interpreted_by_row = stepper_.executed();
  out.blocks = c.installed;
  out.guest_instructions = c.guest_insns;
  out.guest_bytes = c.guest_bytes;
  out.host_bytes = c.host_bytes;
  out.cache_used = cache_.next_offset();
  out.cache_size = region_.size();
  out.cache_flushes = c.flushes;
  out.blocks_moved = c.moved;
  out.blocks_invalidated = c.invalidated;
  out.chained_jumps = c.linked;
  out.indirect_lookups = counters_.exits_lookup;
  out.exits = {{"look-up", counters_.exits_lookup},
               {"link", counters_.exits_link},
               {"interpret one instruction", counters_.exits_interpret},
               {"interpret by a call, without an exit", counters_.direct_interprets},
               {"host fault", counters_.exits_fault - counters_.polls - counters_.fpu_loads},
               {"poll", counters_.polls},
               {"FPU load", counters_.fpu_loads},
               {"jump slots filled ahead", counters_.jumps_ahead},
               {"table miss by fault", counters_.misses_by_fault},
               {"table miss by call", counters_.misses_by_call},
               {"calls without an entry", counters_.calls_unfilled},
               {"sites that look up by call", counters_.calling_sites},
               {"sites found misaligned", counters_.unaligned_sites},
               {"fault in a window", counters_.window_faults},
               {"sites that left windows", counters_.window_leavers}};
  const MemoryStats m = v_.mem.stats();
  out.memory = {{"walks for data", m.data_walks},         {"walks for code", m.fetch_walks},
                {"pages filled", m.pages_filled},         {"flushes of the address space", m.address_flushes + m.global_flushes},
                {"flushes of a page", m.page_flushes},    {"changes of the mode", m.mode_flushes},
                {"groups compared", m.groups_compared},   {"pages dropped", m.pages_stale},
                {"contexts made", m.contexts_made},       {"contexts reused", m.contexts_reused},
                {"contexts adopted", m.contexts_adopted}, {"contexts released", m.contexts_released},
                {"windows opened", m.windows_opened},     {"of them at address 0", m.windows_low},
                {"windows closed", m.windows_closed},     {"windows emptied", m.windows_emptied},
                {"window misses", m.window_misses}};
  out.delivered = stepper_.delivered();
  out.last_exceptions = stepper_.exceptions().last();
  out.time_in_cache = cycles_to_ns(counters_.cycles_emitted);
  out.time_translating = cycles_to_ns(counters_.cycles_translating);
  const u64 all = run_ns_;
  const u64 known = out.time_in_cache + out.time_translating + cycles_to_ns(counters_.cycles_waiting);
  out.time_in_runtime = all > known ? all - known : 0;
  return out;
}

u64 BtEngine::cycles_to_ns(u64 cycles) const {
  // The run itself is the yardstick: host TSC and host clock were both read at its start and end.
  return run_cycles_ == 0 ? 0
                          : static_cast<u64>(static_cast<double>(cycles) * static_cast<double>(run_ns_) / static_cast<double>(run_cycles_));
}

}  // namespace ring3
