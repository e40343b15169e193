#include "runtime/bt/bt_engine.h"

#include <sys/mman.h>
#include <time.h>
#include <x86intrin.h>

#include <cstring>

#include "base/error.h"
#include "guest/breakpoints.h"
#include "runtime/bt/bt_trace.h"
#include "runtime/bt/emitted_state.h"
#include "runtime/memory/ram.h"
#include "runtime/system/cpu_model.h"
#include "runtime/system/mode_bits.h"

namespace ring3 {

namespace {

constexpr u32 fpu_credit = 64;            // exits that the FPU state survives in host registers without proof of use
constexpr u64 event_period = 10'000'000;  // ns; host input is looked at this often even if no device timer is due
// After a sleep the timer is due where the next one would end if it were as long as this one, a bit earlier: a guest that ticks goes to
// sleep again before that, and it is put off once more without having been set in between.
constexpr u64 sleep_margin = 5'000'000;  // ns, if it cannot be told
constexpr u64 shortest_tick = 1'000'000, tick_slack = 100'000;
constexpr u64 never = ~u64{0};
const BlockKey no_mode{0, 0, ~0u, 0, 0};

u64 now() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000u + static_cast<u64>(t.tv_nsec);
}

ReturnRegion make_return_region() {
  void* p = mmap(nullptr, 3 * ReturnRegion::size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw UserError("cannot reserve the return region: the host refuses more memory (ulimit -v)");
  u8* middle = static_cast<u8*>(p) + ReturnRegion::size;
  if (mprotect(middle, ReturnRegion::size, PROT_READ | PROT_WRITE) != 0) throw UserError("cannot map the return region");
  return {reinterpret_cast<u64>(middle)};
}

TranslatorOptions complete(TranslatorOptions options, const CpuModel& model, bool lockstep) {
  for (unsigned f = 0; f < static_cast<unsigned>(Feature::count); ++f) {
    if (!model.has(static_cast<Feature>(f))) options.missing_features |= u64{1} << f;
  }
  // The two runs of a block would read different times.
  if (lockstep) {
    options.interpreted_families |= 1u << static_cast<unsigned>(Family::system);
    options.optimizations.switch_off(Optimization::direct);
    options.optimizations.switch_off(Optimization::transfers);
    options.optimizations.switch_off(Optimization::steps);
  }
  return options;
}

}  // namespace

BtEngine::BtEngine(Vcpu& vcpu, CodeRegion& region, const BtOptions& options)
    : v_(vcpu),
      region_(region),
      options_(options),
      cache_(region),
      translator_(complete(options.translator, vcpu.model, options.lockstep), cache_.stubs(), cache_.base()),
      stepper_(vcpu),
      mode_(no_mode),
      return_region_(make_return_region()) {
  if (region.state_area() != &vcpu.s) throw InternalError("CpuState does not lie in front of the code cache");
  v_.mem.set_watcher(this);
  v_.shortcuts = !options.lockstep && options.translator.optimizations.on(Optimization::transfers);
  v_.mem.set_keep_views(options.translator.optimizations.on(Optimization::views));
  if (options.translator.optimizations.on(Optimization::windows))
    v_.mem.set_windows(options.window_after, options.translator.optimizations.on(Optimization::low_window));
  if (options_.lockstep) {
    options_.chain = false;
    record_ = std::make_unique<LockstepRecord>(v_.mem.ram());
    saved_state_ = std::make_unique<CpuState>();
  }
}

BtEngine::~BtEngine() {
  v_.mem.set_watcher(nullptr);
  munmap(reinterpret_cast<void*>(return_region_.begin - ReturnRegion::size), 3 * ReturnRegion::size);
}

void BtEngine::reset() {
  flush_cache();
  stepper_.forget_all();
  mode_ = no_mode;
  resume_ = 0;
  link_exit_ = ~0u;
  v_.s.fpu_live = false;
}

StopInfo BtEngine::run() {
  guard_ = std::make_unique<FaultGuard>(v_.s, region_, cache_.stubs(), return_region_);
  if (!options_.lockstep && options_.translator.optimizations.on(Optimization::steps)) guard_->stop_at_boundaries(cache_);
  calls_ = !options_.lockstep && options_.translator.optimizations.on(Optimization::direct) && !v_.traces(Trace::exits);
  delivers_ = calls_ && options_.translator.optimizations.on(Optimization::transfers) && !v_.traces(Trace::faults);
  v_.s.link.engine = reinterpret_cast<u64>(this);
  v_.s.link.interpreter = reinterpret_cast<u64>(&interpret_entry);
  v_.s.link.fill = reinterpret_cast<u64>(&fill_entry);
  v_.s.link.missed = reinterpret_cast<u64>(&miss_entry);
  v_.s.link.return_stack = return_region_.middle();
  v_.s.link.esp_base_mask = options_.translator.optimizations.on(Optimization::host_esp) ? ~u64{0} : 0;
  const u64 start_cycles = __rdtsc();
  const u64 start_ns = now();
  v_.bus.service();
  rearm();
  StopInfo stop = loop();
  run_cycles_ += __rdtsc() - start_cycles;
  run_ns_ += now() - start_ns;
  guard_.reset();
  return stop;
}

StopInfo BtEngine::loop() {
  for (;;) {
    if (boundary() == Next::stop) break;
    select_mode();
    if (resume_ == 0 && must_step()) {
      if (step() == Next::stop) break;
      continue;
    }
    u64 host = resume_;
    const bool inside = host != 0;
    resume_ = 0;
    if (!inside) {
      Block* block = find_or_translate();
      if (block == nullptr) {
        if (step() == Next::stop) break;
        continue;
      }
      host = cache_.base() + block->host_offset;
      link_to(*block);
      if (options_.lockstep) {
        if (enter_lockstep(*block) == Next::stop) break;
        continue;
      }
    }
    if (enter(host, inside) == Next::stop) break;
  }
  return stop_;
}

void BtEngine::link_to(Block& block) {
  const u32 number = link_exit_;
  link_exit_ = ~0u;
  if (number == ~0u || link_generation_ != cache_.generation()) return;
  // An interrupt may have come between: EIP is not where the exit wanted to go then.
  const CodeCache::Exit& exit = cache_.exit(number);
  const BlockKey& from = cache_.blocks()[exit.from].key;
  if (exit.target != block.key.linear || !from.same_mode(block.key)) return;
  if ((from.physical >> page_shift) != (block.key.physical >> page_shift)) return;
  cache_.link(number, block);
}

BtEngine::Next BtEngine::boundary() {
  CpuState& s = v_.s;
  for (;;) {
    if (guard_->event()) {
      guard_->clear_event();
      v_.bus.service();
      rearm();
    }
    if (v_.bus.stop_requested()) {
      drop_resume();
      stop_ = {StopReason::bus_request, ""};
      return Next::stop;
    }
    if (v_.bus.interrupt_requested() && (s.eflags & flag::if_) != 0 && s.shadow == Shadow::none) {
      drop_resume();
      if (stepper_.take_interrupt() == StepOutcome::stop) {
        stop_ = stepper_.stop_info();
        return Next::stop;
      }
    }
    if (!s.halted) return Next::go_on;
    if ((s.eflags & flag::if_) == 0) {
      stop_ = {StopReason::halted_for_good, ""};
      return Next::stop;
    }
    s.shadow = Shadow::none;
    const u64 start = options_.count ? __rdtsc() : 0;
    sleep();
    if (options_.count) counters_.cycles_waiting += __rdtsc() - start;
  }
}

u32 BtEngine::mode_bits() const {
  CpuState& s = v_.s;
  export_segments(s);
  return same_segments_mode_bits();
}

u32 BtEngine::window_mode() const { return (v_.mem.window_open() ? mode::window : 0) | (v_.mem.window_low() ? mode::low_window : 0); }

u32 BtEngine::same_segments_mode_bits() const { return v_.s.link.segment_mode | control_mode_bits(v_.s) | window_mode(); }

// HLT. The wait itself ends at the deadline, so the timer is put off: its signal would be one more thing to do at each tick.
void BtEngine::sleep() {
  if (const auto deadline = v_.bus.next_deadline()) {
    const u64 tick = *deadline - slept_until_;
    slept_until_ = *deadline;
    armed_ = *deadline + (tick >= shortest_tick && tick <= event_period ? tick - tick_slack : sleep_margin);
    guard_->arm(armed_);
  } else {
    armed_ = never;
    guard_->disarm();
  }
  v_.bus.wait_for_event();
  const auto next = v_.bus.next_deadline();
  if ((next && *next < armed_) || armed_ > now() + event_period) rearm();
}

bool BtEngine::mode_is(const BlockKey& key) const {
  const SegmentCache& cs = v_.s.segment(Seg::cs);
  return mode_bits() == key.mode && cs.base == key.cs_base && cs.limit == key.cs_limit;
}

void BtEngine::select_mode(u32 bits) {
  const SegmentCache& cs = v_.s.segment(Seg::cs);
  if (v_.mem.context_selected() && bits == mode_.mode && cs.base == mode_.cs_base && cs.limit == mode_.cs_limit) return;
  mode_ = {0, 0, bits & ~(mode::window | mode::low_window), cs.base, cs.limit};
  v_.s.link.context = followed_ = v_.mem.select_context(mode_.mode, cs.base, cs.limit);
  v_.s.link.window = v_.mem.window_base();
  mode_.mode |= window_mode();
}

bool BtEngine::translatable() const {
  constexpr u32 needed = mode::code32 | mode::protected_mode;
  return (mode_.mode & needed) == needed && (mode_.mode & (mode::v8086 | mode::trap | mode::alignment_checks)) == 0;
}

bool BtEngine::must_step() {
  CpuState& s = v_.s;
  if (!translatable() || s.shadow != Shadow::none || s.pending_debug != 0) return true;
  if (code_breakpoints_at(s, s.segment(Seg::cs).base + s.eip) != 0) return true;
  // RF lasts for one instruction, the one that a fault handler returned to, and holds off an instruction breakpoint there, of which there
  // is none. A fault of that instruction pushes it set in any case; an interrupt that still comes in before it finds it clear.
  s.eflags &= ~flag::rf;
  return false;
}

void BtEngine::resume_at(const Block& block, u32 point) {
  const InsnPoint there = block.point(point);
  resume_ = cache_.base() + block.host_offset + there.host_offset;
  resume_esp_ = static_cast<u32>(i32{there.esp_pending});
}

void BtEngine::drop_resume() {
  if (resume_ == 0) return;
  const CodeCache::Site site = cache_.find_host(resume_);
  if (site.block != nullptr) counters_.skipped_instructions += site.block->rest_of_segment(site.point);
  resume_ = 0;
}

BtEngine::Next BtEngine::step() {
  drop_resume();
  link_exit_ = ~0u;
  if (stepper_.step() == StepOutcome::stop) {
    stop_ = stepper_.stop_info();
    return Next::stop;
  }
  return Next::go_on;
}

void BtEngine::rearm() {
  const auto deadline = v_.bus.next_deadline();
  const u64 latest = now() + event_period;
  armed_ = deadline ? std::min(*deadline, latest) : latest;
  guard_->arm(armed_);
}

void BtEngine::prepare(bool inside) {
  CpuState& s = v_.s;
  // Inside a block the gate at its head may lie behind: the state stays live until a block is entered from its start.
  if (s.fpu_live && ((!inside && fpu_credit_-- == 0) || (s.cr0 & (cr0::ts | cr0::em)) != 0)) s.fpu_live = false;
  s.shadow = Shadow::none;  // it ends with the instruction that is entered
  export_state(s, v_.bus.interrupt_requested());
}

void BtEngine::load_fpu() {
  v_.s.fpu_live = true;
  fpu_credit_ = fpu_credit;
  ++counters_.fpu_loads;
}

BtEngine::Next BtEngine::enter(u64 host, bool inside) {
  run_emitted(host, inside);
  return handle_exit();
}

void BtEngine::run_emitted(u64 host, bool inside) {
  CpuState& s = v_.s;
  prepare(inside);
  if (inside) s.gpr[esp] -= resume_esp_;
  s.link.resume_at = host;
  // The timer may have fired since boundary(): its zero in `poll` was overwritten just now.
  if (guard_->event()) s.link.poll = s.link.pending = 0;
  const u64 fdp = s.fpu.fdp;
  const u16 fop = s.fpu.fop;
  s.link.x87_pointer = static_cast<u32>(s.fpu.fip);
  const u64 start = options_.count ? __rdtsc() : 0;
  reinterpret_cast<void (*)(CpuState*)>(cache_.base() + cache_.stubs().enter)(&s);
  follow_context();
  if (options_.count) counters_.cycles_emitted += __rdtsc() - start;
  using contract::ExitReason;
  const auto reason = static_cast<ExitReason>(s.link.exit_reason);
  if (reason != ExitReason::boundary) import_state(s);
  // These two leave with a linear address.
  if (reason == ExitReason::lookup || reason == ExitReason::link) s.eip -= s.segment(Seg::cs).base;
  if (reason == ExitReason::host_fault || reason == ExitReason::miss) {
    if (const CodeCache::Site site = left_at(); site.block != nullptr)
      s.gpr[esp] += static_cast<u32>(i32{site.block->point(site.point).esp_pending});
  }
  if (!s.fpu_live) return;
  // Emitted x87 code has every exception masked (mode::x87_unmasked), so it moves the instruction pointer alone (guest/cpu_state.h).
  s.fpu.fdp = fdp;
  s.fpu.fop = fop;
  s.fpu.fip = x87_pointer();
}

CodeCache::Site BtEngine::left_at() {
  using contract::ExitReason;
  const EmittedLink& link = v_.s.link;
  switch (static_cast<ExitReason>(link.exit_reason)) {
    case ExitReason::interpret: return cache_.interpret_site(static_cast<u32>(link.exit_argument));
    case ExitReason::host_fault: return cache_.find_host(guard_->last().pc);
    case ExitReason::miss: return cache_.find_host(link.exit_argument - 1);
    default: return {};
  }
}

// FIP as the exit left it: what was stored, unless the exit came before the store.
u32 BtEngine::x87_pointer() {
  const EmittedLink& link = v_.s.link;
  const CodeCache::Site site = left_at();
  if (site.block == nullptr) return link.x87_pointer;
  u32 pointer = link.x87_pointer;
  PointReader reader(site.block->points);
  for (u32 index = 0; index <= site.point; ++index) {
    const InsnPoint point = reader.next();
    if (point.segment || !point.emitted) pointer = link.x87_pointer;  // stored before a way out; whatever the interpreter did is in there
    if (point.moves_fip && index != site.point) pointer = site.block->key.linear + point.guest_offset - site.block->key.cs_base;
  }
  return pointer;
}

BtEngine::Next BtEngine::handle_exit() {
  using contract::ExitReason;
  CpuState& s = v_.s;
  if (v_.traces(Trace::exits)) trace_exit(*v_.trace, cache_, s, guard_->last());
  switch (static_cast<ExitReason>(s.link.exit_reason)) {
    case ExitReason::lookup: ++counters_.exits_lookup; return Next::go_on;
    case ExitReason::link:
      ++counters_.exits_link;
      if (options_.chain) {
        link_exit_ = static_cast<u32>(s.link.exit_argument);
        link_generation_ = cache_.generation();
      }
      return Next::go_on;
    case ExitReason::interpret: ++counters_.exits_interpret; return on_interpret(static_cast<u32>(s.link.exit_argument));
    case ExitReason::boundary:
      if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
      return std::exchange(after_call_, Next::go_on);
    case ExitReason::miss: return on_miss();
    case ExitReason::host_fault: ++counters_.exits_fault; return on_fault();
  }
  throw InternalError("emitted code left with an unknown reason");
}

BtEngine::Next BtEngine::go_on_in(Block& block, u32 point, u64 generation) {
  // Only the fall-through stays in the block, and only if the block, its mode and its page are still what they were.
  const bool stays = cache_.generation() == generation && point < block.insn_count() && !block.point(point).segment && mode_is(block.key) &&
                     v_.s.eip == guest_eip(block, point) && v_.s.shadow == Shadow::none && !v_.s.halted && v_.s.pending_debug == 0 &&
                     (!block.uses_fpu || (v_.s.cr0 & (cr0::ts | cr0::em)) == 0);
  if (!stays) {
    counters_.skipped_instructions += block.rest_of_segment(point - 1) - 1;
    return Next::go_on;
  }
  if (block.uses_fpu && !v_.s.fpu_live && (v_.s.cr0 & (cr0::ts | cr0::em)) == 0) load_fpu();
  resume_at(block, point);
  return Next::go_on;
}

BtEngine::Next BtEngine::on_interpret(u32 number) {
  const CodeCache::Site site = cache_.interpret_site(number);
  Block& block = *site.block;
  v_.s.eip = guest_eip(block, site.point);
  ++counters_.skipped_instructions;
  const u64 generation = cache_.generation();
  if (step() == Next::stop) return Next::stop;
  if (after_access() == Next::stop) return Next::stop;
  return go_on_in(block, site.point + 1, generation);
}

BtEngine::Next BtEngine::after_access() {
  if (!v_.bus.take_access()) return Next::go_on;
  // A timer may have been programmed.
  if (const auto deadline = v_.bus.next_deadline(); deadline && *deadline < armed_) rearm();
  return Next::go_on;
}

BtEngine::Next BtEngine::translate_again(const Block& block, u32 point) {
  counters_.skipped_instructions += block.rest_of_segment(point) - 1;
  cache_.invalidate({block.key.physical + block.point(point).guest_offset}, 1);
  return Next::go_on;
}

BtEngine::Next BtEngine::on_fault() {
  CpuState& s = v_.s;
  const HostFault fault = guard_->last();
  const CodeCache::Site site = cache_.find_host(fault.pc);
  if (site.block == nullptr) throw InternalError("a host fault in emitted code outside every block");
  Block& block = *site.block;
  s.eip = guest_eip(block, site.point);
  const InsnPoint point = block.point(site.point);
  const bool shadowed = point.shadowed;
  if (shadowed) s.shadow = Shadow::sti;
  if (!shadowed && (guard_->event() || s.link.poll == 0)) {  // a poll: boundary() does what is due
    ++counters_.polls;
    if (guard_->event()) v_.mem.met_at_work();
    const u64 generation = cache_.generation();
    const u32 eip = s.eip;
    if (fault.between_elements) stepper_.yield_repeat();
    if (boundary() == Next::stop) return Next::stop;
    if (fault.between_elements && stepper_.repeating()) s.eflags &= ~flag::rf;
    if (cache_.generation() == generation && s.eip == eip && mode_is(block.key)) {
      resume_at(block, site.point);
    } else {
      counters_.skipped_instructions += block.rest_of_segment(site.point);
    }
    return Next::go_on;
  }
  if (block.uses_fpu && !s.fpu_live && (s.cr0 & (cr0::ts | cr0::em)) == 0 && fault.address_known && fault.address == 0) {
    load_fpu();
    resume_at(block, site.point);
    return Next::go_on;
  }
  if ((block.key.mode & mode::window) != 0 && fault.address_known) {
    const i64 distance = static_cast<i64>(fault.address - s.link.window);
    constexpr i64 before = static_cast<i64>(contract::window - contract::tables_size);
    if (distance >= -before && distance < static_cast<i64>(contract::window_end - contract::window))
      return on_window_fault(block, site.point, distance);
  }
  ++counters_.skipped_instructions;
  const u64 physical = block.key.physical + point.guest_offset;
  const u64 guard = reinterpret_cast<u64>(region_.state_area()) + contract::limit_guard;
  const bool table_miss = fault.signal == SIGSEGV && fault.table_miss;
  const bool gate = fault.address_known && fault.address < page_size;  // a pointer in EmittedLink that is 0
  const bool limit = fault.address_known && fault.address - guard < page_size;
  const bool by_table = fault.signal == SIGSEGV && !gate && !limit;
  const u64 generation = cache_.generation();
  if (step() == Next::stop) return Next::stop;
  const bool changed = cache_.generation() != generation;
  const Row row = stepper_.last_row();
  if (row == Row::sti) return go_on_in(block, site.point + 1, generation);  // an interrupt waits
  if (table_miss) ++counters_.misses_by_fault;
  if (fault.signal == SIGFPE && !changed && (row == Row::div || row == Row::idiv) && !forms_.at(physical).divides &&
      options_.translator.optimizations.on(Optimization::divisions)) {
    forms_.at(physical).divides = true;
    return translate_again(block, site.point);
  }
  if (by_table && !changed && (table_miss || forms_.at(physical).unaligned)) {
    look_up_by_call(block, site.point, fault.pc);
  } else if (by_table && !changed) {
    forms_.at(physical).unaligned = true;
    ++counters_.unaligned_sites;
    return translate_again(block, site.point);
  }
  return go_on_in(block, site.point + 1, generation);
}

}  // namespace ring3
