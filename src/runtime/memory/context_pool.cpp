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

// Host pages that all contexts but the largest, which is the kernel's, may touch before old ones are given up for new ones; and that an
// emptied one may keep.
constexpr u32 most_touched = (24u << 20) / 4096;
constexpr u32 most_kept = (1u << 20) / 4096;

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

Context::Context(unsigned number, const GuestRam& ram)
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
}

Context* ContextPool::find(const ContextKey& key) {
  Context*& likely = quick_[quick(key)];
  if (likely != nullptr && likely->key_ == key) return likely;
  for (Context* context : of_[is_user(key)]) {
    if (context->key_ == key) return likely = context;
  }
  return nullptr;
}

Context* ContextPool::find_similar(const ContextKey& key, const PagingRoots& roots, u64 mode_changes) {
  Context* best = nullptr;
  u32 most = 0;
  for (Context* context : of_[false]) {
    if (!context->key_.same_mode(key) || context->mode_changes_ != mode_changes) continue;
    const u32 all = context->copies_.count();
    const u32 kept = all - context->copies_.differing(roots);
    if (kept < most || kept * 2 < all || kept == 0) continue;
    best = context;
    most = kept;
  }
  return best;
}

Context& ContextPool::take(bool user, u64 mode_changes, const Context* keep) {
  Context* dead = nullptr;
  u32 touched = 0;
  u32 largest = 0;
  for (unsigned n = 0; n < count_; ++n) {
    Context& context = *contexts_[n];
    const u32 own = context.touched();
    touched += own;
    largest = std::max(largest, own);
    if (&context == keep) continue;
    if (dead != nullptr && dead->last_selected_ > context.last_selected_) continue;
    if (context.mode_changes_ != mode_changes || (is_user(context.key_) == user && context.copies_.dead())) dead = &context;
  }
  if (dead != nullptr) return *dead;
  const bool has_other = count_ > (keep != nullptr ? 1u : 0u);
  if (count_ < contexts_.size() && (!has_other || touched - largest < most_touched)) {
    try {
      contexts_[count_] = std::make_unique<Context>(count_, ram_);
      of_[is_user(contexts_[count_]->key_)].push_back(contexts_[count_].get());
      return *contexts_[count_++];
    } catch (const UserError&) {
      if (!has_other) throw;
    }
  }
  return any_but(keep);
}

// There is at least one besides `keep`.
Context& ContextPool::any_but(const Context* keep) {
  if (count_ == 0) throw InternalError("no context to reuse");
  random_ = random_ * 1664525 + 1013904223;
  unsigned n = (random_ >> 16) % count_;
  if (contexts_[n].get() == keep) n = (n + 1) % count_;
  return *contexts_[n];
}

void ContextPool::set_key(Context& context, const ContextKey& key) {
  if (is_user(context.key_) != is_user(key)) {
    std::erase(of_[is_user(context.key_)], &context);
    of_[is_user(key)].push_back(&context);
  }
  context.key_ = key;
  quick_[quick(key)] = &context;
}

Context& ContextPool::shrink(Context& context) {
  if (context.touched() <= most_kept) return context;
  const unsigned number = context.number_;
  for (Context*& known : quick_)
    if (known == &context) known = nullptr;
  for (auto& members : of_) std::erase(members, &context);
  contexts_[number].reset();
  contexts_[number] = std::make_unique<Context>(number, ram_);
  of_[is_user(contexts_[number]->key_)].push_back(contexts_[number].get());
  return *contexts_[number];
}

}  // namespace ring3
