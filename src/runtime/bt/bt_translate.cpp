// From an address to an installed block.
#include <x86intrin.h>
#include <algorithm>
#include <cstring>
#include <functional>

#include "guest/breakpoints.h"
#include "runtime/bt/bt_engine.h"
#include "runtime/bt/bt_trace.h"
#include "runtime/memory/ram.h"

namespace ring3 {

namespace {

constexpr u32 longest_insn = 15;
constexpr u32 host_line = 64;                  // bytes: a function of a few instructions that crosses one takes 1.4 times as long
constexpr u32 largest_instruction_write = 64;  // bytes
constexpr u32 writes_before_giving_up = 32;    // a code page written this often becomes a data page until it is executed again

}  // namespace

bool BtEngine::second_page(u32 linear, PhysAddr& out) {
  Fault fault;
  const u32 next = (linear & ~page_mask) + page_size;
  const auto t = v_.mem.translate_fetch(next, v_.s.cpl == 3, fault);
  if (!t || !t->ram) return false;
  out = t->address;
  return true;
}

Block* BtEngine::find_or_translate() {
  if (v_.s.eip > mode_.cs_limit) return nullptr;
  const u32 linear = v_.s.eip + mode_.cs_base;
  const bool user = v_.s.cpl == 3;
  Fault fault;
  const auto t = v_.mem.translate_fetch(linear, user, fault);
  if (!t || !t->ram) return nullptr;  // the interpreter raises the fault, or runs code from MMIO
  const BlockKey key{t->address.value, linear, mode_.mode, mode_.cs_base, mode_.cs_limit};
  Block* block = cache_.find(key);
  if (block != nullptr && block->crosses_page) {
    PhysAddr second;
    if (!second_page(linear, second) || second.value != cache_.second_page(*block)) {
      cache_.kill(*block);
      block = nullptr;
    }
  }
  if (block == nullptr && adopt_page(key)) block = cache_.find(key);
  if (block == nullptr) {
    const u64 start = options_.count ? __rdtsc() : 0;
    block = translate(key, t->address);
    if (options_.count) counters_.cycles_translating += __rdtsc() - start;
    if (block == nullptr) return nullptr;
  }
  if (options_.chain) {
    const u32 second = ((linear >> page_shift) + 1) & (linear_page_count - 1);
    const bool first = v_.mem.set_jump(linear, cache_.way_in(*block), std::span(&second, block->crosses_page ? 1 : 0));
    if (first && options_.translator.optimizations.on(Optimization::jumps_ahead)) fill_jumps_ahead(*block);
  }
  return block;
}

// Programs lie at other addresses each time they are started, where the guest randomizes them. Asked once for each page of a context, when
// it first comes there.
bool BtEngine::adopt_page(const BlockKey& key) {
  if (!options_.translator.optimizations.on(Optimization::moved_code) || any_breakpoint(v_.s)) return false;
  if (!cache_.has_blocks({key.physical}) || !v_.mem.no_jumps(key.linear)) return false;
  const Block* const unused = cache_.unused_place(key, [&](u32 linear) { return v_.mem.code_in_use(linear); });
  if (unused == nullptr) return false;
  v_.mem.clear_jumps(unused->key.linear);
  cache_.move_page(*unused, key);
  return true;
}

// A new process comes to hundreds of blocks that another one ran before: a look-up for each page instead of each block.
void BtEngine::fill_jumps_ahead(const Block& block) {
  const std::span<const PageSlots::Slot> slots = cache_.slots_beside(block);
  v_.mem.set_jumps(slots);
  counters_.jumps_ahead += slots.size();
}

Block* BtEngine::translate(const BlockKey& key, PhysAddr physical) {
  const u32 in_page = page_size - (key.linear & page_mask);
  const u8* bytes = v_.mem.ram().at(physical);
  // An instruction that reaches over the limit of CS is the interpreter's, which raises the fault.
  const u64 within = u64{key.cs_limit} - (key.linear - key.cs_base) + 1;
  const auto visible = [&](u64 count) { return static_cast<std::size_t>(std::min(count, within)); };
  // Not into what is translated already: it would be there twice.
  const bool behind_calls = options_.translator.optimizations.on(Optimization::returns);
  const auto is_new = [&](const Insn& insn, u32 offset) {
    if (insn.row == Row::call && !behind_calls) return false;
    BlockKey next = key;
    next.physical += offset;
    next.linear += offset;
    return cache_.find(next) == nullptr && cache_.landing(next) == 0;
  };
  GoesOn goes_on;
  if (options_.translator.optimizations.on(Optimization::superblocks)) goes_on = std::cref(is_new);  // a reference: nothing is allocated
  build_block(decoder_, key, {bytes, visible(in_page)}, in_page, options_.max_block, goes_on, guest_);
  PhysAddr second;
  // An instruction across the border begins a block: the walk for its second half marks that page accessed, which it must not be before
  // the instruction executes.
  const bool crosses = guest_.truncated && guest_.insns.empty() && in_page < longest_insn;
  if (crosses && within > in_page && second_page(key.linear, second)) {
    std::vector<u8> joined(bytes, bytes + in_page);
    const u8* rest = v_.mem.ram().at(second);
    joined.insert(joined.end(), rest, rest + longest_insn);
    build_block(decoder_, key, {joined.data(), visible(joined.size())}, in_page, options_.max_block, goes_on, guest_);
  }
  if (guest_.insns.empty()) return nullptr;
  if (any_breakpoint(v_.s)) stop_before_breakpoint();
  const bool aligned = (key.mode & mode::window) != 0 && options_.translator.optimizations.on(Optimization::aligned_code);
  u64* counter = nullptr;
  for (int attempt = 0;; ++attempt) {
    if (options_.count) counter = cache_.new_counter();
    if (aligned) cache_.align_next(host_line);
    translator_.translate(guest_, forms_, cache_.next_offset(), counter, translated_);
    if (cache_.has_room(translated_.code.size())) break;
    if (attempt != 0) return nullptr;  // larger than the whole cache
    flush_cache();
  }
  v_.mem.watch_code(physical);
  if (guest_.crosses_page) v_.mem.watch_code(second);
  Block& block = cache_.install(guest_, second.value, translated_, counter);
  keep_sites(guest_, block, translated_);
  if (options_.chain) {
    for (const DirectExit& exit : translated_.exits) {
      if (exit.kind == ExitKind::landing || exit.kind == ExitKind::landing_in) lead_to_landing(exit, key);
    }
  }
  if (v_.traces(Trace::blocks)) trace_block(*v_.trace, block, cache_.base());
  return &block;
}

// The translation of a CALL is new. If the code behind it is part of it, RETs can go there at once; if RETs were led to that code already,
// from now on the host shall predict them.
void BtEngine::lead_to_landing(const DirectExit& exit, BlockKey key) {
  key.physical = (key.physical & ~u64{page_mask}) | (exit.target & page_mask);
  key.linear = exit.target;
  const auto* jumps = reinterpret_cast<const u32*>(v_.s.link.context + contract::jump_table);
  if (const Block* const block = cache_.find(key)) {
    if (jumps[exit.target] != 0) (void)v_.mem.set_jump(exit.target, cache_.way_in(*block));
  } else if (const u32 landing = cache_.landing(key); exit.kind == ExitKind::landing_in && landing != 0) {
    (void)v_.mem.set_jump(exit.target, landing);
  }
}

// An instruction with a breakpoint is not translated, and no block runs into it.
void BtEngine::stop_before_breakpoint() {
  u32 offset = 0;
  for (std::size_t i = 0; i < guest_.insns.size(); ++i) {
    if (i != 0 && code_breakpoints_at(v_.s, guest_.key.linear + offset) != 0) {
      guest_.insns.resize(i);
      guest_.length = offset;
      guest_.crosses_page = guest_.truncated = false;
      return;
    }
    offset += guest_.insns[i].length;
  }
}

void BtEngine::flush_cache() {
  if (v_.traces(Trace::invalidate) && !cache_.blocks().empty()) trace_flush(*v_.trace, cache_.blocks().size());
  v_.mem.clear_all_jumps();
  cache_.flush();
  direct_sites_.clear();
  writes_to_code_page_.clear();
  resume_ = 0;
  link_exit_ = ~0u;
}

void BtEngine::code_written(PhysAddr address, u32 size) {
  u64 at = address.value;
  const u64 end = at + size;
  while (at < end) {
    const u64 page = at & ~u64{page_mask};
    const u32 part = static_cast<u32>(std::min(end, page + page_size) - at);
    const u64 before = cache_.counters().invalidated;
    bool empty = cache_.invalidate({at}, part);
    // Other instructions stand there now. Large writes keep the marks: those cost speed only, and looking for them all costs more.
    if (part <= largest_instruction_write) forms_.forget(at, part);
    // A page of code and hot data would cost a fault a write: drop its code now and then and let the writes go through.
    if (!empty && ++writes_to_code_page_[page >> page_shift] > writes_before_giving_up) empty = cache_.invalidate({page}, page_size);
    if (v_.traces(Trace::invalidate)) trace_invalidation(*v_.trace, {at}, part, cache_.counters().invalidated - before);
    if (empty) {
      stepper_.code_written({page}, page_size);
      writes_to_code_page_.erase(page >> page_shift);
      v_.mem.unwatch_code({page});
    } else {
      stepper_.code_written({at}, part);
    }
    at += part;
  }
}

}  // namespace ring3
