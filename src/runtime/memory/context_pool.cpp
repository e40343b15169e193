#include "runtime/memory/context_pool.h"

#include "base/error.h"
#include "guest/block_key.h"
#include "translator/contract.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ring3 {

namespace {

// Host pages that an emptied context may keep.
constexpr u32 most_kept = (1u << 20) / 4096;
// What contexts that are not at work may hold: a quarter of guest RAM, in these bounds. A process of a Linux guest that does little takes
// 130 KiB here, and more than a megabyte of guest RAM; a context that served several of them one after the other up to `most_kept`. With
// half of this, 64 processes that start others had theirs given back and made again all the time.
constexpr u64 least_budget = 24u << 20;
constexpr u64 most_budget = 128u << 20;
// How many contexts are looked at each time for those whose address space is gone, and for one of a similar space: 50 ns each. So about an
// eighth of all may be gone and not found yet.
constexpr u32 looked_at = 8;

bool is_user(const ContextKey& key) { return (key.mode & mode::user) != 0; }

Mapping sparse_or_throw(u64 size) {
  Mapping mapping = Mapping::sparse(size);
  if (mapping) return mapping;
  throw UserError(
      fmt::format("memory tables: cannot reserve {} MiB of address space: {}; raise the limit (ulimit -v) or allow overcommit "
                  "(vm.overcommit_memory)",
                  size >> 20, std::strerror(errno)));
}

}  // namespace

Context::Context(unsigned number, const GuestRam& ram, const MissPages& misses)
    : number_(number),
      tables_(sparse_or_throw(contract::context_size + contract::linear_size)),
      start_((0 - (reinterpret_cast<u64>(tables_.data()) + contract::window)) & (contract::linear_size - 1)),
      note_mapping_(sparse_or_throw(u64{linear_page_count} * sizeof(Note))),
      read_(reinterpret_cast<u64*>(base() + contract::read_table)),
      write_(reinterpret_cast<u64*>(base() + contract::write_table)),
      notes_(reinterpret_cast<Note*>(note_mapping_.data())),
      jumps_(tables_, start_ + contract::jump_table),
      copies_(ram) {
  if (!tables_.close(start_ + contract::tables_size, contract::context_size - contract::tables_size))
    throw UserError("windows: the host has no room for another mapping");
  if (!misses.map(tables_, start_, contract::jump_table))
    throw UserError(fmt::format("memory tables: the host has no room for another mapping: {}", std::strerror(errno)));
}

ContextPool::ContextPool(const GuestRam& ram) : ram_(ram) { set_budget(std::clamp(ram.size() / 4, least_budget, most_budget)); }

u32 ContextPool::hash(const ContextKey& key) {
  u64 mixed = key.space >> 5 | u64{key.mode} << 27;
  mixed = (mixed ^ key.cs_base ^ u64{key.cs_limit} << 32) * 0x9E3779B97F4A7C15;
  return static_cast<u32>(mixed >> (64 - chain_bits));
}

Context* ContextPool::find(const ContextKey& key) const {
  for (Context* context = chains_[hash(key)]; context != nullptr; context = context->next_in_chain_)
    if (context->key_ == key) return context;
  return nullptr;
}

Context* ContextPool::find_similar(const ContextKey& key, const PagingRoots& roots, u64 mode_changes) const {
  Context* best = nullptr;
  u32 most = 0;
  u32 left = looked_at;
  for (Context* context : supervisors_) {
    if (!context->key_.same_mode(key) || context->mode_changes_ != mode_changes) continue;
    if (left-- == 0) break;
    const u32 all = context->copies_.count();
    const u32 kept = all - context->copies_.differing(roots);
    if (kept < most || kept * 2 < all || kept == 0) continue;
    best = context;
    most = kept;
  }
  return best;
}

bool ContextPool::is_free(const Context& context, u64 mode_changes) const {
  return context.mode_changes_ != mode_changes || context.copies_.dead();
}

// Looks at a few contexts each time: what is found is used later. One that waits for the next of some few processes does not have to be
// found among very many.
void ContextPool::sweep(u64 mode_changes) {
  for (u32 i = std::min<u32>(looked_at, static_cast<u32>(contexts_.size())); i > 0; --i) {
    hand_ = (hand_ + 1) % static_cast<u32>(contexts_.size());
    Context* context = contexts_[hand_].get();
    if (context == nullptr || context->is_known_free_ || at_work(*context)) continue;
    // A kernel's goes over to another space while the one it was filled in ends.
    if (!is_user(context->key_) && context->mode_changes_ == mode_changes) continue;
    if (!is_free(*context, mode_changes)) continue;
    context->is_known_free_ = true;
    free_.push_back(context);
  }
}

Context* ContextPool::take_free(u64 mode_changes) {
  sweep(mode_changes);
  while (!free_.empty()) {
    Context* context = free_.back();
    free_.pop_back();
    context->is_known_free_ = false;
    if (!at_work(*context) && is_free(*context, mode_changes)) return context;  // otherwise its space is in use again
  }
  return nullptr;
}

Context& ContextPool::take(bool user, u64 mode_changes, const Context* keep) {
  // A process that ended just now.
  if (Context* last = at_work_[user]; last != nullptr && is_free(*last, mode_changes)) return *last;
  if (Context* found = take_free(mode_changes)) return *found;
  const std::size_t live = contexts_.size() - unused_.size();
  const bool has_other = live > (keep != nullptr ? 1u : 0u);
  if (live < Memory::max_contexts && (!has_other || idle_pages() < budget_)) {
    try {
      return *make();
    } catch (const UserError&) {
      if (!has_other) throw;
    }
  }
  if (Context* found = any_but(keep)) return *found;
  throw InternalError("no context to reuse");
}

Context* ContextPool::make() {
  const bool has_unused = !unused_.empty();
  const u32 number = has_unused ? unused_.back() : static_cast<u32>(contexts_.size());
  auto made = std::make_unique<Context>(number, ram_, misses_);
  if (has_unused) {
    unused_.pop_back();
    contexts_[number] = std::move(made);
  } else {
    contexts_.push_back(std::move(made));
  }
  charge(*contexts_[number]);
  return contexts_[number].get();
}

// Not one that is at work, if there is another.
Context* ContextPool::any_but(const Context* keep) {
  random_ = random_ * 1664525 + 1013904223;
  const std::size_t first = (random_ >> 16) % contexts_.size();
  Context* last_choice = nullptr;
  for (std::size_t i = 0; i < contexts_.size(); ++i) {
    Context* context = contexts_[(first + i) % contexts_.size()].get();
    if (context == nullptr || context == keep) continue;
    if (!at_work(*context)) return context;
    last_choice = context;
  }
  return last_choice;
}

void ContextPool::set_key(Context& context, const ContextKey& key) {
  forget_key(context);
  context.key_ = key;
  context.has_key_ = true;
  Context*& chain = chains_[hash(key)];
  context.next_in_chain_ = chain;
  chain = &context;
  if (!is_user(key)) supervisors_.push_back(&context);
}

void ContextPool::forget_key(Context& context) {
  if (!context.has_key_) return;
  Context** link = &chains_[hash(context.key_)];
  while (*link != &context) link = &(*link)->next_in_chain_;
  *link = context.next_in_chain_;
  if (!is_user(context.key_)) std::erase(supervisors_, &context);
  context.has_key_ = false;
}

void ContextPool::charge(Context& context) {
  charged_ -= context.charged_;
  context.charged_ = context.touched();
  charged_ += context.charged_;
}

void ContextPool::note_selected(Context& context) {
  const bool user = is_user(context.key_);
  if (at_work_[user] != nullptr) charge(*at_work_[user]);
  if (at_work_[!user] == &context) at_work_[!user] = nullptr;
  at_work_[user] = &context;
  charge(context);
  context.last_selected_ = ++selections_;
  if (!user && supervisors_.front() != &context) {
    const auto place = std::ranges::find(supervisors_, &context);
    std::rotate(supervisors_.begin(), place, place + 1);
  }
}

u32 ContextPool::idle_pages() const {
  u32 result = charged_;
  for (const Context* context : at_work_)
    if (context != nullptr) result -= context->charged_;
  return result;
}

Context* ContextPool::surplus(u64 mode_changes) {
  if (idle_pages() <= budget_) return nullptr;
  if (Context* found = take_free(mode_changes)) return found;
  // The older of two, so that what is in use now and then is seldom met.
  Context* one = any_but(nullptr);
  Context* other = any_but(nullptr);
  if (one == nullptr || at_work(*one)) return nullptr;
  return one->last_selected_ < other->last_selected_ ? one : other;
}

void ContextPool::release(Context& context) {
  const u32 number = context.number_;
  forget_key(context);
  charged_ -= context.charged_;
  for (Context*& known : at_work_)
    if (known == &context) known = nullptr;
  if (context.is_known_free_) std::erase(free_, &context);
  contexts_[number].reset();
  unused_.push_back(number);
}

Context& ContextPool::shrink(Context& context) {
  if (context.touched() <= most_kept) return context;
  release(context);
  return *make();
}

}  // namespace ring3
