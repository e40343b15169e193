// Which context serves which mode and address space.
#pragma once

#include "base/types.h"
#include "runtime/memory/context.h"
#include "runtime/memory/memory.h"

#include <array>
#include <memory>
#include <vector>

namespace ring3 {

class ContextPool {
 public:
  explicit ContextPool(const GuestRam& ram) : ram_(ram) {}

  [[nodiscard]] Context& operator[](unsigned number) { return *contexts_[number]; }
  [[nodiscard]] unsigned size() const { return count_; }

  // The context with this key, or null.
  [[nodiscard]] Context* find(const ContextKey& key);
  // A supervisor's context of another address space that `roots` leave most of, and at least half of; null if there is none. So contexts of
  // kernels outlive the processes they were filled in: one if the kernel's pages are the same everywhere, two under page-table isolation.
  [[nodiscard]] Context* find_similar(const ContextKey& key, const PagingRoots& roots, u64 mode_changes);
  // A context to be emptied and given a new key: one whose address space is gone, a new one while memory lasts, or else any but `keep`.
  // Any, because address spaces tend to come round in turn, and then the oldest is the one that is wanted next.
  [[nodiscard]] Context& take(bool user, u64 mode_changes, const Context* keep);
  // The context has another key now.
  void set_key(Context& context, const ContextKey& key);
  // Gives the host back what an emptied context has touched, if that is much. The base changes.
  Context& shrink(Context& context);

 private:
  static constexpr u32 quick_count = 64;
  [[nodiscard]] Context& any_but(const Context* keep);
  static u32 quick(const ContextKey& key) { return ((key.space >> 12) ^ (key.space >> 18) ^ key.mode ^ (key.mode >> 7)) % quick_count; }

  const GuestRam& ram_;
  std::array<std::unique_ptr<Context>, Memory::max_contexts> contexts_;
  unsigned count_ = 0;
  std::array<Context*, quick_count> quick_{};  // by hash of the key
  std::array<std::vector<Context*>, 2> of_;    // [user]; so that a kernel's few are found among its many processes'
  u32 random_ = 1;
};

}  // namespace ring3
