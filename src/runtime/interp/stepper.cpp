#include "runtime/interp/stepper.h"

#include "guest/breakpoints.h"
#include "runtime/interp/decode_cache.h"
#include "runtime/system/cpu_model.h"
#include "runtime/system/delivery.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

namespace ring3 {

namespace {

constexpr unsigned longest_insn = 15;

Flow undefined_opcode(Vcpu& v, const Insn&) { return v.raise(Vector::invalid_opcode); }

Flow no_interpreter(Vcpu& v, const Insn& insn) {
  v.missing = fmt::format("no interpreter for '{}'", row_name(insn.row));
  return Flow::missing;
}

void trace_fault(const Vcpu& v) {
  const Fault& fault = v.fault;
  std::string text = fmt::format("vector {} at {:04x}:{:08x}", static_cast<unsigned>(fault.vector), v.s.segment(Seg::cs).selector, v.s.eip);
  if (fault.has_error_code) text += fmt::format(" error code {:#x}", fault.error_code);
  if (fault.vector == Vector::page) text += fmt::format(" address {:08x}", fault.address);
  v.trace->write(Trace::faults, text);
}

std::string mode_name(const CpuState& s) {
  if (!s.protected_mode()) return "real mode";
  if (s.v8086()) return "v8086 mode";
  return fmt::format("protected mode, CPL {}", s.cpl);
}

// INT n and friends clear TF themselves, so no single-step trap follows them (SDM vol. 3, 17.3.1.4).
bool is_software_interrupt(Row row) { return row == Row::int_ || row == Row::int3 || row == Row::into || row == Row::int1; }

}  // namespace

struct Stepper::Cache {
  interp::DecodeCache decoded;
  interp::DecodedInsn scratch;  // an instruction that is not kept
  std::array<Handler, row_count + 1> handler{};
};

Stepper::Stepper(Vcpu& vcpu) : v_(vcpu), cache_(new Cache) {
  for (unsigned n = 0; n < row_count; ++n) {
    const Row row = static_cast<Row>(n);
    const Handler known = handlers_.get(row);
    cache_->handler[n] = known != nullptr ? known : no_interpreter;
  }
  cache_->handler[row_count] = undefined_opcode;
}

Stepper::~Stepper() { delete cache_; }

Handler Stepper::handler_of(const Insn& insn) const {
  return v_.model.has(insn.feature) ? cache_->handler[static_cast<unsigned>(insn.row)] : undefined_opcode;
}

StepOutcome Stepper::execute(const Insn& insn) { return run(insn, handler_of(insn)); }

StepOutcome Stepper::step() {
  const CpuState& s = v_.s;
  if (!s.protected_mode() || s.v8086()) [[unlikely]]
    return stop_mode();
  // The order is that of SDM vol. 3, table 6-2: traps of what went before, instruction breakpoints, then faults of the fetch.
  if (s.pending_debug != 0 && s.shadow != Shadow::mov_ss) [[unlikely]]
    return debug_trap(s.pending_debug);
  const SegmentCache& cs = s.segment(Seg::cs);
  if (any_breakpoint(s)) [[unlikely]] {
    // RF holds them off, and so does a load of SS just before (SDM vol. 3, 17.3.1.1 and 6.8.3).
    const u32 hit = code_breakpoints_at(s, cs.base + s.eip);
    if (hit != 0 && (s.eflags & flag::rf) == 0 && s.shadow != Shadow::mov_ss) return debug_trap(hit);
  }
  const interp::DecodedInsn* d = cache_->decoded.find({cs.base + s.eip, v_.mem.fetch_tag(s.cpl == 3), cs.big()});
  if (d == nullptr) [[unlikely]] {
    d = decode_at_eip();
    if (d == nullptr) return deliver();
  }
  if (u64{s.eip} + d->insn.length - 1 > cs.limit) [[unlikely]] {
    v_.raise(Vector::general_protection, 0);
    return deliver();
  }
  return run(d->insn, d->handler);
}

const interp::DecodedInsn* Stepper::decode_at_eip() {
  const CpuState& s = v_.s;
  const SegmentCache& cs = s.segment(Seg::cs);
  const u32 linear = cs.base + s.eip;
  const bool user = s.cpl == 3;
  if (s.eip > cs.limit) {
    v_.raise(Vector::general_protection, 0);
    return nullptr;
  }
  const std::optional<Translation> at = v_.mem.translate_fetch(linear, user, v_.fault);
  if (!at) return nullptr;
  const interp::DecodeCache::Place place{linear, at->fetch_tag, cs.big()};
  const bool keep = at->ram && at->fetch_tag != 0;
  if (keep) {
    if (const interp::DecodedInsn* known = cache_->decoded.attach(place, at->address)) return known;
  }

  interp::DecodedInsn& fresh = cache_->scratch;
  const unsigned in_page = std::min(longest_insn, page_size - (linear & page_mask));
  const unsigned length = fetch_and_decode(linear, user, place.code32, in_page, fresh.insn);
  if (length == 0) return nullptr;
  fresh.handler = handler_of(fresh.insn);
  if (!keep || length > in_page) return &fresh;
  v_.mem.watch_code(at->address);
  return cache_->decoded.insert(place, at->address, fresh);
}

unsigned Stepper::fetch_and_decode(u32 linear, bool user, bool code32, unsigned in_page, Insn& insn) {
  const u64 in_segment = u64{v_.s.segment(Seg::cs).limit} - v_.s.eip + 1;
  const auto wanted = static_cast<unsigned>(std::min<u64>(longest_insn, in_segment));
  std::array<u8, longest_insn> bytes{};
  // The second page is touched only by an instruction that reaches into it: the fetch sets its A flag and may fault.
  unsigned have = v_.mem.fetch(linear, bytes.data(), std::min(wanted, in_page), user, v_.fault);
  if (have == 0) return 0;
  DecodeStatus status = decoder_.decode(std::span(bytes).first(have), code32, insn);
  if (status == DecodeStatus::need_more && have < wanted) {
    const unsigned more = v_.mem.fetch(linear + have, bytes.data() + have, wanted - have, user, v_.fault);
    if (more == 0) return 0;
    have += more;
    status = decoder_.decode(std::span(bytes).first(have), code32, insn);
  }
  if (status == DecodeStatus::need_more || status == DecodeStatus::too_long) {
    v_.raise(Vector::general_protection, 0);
    return 0;
  }
  if (status == DecodeStatus::invalid) insn.row = Row::invalid;
  return std::max<unsigned>(insn.length, 1);
}

StepOutcome Stepper::run(const Insn& insn, Handler handler, bool hold_fault) {
  CpuState& s = v_.s;
  const u32 flags_before = s.eflags;
  const u32 held_back = s.pending_debug;
  s.shadow = Shadow::none;
  repeating_ = false;
  last_row_ = insn.row;
  const Flow flow = handler(v_, insn);
  switch (flow) {
    case Flow::next:
    case Flow::halt: {
      s.eip += insn.length;  // in 16-bit code too: only jumps cut it off
      break;
    }
    case Flow::jumped: break;
    case Flow::again: {
      // The shadow of the instruction before does not outlast the first elements.
      if (insn.rep == Rep::none) return StepOutcome::ok;
      // Whatever comes in between two elements pushes RF (SDM vol. 3, 17.3.1.1), so that an instruction breakpoint on the REP is not met
      // again by the elements that are left.
      s.eflags |= flag::rf;
      repeating_ = true;
      const u32 traps = s.pending_debug | ((flags_before & flag::tf) != 0 ? dr6::single_step : 0);
      return traps != 0 ? debug_trap(traps) : StepOutcome::ok;
    }
    case Flow::fault:
      ++executed_[static_cast<unsigned>(insn.row)];
      // What the unfinished instruction met will be met again.
      s.pending_debug = held_back;
      return hold_fault ? StepOutcome::fault : deliver();
    case Flow::missing: return stop_missing(insn);
  }
  ++executed_[static_cast<unsigned>(insn.row)];
  s.halted = flow == Flow::halt;
  if ((flags_before & (flag::tf | flag::rf)) != 0) [[unlikely]] {
    // RF covers one instruction; IRET has just loaded a new one.
    if (insn.row != Row::iret) s.eflags &= ~flag::rf;
    const bool cleared_tf = is_software_interrupt(insn.row) && flow == Flow::jumped;
    if ((flags_before & flag::tf) != 0 && s.shadow != Shadow::mov_ss && !cleared_tf) return debug_trap(s.pending_debug | dr6::single_step);
  }
  // A load of SS drops its single step and keeps its breakpoints for the next boundary (SDM vol. 3, 6.8.3).
  if (s.pending_debug != 0 && s.shadow != Shadow::mov_ss) [[unlikely]]
    return debug_trap(s.pending_debug);
  return s.halted ? StepOutcome::halted : StepOutcome::ok;
}

StepOutcome Stepper::debug_trap(u32 reasons) {
  CpuState& s = v_.s;
  s.halted = false;
  s.pending_debug = 0;
  // The manual lets a debug exception clear B0 to B3, and no other bit (SDM vol. 3, 17.2.3).
  s.dr[6] = (s.dr[6] & ~dr6::breakpoints) | reasons;
  v_.raise(Vector::debug);
  return deliver();
}

StepOutcome Stepper::deliver() {
  note_fault();
  return deliver_noted();
}

StepOutcome Stepper::deliver_noted() { return finish(deliver_fault(v_)); }

void Stepper::note_fault() {
  v_.s.shadow = Shadow::none;
  repeating_ = false;
  const Fault& fault = v_.fault;
  ++delivered_[static_cast<unsigned>(fault.vector)];
  exceptions_.add(
      {static_cast<u8>(fault.vector), fault.has_error_code, fault.error_code, v_.s.segment(Seg::cs).selector, v_.s.eip, fault.address});
  if (v_.traces(Trace::faults)) trace_fault(v_);
}

StepOutcome Stepper::take_interrupt() {
  CpuState& s = v_.s;
  if ((s.eflags & flag::if_) == 0 || s.shadow != Shadow::none || !v_.bus.interrupt_requested()) return StepOutcome::ok;
  if (s.pending_debug != 0) return StepOutcome::ok;  // `step` delivers the trap first (SDM vol. 3, table 6-2)
  repeating_ = false;
  const u8 vector = v_.bus.acknowledge_interrupt();
  ++delivered_[vector];
  return finish(deliver_interrupt(v_, vector));
}

StepOutcome Stepper::finish(Delivery delivery) {
  ++deliveries_;
  switch (delivery) {
    case Delivery::done: return StepOutcome::ok;
    case Delivery::triple_fault: stop_ = {StopReason::triple_fault, "a fault while delivering a double fault"}; break;
    case Delivery::missing:
      stop_ = {StopReason::missing_feature, fmt::format("{} while delivering an event at cs:eip {:04x}:{:08x}, {}", v_.missing,
                                                        v_.s.segment(Seg::cs).selector, v_.s.eip, mode_name(v_.s))};
      break;
  }
  return StepOutcome::stop;
}

StepOutcome Stepper::stop_mode() {
  const SegmentCache& cs = v_.s.segment(Seg::cs);
  const u32 linear = cs.base + v_.s.eip;
  std::string bytes;
  for (u32 i = 0; i < longest_insn; ++i) {
    const std::optional<Translation> at = v_.mem.peek(linear + i);
    if (!at || !at->ram) break;
    u8 byte = 0;
    v_.mem.read_physical(at->address, &byte, 1);
    bytes += fmt::format("{}{:02x}", i == 0 ? "" : " ", byte);
  }
  stop_ = {StopReason::missing_feature,
           fmt::format("no {}: bytes {} at linear {:08x} (cs:eip {:04x}:{:08x})", mode_name(v_.s), bytes, linear, cs.selector, v_.s.eip)};
  return StepOutcome::stop;
}

StepOutcome Stepper::stop_missing(const Insn& insn) {
  const SegmentCache& cs = v_.s.segment(Seg::cs);
  std::string bytes;
  for (unsigned i = 0; i < insn.length; ++i) bytes += fmt::format("{}{:02x}", i == 0 ? "" : " ", insn.bytes[i]);
  stop_ = {StopReason::missing_feature, fmt::format("{}: bytes {} at linear {:08x} (cs:eip {:04x}:{:08x}), {}-bit code, {}", v_.missing,
                                                    bytes, cs.base + v_.s.eip, cs.selector, v_.s.eip, cs.big() ? 32 : 16, mode_name(v_.s))};
  return StepOutcome::stop;
}

void Stepper::code_written(PhysAddr address, u32 size) { cache_->decoded.written(address, size); }

bool Stepper::has_code(PhysAddr page) const { return cache_->decoded.has_code(page); }

void Stepper::forget_all() { cache_->decoded.clear(); }

}  // namespace ring3
