// Instructions that emitted code has interpreted without leaving: it calls, the interpreter does one instruction, and the cache goes on
// behind it or, after a jump, by the jump table of the context that fits the new state. The run loop comes in only when there is something
// for it to do: an event, an interrupt, a stop, a shadow, a mode that is not translated.
#include "runtime/bt/bt_engine.h"
#include "runtime/bt/emitted_state.h"

namespace ring3 {

using contract::ExitReason;
using contract::Resume;

namespace {

// Does the row leave alone everything that mode bits, exported segments and virtual flags are made of? (Faults are noticed otherwise.)
bool is_plain(Row row) {
  if (row == Row::invalid) return false;
  switch (row_info(row).family) {
    case Family::alu:
    case Family::shift:
    case Family::muldiv:
    case Family::bit:
    case Family::mov:
    case Family::string:
    case Family::io:
    case Family::decimal: return true;
    default: break;
  }
  switch (row) {
    case Row::push:
    case Row::pop:
    case Row::leave:
    case Row::rdtsc:
    case Row::rdtscp:
    case Row::cpuid:
    case Row::rdmsr:
    case Row::wrmsr:
    case Row::invlpg:
    case Row::lgdt:
    case Row::lidt:
    case Row::ltr:
    case Row::lldt:
    case Row::mov_from_cr:
    case Row::mov_from_sreg:
    case Row::push_sreg: return true;
    default: return false;
  }
}

bool is_fpu(Row row) {
  if (row == Row::invalid) return false;
  const Family family = row_info(row).family;
  return family == Family::x87 || family == Family::mmx || family == Family::sse;
}

}  // namespace

void BtEngine::keep_sites(const GuestBlock& guest, Block& block, const TranslatedBlock& translated) {
  for (const InterpretSite& site : translated.interpret_sites) {
    const Insn& insn = guest.insns[site.point];
    direct_sites_.push_back({.insn = insn,
                             .handler = stepper_.handler_of(insn),
                             .block = &block,
                             .point = site.point,
                             .after = translated.points[site.point + 1].host_offset,
                             .eip = guest_eip(block, site.point),
                             .fpu = is_fpu(insn.row),
                             .plain = is_plain(insn.row)});
  }
}

Resume BtEngine::interpret_entry(BtEngine* engine, u32 number) noexcept {
  try {
    return engine->interpret_here(number);
  } catch (...) {
    engine->failure_ = std::current_exception();
    return engine->leave(Next::stop);
  }
}

Resume BtEngine::leave(Next next) {
  v_.s.link.exit_reason = static_cast<u32>(ExitReason::boundary);
  after_call_ = next;
  return {};
}

Resume BtEngine::interpret_here(u32 number) {
  CpuState& s = v_.s;
  if (v_.traces(Trace::exits)) [[unlikely]]
    return {};
  const DirectSite& site = direct_sites_[number];
  if (site.fpu && s.fpu_live) return {};
  Block& block = *site.block;
  const u32 next = site.eip + site.insn.length;
  const u64 generation = cache_.generation();
  const u64 deliveries = stepper_.deliveries();
  ++counters_.direct_interprets;
  ++counters_.skipped_instructions;
  import_state(s);
  s.eip = site.eip;
  const StepOutcome outcome = stepper_.execute(site.insn, site.handler);
  // A flush of the address space, by WRMSR or the A20 gate too, leaves the tables in r13 behind.
  const bool in_block =
      s.eip == next && cache_.generation() == generation && stepper_.deliveries() == deliveries && v_.mem.context_selected();
  if (v_.bus.take_access()) [[unlikely]] {
    if (const auto deadline = v_.bus.next_deadline(); deadline && *deadline < armed_) rearm();
    s.link.pending = v_.bus.interrupt_requested() ? 0 : s.link.always_valid;
    if (guard_->event()) s.link.pending = 0;
  }
  const bool to_loop = outcome != StepOutcome::ok || guard_->event() || v_.bus.stop_requested() || s.shadow != Shadow::none ||
                       s.pending_debug != 0 || (s.link.pending == 0 && (s.eflags & flag::if_) != 0);
  if (!to_loop && in_block && site.point + 1 < block.insn_count()) {
    if (site.plain) {
      export_status_flags(s);
      return {cache_.base() + block.host_offset + site.after, 0};
    }
    if (mode_is(block.key)) {
      export_state(s, s.link.pending == 0);
      return {cache_.base() + block.host_offset + site.after, 0};
    }
  }
  if (options_.count) counters_.skipped_instructions += block.rest_of_segment(site.point) - 1;
  if (!to_loop) return go_on_at_eip();
  if (outcome != StepOutcome::stop) return leave(Next::go_on);
  stop_ = stepper_.stop_info();
  return leave(Next::stop);
}

Resume BtEngine::go_on_at_eip() {
  CpuState& s = v_.s;
  select_mode();
  if (must_step() || s.eip > mode_.cs_limit) return leave(Next::go_on);
  export_state(s, s.link.pending == 0);
  const u32 linear = s.eip + mode_.cs_base;
  const auto* jumps = reinterpret_cast<const u32*>(s.link.context + contract::jump_table);
  return {cache_.base() + jumps[linear], linear};
}

}  // namespace ring3
