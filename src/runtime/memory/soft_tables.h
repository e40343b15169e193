// The entries of all contexts: how they are filled, found again by RAM page, and dropped. A flush drops only what the guest's tables no
// longer say.
#pragma once

#include "base/types.h"
#include "guest/address.h"
#include "guest/cpu_state.h"
#include "runtime/memory/context.h"
#include "runtime/memory/context_pool.h"
#include "runtime/memory/context_set.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/page_walker.h"
#include "runtime/memory/ram.h"
#include "translator/contract.h"

#include <array>
#include <span>
#include <vector>

namespace ring3 {

class SoftTables {
 public:
  using Views = std::array<SelectedView, 2>;
  // `views` is kept up to date: what `data` gives, where that needs no selection.
  SoftTables(GuestRam& ram, const PageWalker& walker, MemoryStats& stats, Views& views);

  // Off: a flush drops everything but what is global, and address spaces share contexts.
  void set_keep(bool keep) { keep_ = keep; }

  // As Memory::limit_contexts.
  void limit(u64 bytes) { pool_.set_budget(bytes); }

  // The context for `key` (`space` is filled in) in the address space that is loaded; agrees with the guest's tables as of the last flush.
  Context& select(ContextKey key);
  // The context to look data up in: that for the mode last selected with that privilege, or, if there was none, for a plain one.
  Context& data(bool user) {
    Context* context = data_[user];
    return context != nullptr ? *context : select_data(user);
  }
  void follow(u64 base) {
    for (Context* context : data_)
      if (context != nullptr && context->base() == base) current_ = context;
  }
  // Null: `select` is due.
  [[nodiscard]] Context* current() const { return current_; }

  // To be called before anything of `page` is kept for this context. `fetched`: for code, not data.
  void enter(Context& context, u32 page, const TableCopies::Source& source, bool global, bool fetched);
  // Linear page `page` -> RAM page at physical `ram_page`. `writable`: also for writes.
  void fill(Context& context, u32 page, u64 ram_page, bool writable);
  // `page` is cached for reads alone, and leads to `ram_page`.
  [[nodiscard]] bool reads(const Context& context, u32 page, u64 ram_page) const {
    return context.read_[page] == entry(page, ram_page) && !contract::present(context.write_[page]);
  }
  // Would `fill` add something here, without changing where the page leads or taking its write entry away?
  [[nodiscard]] bool adds(const Context& context, u32 page, u64 ram_page, bool writable) const {
    const u64 old = context.read_[page];
    return !contract::present(old) || (old == entry(page, ram_page) && writable && !contract::present(context.write_[page]));
  }
  // The slot of `linear` in the current context, for a block that lies in that page and in `further` ones. Does nothing unless all of them
  // were fetched through this context and are in the TLB. True: it is the only slot of its page.
  bool set_jump(u32 linear, u32 offset, std::span<const u32> further);
  void set_jumps(std::span<const PageSlots::Slot> slots);

  // --- windows (of the current context) ---
  // `after`: how often a context must be met at work; 0: windows are open from the start and stay so. Off until this is called.
  // `low`: one of them may lie at host address 0, if the host lets it.
  void set_windows(u32 after, bool low);
  // Windows that were emptied because together they took too many of the host's mappings.
  [[nodiscard]] u64 windows_emptied() const { return budget_.emptied; }
  [[nodiscard]] bool window_open() const { return current_ != nullptr && current_->window_ != nullptr; }
  [[nodiscard]] bool window_low() const { return window_open() && current_ == low_owner_; }
  // Host address of linear address 0 in it; 0 if it is closed.
  [[nodiscard]] u64 window_base() const { return window_open() ? current_->window_->base() : 0; }
  // The current context was met at work: some time has passed. May open or close its window, and empties its jump slots then.
  void met_at_work();
  // Maps `page`, and neighbours with entries, as far as its entry allows. False: it has none for this access, or the window is closed now.
  bool map_window(u32 page, bool write);

  // Flushes. Contexts that are not in use are done when they are selected again.
  void flush_non_global();
  void flush_global();
  void change_mode();
  // The page, or the large page around it.
  void flush_page(u32 page);
  // No context keeps a data entry for this linear page; jumps stay.
  void drop_data(u32 page);
  // No context keeps a write entry for this RAM page.
  void drop_writes(u64 ram_page);
  void clear_jump(u32 linear);
  // Some context was fetching code from this linear page, and the guest's tables still say what they said.
  [[nodiscard]] bool code_in_use(u32 page);
  // The current context has no slot in this linear page.
  [[nodiscard]] bool no_jumps(u32 page) const { return current_ == nullptr || current_->jumps_.none(page); }
  // All slots of a linear page, in every context.
  void clear_jumps(u32 page);
  void clear_all_jumps();

 private:
  // Context number and linear page in one word, + 1 so that zeroed memory means none.
  static constexpr u32 link(unsigned number, u32 page) { return ((number << 20) | page) + 1; }
  [[nodiscard]] Context::Note& note(u32 some_link) { return pool_[(some_link - 1) >> 20].notes_[(some_link - 1) & 0xFFFFF]; }

  [[nodiscard]] u64 entry(u32 page, u64 ram_page) const {
    return reinterpret_cast<u64>(ram_.base()) + ram_page - (u64{page} << page_shift);
  }
  Context& select_data(bool user);
  void set_data(bool user, Context* context);
  void refresh(Context& context);
  [[nodiscard]] u32& first_writer(const Context& context, u64 ram_page);
  void link_write(Context& context, u32 page, u64 ram_page);
  void unlink_write(Context& context, u32 page);
  void drop_entries(Context& context, u32 page);
  void drop_stale(Context& context);
  void empty(Context& context);
  void release_surplus();
  void deselect();
  void open_window(Context& context);
  void close_window(Context& context);
  void drop_window(Context& context);
  void window_changed(Context& context);
  [[nodiscard]] bool low_is_due(const Context& context) const;
  void empty_windows();
  [[nodiscard]] bool may_map(const Context& context, u32 page) const;
  bool map_run(Context& context, u32 page, u32 least, u32 end);
  void unmap(Context& context, const std::vector<u32>& pages);
  template <typename F>
  void for_users(u32 page, F&& f);  // the contexts that may hold something of `page`

  GuestRam& ram_;
  const PageWalker& walker_;
  WindowBudget budget_;  // outlives the windows in the pool
  Mapping low_;          // host addresses from contract::low_window_begin on; empty: not to be had
  ContextPool pool_;
  std::array<Context*, 2> data_{};  // [user]; null after a flush
  Views& views_;
  std::array<ContextKey, 2> last_key_{};  // [user]
  Context* current_ = nullptr;
  u64 fetch_tags_ = 0;
  u64 flushes_ = 0, global_flushes_ = 0, mode_changes_ = 1;
  StalePages stale_;  // scratch
  MemoryStats& stats_;
  bool keep_ = true;
  Context* low_owner_ = nullptr;  // whose window is at host address 0
  u32 alone_ = 0;                 // how often a kernel was, since a program was
  u32 low_idle_ = 0;              // how often another context was met at work since it was
  bool windows_ = false;
  u32 windows_after_ = 0;
  // Per RAM page: links to the first write entry that leads to it, of supervisors' contexts and of users'. Apart, because a kernel's come
  // and go with each process whose memory it writes, and should not touch the process' own tables for that.
  struct Writers {
    std::array<u32, 2> first{};  // [user]
  };
  std::vector<Writers> writers_;
  // Per region of linear space: the contexts that may hold something of it, and those that may hold global pages there.
  static_assert(Memory::max_contexts <= ContextSet::most);
  std::vector<ContextSet> users_, global_users_;
  ContextSet current_since_flush_;  // agree with the guest's tables as of the last flush; all others are compared when they are selected
};

}  // namespace ring3
