// Which context serves which mode and address space, and how much memory the contexts may take.
//
// Two things bound it: the number of contexts (Memory::max_contexts), and `budget`, which is what those that are not at work may hold. At
// work are the two that were selected last, one for each privilege; what one context can hold is bounded by itself (docs/testing.md,
// "Memory").
#pragma once

#include "base/types.h"
#include "runtime/memory/context.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/miss_pages.h"

#include <array>
#include <memory>
#include <vector>

namespace ring3 {

class ContextPool {
 public:
  explicit ContextPool(const GuestRam& ram);

  [[nodiscard]] Context& operator[](unsigned number) { return *contexts_[number]; }
  template <typename F>
  void for_each(F&& f) {
    for (const auto& context : contexts_)
      if (context != nullptr) f(*context);
  }
  void set_budget(u64 bytes) { budget_ = static_cast<u32>(bytes / page_size); }

  // The context with this key, or null.
  [[nodiscard]] Context* find(const ContextKey& key) const;
  // A supervisor's context of another address space that `roots` leave most of, and at least half of; null if there is none. So contexts of
  // kernels outlive the processes they were filled in: one if the kernel's pages are the same everywhere, two under page-table isolation.
  [[nodiscard]] Context* find_similar(const ContextKey& key, const PagingRoots& roots, u64 mode_changes) const;
  // A context to be emptied and given a new key: one whose address space is gone, a new one while there is room, or else any but `keep`.
  // Any, because address spaces tend to come round in turn, and then the oldest is the one that is wanted next.
  [[nodiscard]] Context& take(bool user, u64 mode_changes, const Context* keep);
  // The context has another key now.
  void set_key(Context& context, const ContextKey& key);
  // The context was selected: it is at work now.
  void note_selected(Context& context);
  // A context to be emptied and released, because those that are not at work hold more than the budget; null if they do not.
  [[nodiscard]] Context* surplus(u64 mode_changes);
  // Gives an emptied context back to the host.
  void release(Context& context);
  // Gives the host back what an emptied context has touched, if that is much. The base changes.
  Context& shrink(Context& context);

 private:
  static constexpr unsigned chain_bits = 10;
  [[nodiscard]] static u32 hash(const ContextKey& key);
  [[nodiscard]] bool at_work(const Context& context) const { return &context == at_work_[0] || &context == at_work_[1]; }
  [[nodiscard]] bool is_free(const Context& context, u64 mode_changes) const;
  [[nodiscard]] u32 idle_pages() const;
  void sweep(u64 mode_changes);
  [[nodiscard]] Context* take_free(u64 mode_changes);
  [[nodiscard]] Context* any_but(const Context* keep);
  Context* make();
  void forget_key(Context& context);
  void charge(Context& context);

  const GuestRam& ram_;
  const MissPages misses_;
  std::vector<std::unique_ptr<Context>> contexts_;   // by number; null: released
  std::vector<u32> unused_;                          // numbers of those
  std::array<Context*, 1u << chain_bits> chains_{};  // by hash of the key; a kernel's changes with every process, so nothing may pile up
  std::vector<Context*> supervisors_;                // last selected first
  std::array<Context*, 2> at_work_{};                // [user]
  u32 budget_;                                       // host pages
  u32 charged_ = 0;                                  // of all contexts
  u64 selections_ = 0;
  std::vector<Context*> free_;  // found when their address spaces were gone
  u32 hand_ = 0;                // where `sweep` goes on
  u32 random_ = 1;
};

}  // namespace ring3
