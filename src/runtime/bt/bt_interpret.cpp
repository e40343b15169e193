// Instructions that emitted code has interpreted without leaving: it calls, the interpreter does one instruction, and the cache goes on
// behind it or, after a jump, by the jump table of the context that fits the new state. The run loop comes in only when there is something
// for it to do: an event, an interrupt, a stop, a shadow, a mode that is not translated.
#include <cstring>
#include <utility>

#include "base/error.h"
#include "runtime/bt/bt_engine.h"
#include "runtime/bt/emitted_state.h"
#include "runtime/system/descriptor.h"
#include "runtime/system/mode_bits.h"

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

// Does the row change CS and SS together, and load no data segment?
bool is_transfer(Row row) {
  switch (row) {
    case Row::iret:
    case Row::int_:
    case Row::int1:
    case Row::int3:
    case Row::into:
    case Row::sysenter:
    case Row::sysexit: return true;
    default: return false;
  }
}

// May the row change a segment register where it does not fault?
bool loads_segments(Row row) {
  switch (row) {
    case Row::mov_to_sreg:
    case Row::pop_sreg:
    case Row::lds:
    case Row::les:
    case Row::lfs:
    case Row::lgs:
    case Row::lss:
    case Row::call_far:
    case Row::jmp_far:
    case Row::ret_far: return true;
    default: return is_transfer(row);
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
                             .guest_offset = translated.points[site.point].guest_offset,
                             .fpu = is_fpu(insn.row),
                             .plain = is_plain(insn.row),
                             .loads_segments = loads_segments(insn.row),
                             .transfers = is_transfer(insn.row)});
  }
}

// For Emitter::emit_load_segment: what a load at CPL 0 gave follows from selector and descriptor alone.
void BtEngine::remember_descriptors() {
  CpuState& s = v_.s;
  if (s.cpl != 0 || !s.protected_mode()) return;
  for (const Seg segment : {Seg::ds, Seg::es, Seg::fs, Seg::gs}) {
    const SegmentCache& c = s.segment(segment);
    LoadedDescriptor& known = s.link.loaded[(c.selector >> 3) % EmittedLink::loaded_count];
    constexpr u16 plain = 0x93, plain_mask = 0x9F;  // as whole_data, accessed
    if (is_null(c.selector) || (c.selector & 4u) != 0 || (c.attributes & plain_mask) != plain || c.limit != 0xFFFFFFFF) continue;
    if (known.cache == c || rpl(c.selector) > c.dpl() || (c.selector | 7u) > s.gdtr.limit) continue;
    const u32 address = s.gdtr.base + (c.selector & 0xFFF8u);
    const u8* bytes = address % 8 == 0 ? v_.mem.direct(address, Access::read, false) : nullptr;
    if (bytes == nullptr) continue;
    Descriptor d;
    std::memcpy(&d.low, bytes, 4);
    std::memcpy(&d.high, bytes + 4, 4);
    if (!(d.cache(c.selector) == c)) continue;  // loaded long ago
    known = {d.low | u64{d.high} << 32, c, c.base == 0 ? 1u : 0u, segment_check_of(c), {}};
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
  if (!calls_) [[unlikely]]
    return {};
  const DirectSite& site = direct_sites_[number];
  if (site.fpu && s.fpu_live) return {};
  Block& block = *site.block;
  const u32 eip = block.key.linear - block.key.cs_base + site.guest_offset;
  const u32 next = eip + site.insn.length;
  const u64 generation = cache_.generation();
  const u64 deliveries = stepper_.deliveries();
  ++counters_.skipped_instructions;
  follow_context();
  import_state(s);
  s.eip = eip;
  StepOutcome outcome = StepOutcome::fault;
  bool to_loop = false;
  if (std::exchange(s.link.held_fault, HeldFault::none) == HeldFault::noted) [[unlikely]] {
    outcome = deliver(HeldFault::noted, block, site.point);
  } else {
    ++counters_.direct_interprets;
    outcome = stepper_.execute(site.insn, site.handler, delivers_);
    if (outcome == StepOutcome::fault) {
      to_loop = must_look();
      if (!to_loop && emitted_delivery(generation)) {
        count_unfinished(block, site.point);
        --counters_.skipped_instructions;
        prepare_fault(s.eip, 0);
        export_flags(s, s.link.pending == 0);
        return {cache_.base() + cache_.stubs().deliver_fault[v_.fault.has_error_code], 0};
      }
      outcome = stepper_.deliver();
    }
  }
  if (site.loads_segments && !site.transfers && outcome == StepOutcome::ok) remember_descriptors();
  // A flush of the address space, by WRMSR or the A20 gate too, leaves the tables in r13 behind.
  const bool in_block =
      s.eip == next && cache_.generation() == generation && stepper_.deliveries() == deliveries && v_.mem.context_selected();
  to_loop = must_look() || to_loop || outcome != StepOutcome::ok;
  if (site.plain && in_block && !to_loop && site.point + 1 < block.insn_count()) {
    export_status_flags(s);
    return {cache_.base() + block.host_offset + site.after, 0};
  }
  const bool same_segments = in_block && !site.loads_segments;
  const u32 mode_now = same_segments ? same_segments_mode_bits() : mode_bits();
  return go_on_after(block, site.point + 1, site.after, outcome, to_loop, in_block, mode_now, 0);
}

// May emitted code try to deliver the fault that an instruction just raised? A debug exception pushes other flags, and has DR7 to change.
bool BtEngine::emitted_delivery(u64 generation) const {
  return v_.fault.vector != Vector::debug && cache_.generation() == generation && v_.mem.context_selected();
}

// Is there something for the run loop to do after an instruction?
bool BtEngine::must_look() {
  const CpuState& s = v_.s;
  if (v_.bus.take_access()) [[unlikely]] {
    if (const auto deadline = v_.bus.next_deadline(); deadline && *deadline < armed_) rearm();
    v_.s.link.pending = v_.bus.interrupt_requested() ? 0 : s.link.always_valid;
    if (guard_->event()) v_.s.link.pending = 0;
    if (v_.bus.stop_requested()) return true;
  }
  return guard_->event() || s.shadow != Shadow::none || s.pending_debug != 0 || (s.link.pending == 0 && (s.eflags & flag::if_) != 0);
}

Resume BtEngine::go_on_after(Block& block, u32 point, u32 host_offset, StepOutcome outcome, bool to_loop, bool in_block, u32 mode_now,
                             u32 esp_pending) {
  CpuState& s = v_.s;
  const SegmentCache& cs = s.segment(Seg::cs);
  if (!to_loop && in_block && point < block.insn_count() && mode_now == block.key.mode && cs.base == block.key.cs_base &&
      cs.limit == block.key.cs_limit) {
    export_flags(s, s.link.pending == 0);
    s.gpr[esp] -= esp_pending;
    return {cache_.base() + block.host_offset + host_offset, 0};
  }
  if (options_.count) counters_.skipped_instructions += block.rest_of_segment(point - 1) - 1;
  if (!to_loop) return go_on_at_eip(mode_now);
  if (outcome != StepOutcome::stop) return leave(Next::go_on);
  stop_ = stepper_.stop_info();
  return leave(Next::stop);
}

Resume BtEngine::go_on_at_eip(u32 mode_now) {
  CpuState& s = v_.s;
  select_mode(mode_now);
  if (must_step() || s.eip > mode_.cs_limit) return leave(Next::go_on);
  export_flags(s, s.link.pending == 0);
  const u32 linear = s.eip + mode_.cs_base;
  const auto* jumps = reinterpret_cast<const u32*>(s.link.context + contract::jump_table);
  return {cache_.base() + jumps[linear], linear};
}

Resume BtEngine::miss_entry(BtEngine* engine, u32) noexcept {
  try {
    return engine->miss_here();
  } catch (...) {
    engine->failure_ = std::current_exception();
    return engine->leave(Next::stop);
  }
}

// Sites miss again and again: kernels touch fresh memory of their processes in a few loops.
const BtEngine::MissSite& BtEngine::miss_site(u64 host) {
  MissSite& known = miss_sites_[host % miss_sites_.size()];
  if (known.host == host && known.generation == cache_.generation()) return known;
  const CodeCache::Site site = cache_.find_host(host);
  if (site.block == nullptr) throw InternalError("a look-up was called from outside every block");
  const InsnPoint at = site.block->point(site.point);
  const InsnPoint after = site.block->point(site.point + 1);
  known = {.host = host,
           .generation = cache_.generation(),
           .block = site.block,
           .point = site.point,
           .eip = guest_eip(*site.block, site.point),
           .next = site.block->key.linear + after.guest_offset - site.block->key.cs_base,
           .after = after.host_offset,
           .esp_pending = at.esp_pending,
           .esp_pending_after = after.esp_pending};
  return known;
}

// As on_miss, for emitted code that called. A block with FPU instructions takes the way out: what was interpreted could be one of them, and
// their state must be in CpuState then.
Resume BtEngine::miss_here() {
  CpuState& s = v_.s;
  if (!calls_) return {};
  const MissSite site = miss_site(s.link.exit_argument - 1);
  Block& block = *site.block;
  if (block.uses_fpu) return {};
  const u64 generation = cache_.generation();
  const u64 deliveries = stepper_.deliveries();
  ++counters_.calls_unfilled;
  ++counters_.skipped_instructions;
  follow_context();
  import_state(s);
  s.gpr[esp] += static_cast<u32>(i32{site.esp_pending});
  s.eip = site.eip;
  const HeldFault fault = std::exchange(s.link.held_fault, HeldFault::none);
  const StepOutcome outcome = fault != HeldFault::none ? deliver(fault, block, site.point) : stepper_.step();
  const bool to_loop = must_look() || outcome != StepOutcome::ok;
  const bool in_block =
      s.eip == site.next && cache_.generation() == generation && stepper_.deliveries() == deliveries && v_.mem.context_selected();
  return go_on_after(block, site.point + 1, site.after, outcome, to_loop, in_block, mode_bits(),
                     static_cast<u32>(i32{site.esp_pending_after}));
}

}  // namespace ring3
