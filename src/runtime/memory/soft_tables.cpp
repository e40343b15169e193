#include "runtime/memory/soft_tables.h"

#include "base/error.h"
#include "guest/block_key.h"
#include "translator/contract.h"

#include <algorithm>
#include <bit>

namespace ring3 {

using contract::no_entry;
using contract::present;

namespace {

// A context whose groups were compared this often without one being registered is emptied, so that it keeps what is in use: comparing costs
// about a fiftieth of filling, hence both together at most twice the cheaper.
constexpr u32 most_comparisons = 64;
constexpr u32 always_worth_comparing = 128;

// Windows: how far a run of pages that is mapped at once may reach, and which pages around a miss are looked at.
constexpr u32 longest_run = 512;
constexpr u32 pages_around = 16;
constexpr u32 pieces_a_miss = 2 * (pages_around + 1);
// The window at host address 0, all in meetings at work (4 to 10 ms): after how many of others it is free to be taken; how long a kernel
// must be alone; how long another window is open before it goes there, since all code is translated once more then.
constexpr u32 long_idle = 25;
constexpr u32 long_alone = 500;
constexpr u32 long_at_work = 25;

}  // namespace

SoftTables::SoftTables(GuestRam& ram, const PageWalker& walker, MemoryStats& stats, Views& views)
    : ram_(ram),
      walker_(walker),
      pool_(ram),
      views_(views),
      stats_(stats),
      writers_(ram.size() >> page_shift),
      users_(Context::Regions::count),
      global_users_(Context::Regions::count) {
  last_key_[1].mode = mode::user;
}

// --- selection ---

Context& SoftTables::select(ContextKey key) {
  const bool user = (key.mode & mode::user) != 0;
  // The way between a kernel and its processes: one mode of each privilege, again and again.
  if (Context* same = data_[user]; same != nullptr && same->key_.same_mode(key)) return *(current_ = same);
  if (keep_) key.space = walker_.space();
  Context* found = pool_.find(key);
  if (found == nullptr) {
    if (!user && keep_) found = pool_.find_similar(key, walker_.roots(), mode_changes_);
    if (found != nullptr) {
      ++stats_.contexts_adopted;
    } else {
      found = &pool_.take(user, mode_changes_, data_[!user]);
      ++(found->last_selected_ != 0 ? stats_.contexts_reused : stats_.contexts_made);
      for (const bool privilege : {false, true})
        if (data_[privilege] == found) set_data(privilege, nullptr);
      empty(*found);
      current_since_flush_.remove(found->number_);
      found = &pool_.shrink(*found);
      found->fetch_tag_ = ++fetch_tags_;
    }
    pool_.set_key(*found, key);
  }
  refresh(*found);
  if (windows_ && windows_after_ == 0 && found->window_ == nullptr) open_window(*found);
  pool_.note_selected(*found);
  last_key_[user] = key;
  set_data(user, found);
  current_ = found;
  release_surplus();
  return *found;
}

void SoftTables::release_surplus() {
  while (Context* context = pool_.surplus(mode_changes_)) {
    empty(*context);
    current_since_flush_.remove(context->number_);
    pool_.release(*context);
    ++stats_.contexts_released;
  }
}

void SoftTables::set_data(bool user, Context* context) {
  data_[user] = context;
  views_[user] = context != nullptr
                     ? SelectedView{context->base(), context->window_ != nullptr ? context->window_->base() : 0, context->key_.mode}
                     : SelectedView{};
}

Context& SoftTables::select_data(bool user) {
  Context* const before = current_;
  Context& made = select(last_key_[user]);
  current_ = before;  // never the one that was taken for this
  return made;
}

// Does what flushes asked for while the context was not in use.
void SoftTables::refresh(Context& context) {
  if (context.mode_changes_ != mode_changes_) {
    empty(context);
  } else if (context.flushes_ != flushes_) {
    const bool global = context.global_flushes_ != global_flushes_;
    const u32 cost = context.copies_.compared(global);
    context.comparing_ += cost;
    if (cost > always_worth_comparing && context.comparing_ > u64{most_comparisons} * cost) {
      empty(context);
    } else {
      stats_.groups_compared += cost;
      PagingRoots roots = walker_.roots();
      if (!keep_) roots.directory.fill(PagingRoots::absent);  // nothing agrees with that
      context.copies_.compare(roots, global, stale_);
      drop_stale(context);
    }
  }
  context.mode_changes_ = mode_changes_;
  context.global_flushes_ = global_flushes_;
  context.flushes_ = flushes_;
  current_since_flush_.add(context.number_);
}

void SoftTables::deselect() {
  set_data(false, nullptr);
  set_data(true, nullptr);
  current_ = nullptr;
}

void SoftTables::flush_non_global() {
  ++flushes_;
  current_since_flush_ = {};
  deselect();
}

void SoftTables::flush_global() {
  ++global_flushes_;
  flush_non_global();
}

void SoftTables::change_mode() {
  ++mode_changes_;
  flush_global();
}

// --- entries ---

void SoftTables::enter(Context& context, u32 page, const TableCopies::Source& source, bool global, bool fetched) {
  context.copies_.enter(page, source, global, fetched, stale_);
  if (!stale_.pages.empty()) [[unlikely]]
    drop_stale(context);
  const u32 region = page >> Context::region_shift;
  if (!users_[region].has(context.number_)) {
    users_[region].add(context.number_);
    context.used_.set(region);
    context.touch_region(region);
  }
  if (global) global_users_[region].add(context.number_);
  context.comparing_ = context.comparing_ > most_comparisons ? context.comparing_ - most_comparisons : 0;
}

u32& SoftTables::first_writer(const Context& context, u64 ram_page) {
  return writers_[ram_page >> page_shift].first[(context.key_.mode & mode::user) != 0];
}

void SoftTables::link_write(Context& context, u32 page, u64 ram_page) {
  u32& head = first_writer(context, ram_page);
  Context::Note& n = context.notes_[page];
  const u32 self = link(context.number_, page);
  n.previous = 0;
  n.next = head;
  if (head != 0) note(head).previous = self;
  head = self;
}

void SoftTables::unlink_write(Context& context, u32 page) {
  Context::Note& n = context.notes_[page];
  if (n.previous != 0) {
    note(n.previous).next = n.next;
  } else {
    const u64 host = context.write_[page] + (u64{page} << page_shift);
    first_writer(context, host - reinterpret_cast<u64>(ram_.base())) = n.next;
  }
  if (n.next != 0) note(n.next).previous = n.previous;
  context.write_[page] = no_entry;
  if (context.window_ != nullptr && context.window_->rights(page) == Window::Rights::write) context.window_->write_protect(page);
}

void SoftTables::fill(Context& context, u32 page, u64 ram_page, bool writable) {
  const u64 value = entry(page, ram_page);
  if (context.window_ != nullptr && context.read_[page] != value && context.window_->rights(page) != Window::Rights::none)
    context.window_->unmap(page, 1);
  if (present(context.write_[page]) && (!writable || context.write_[page] != value)) unlink_write(context, page);
  context.read_[page] = value;
  if (writable && !present(context.write_[page])) {
    context.write_[page] = value;
    link_write(context, page, ram_page);
  }
  ++stats_.pages_filled;
}

void SoftTables::drop_entries(Context& context, u32 page) {
  if (!present(context.read_[page])) return;
  if (context.window_ != nullptr && context.window_->rights(page) != Window::Rights::none) context.window_->unmap(page, 1);
  context.read_[page] = no_entry;
  if (present(context.write_[page])) unlink_write(context, page);
}

void SoftTables::drop_stale(Context& context) {
  stats_.pages_stale += stale_.pages.size();
  if (context.window_ != nullptr) unmap(context, stale_.pages);
  for (const u32 page : stale_.pages) {
    drop_entries(context, page);
    context.jumps_.clear_page(page);
  }
  if (stale_.code) context.fetch_tag_ = ++fetch_tags_;
  stale_.pages.clear();
  stale_.code = false;
}

void SoftTables::empty(Context& context) {
  drop_window(context);
  context.account_ = {};
  context.copies_.forget_all(stale_);
  drop_stale(context);
  context.jumps_.clear_all();
  context.used_.for_each([&](u32 region) {
    users_[region].remove(context.number_);
    global_users_[region].remove(context.number_);
  });
  context.used_ = {};
  context.comparing_ = 0;
}

template <typename F>
void SoftTables::for_users(u32 page, F&& f) {
  users_[page >> Context::region_shift].for_each([&](unsigned number) { f(pool_[number]); });
}

void SoftTables::flush_page(u32 page) {
  // A page of 4 MiB is two regions, and only one of them may be in use. Contexts that are not compared when they are selected next, or not
  // for this page, have to drop it now.
  const u32 region = page >> Context::region_shift;
  ContextSet due = users_[region];
  due |= users_[region ^ 1];
  due &= current_since_flush_;
  due |= global_users_[region];
  due |= global_users_[region ^ 1];
  due.for_each([&](unsigned number) {
    Context& context = pool_[number];
    context.copies_.forget(page, stale_);
    drop_stale(context);
  });
}

void SoftTables::drop_data(u32 page) {
  for_users(page, [&](Context& context) { drop_entries(context, page); });
}

void SoftTables::drop_writes(u64 ram_page) {
  for (u32& head : writers_[ram_page >> page_shift].first) {
    while (head != 0) {
      const u32 at = head - 1;
      unlink_write(pool_[at >> 20], at & 0xFFFFF);
    }
  }
}

// --- windows ---

void SoftTables::set_windows(u32 after, bool low) {
  windows_ = true;
  windows_after_ = after;
  // Up to a bit behind 4 GiB, where an access at its end may reach.
  if (low) low_ = Mapping::reserve_at(contract::low_window_begin, contract::linear_size);
}

// Most of what a kernel and its processes do together is the processes' work. So a kernel gets it if no program seems to run, and gives it
// up to the first that asks.
bool SoftTables::low_is_due(const Context& context) const {
  if (!low_) return false;
  if (windows_after_ == 0) return low_owner_ == nullptr;
  if ((context.key_.mode & mode::user) == 0) return low_owner_ == nullptr && alone_ >= long_alone;
  return low_owner_ == nullptr || (low_owner_->key_.mode & mode::user) == 0 || low_idle_ >= long_idle;
}

void SoftTables::open_window(Context& context) {
  if (low_is_due(context)) {
    if (low_owner_ != nullptr) {
      Context& before = *low_owner_;
      before.account_ = {};
      drop_window(before);
    }
    constexpr u64 begin = contract::low_window_begin;
    context.window_ = std::make_unique<Window>(low_, 0 - begin, static_cast<u32>(begin >> page_shift), ram_, budget_);
    low_owner_ = &context;
    low_idle_ = 0;
    ++stats_.windows_low;
  } else {
    context.window_ = std::make_unique<Window>(context.tables_, context.start_ + contract::window, 0, ram_, budget_);
  }
  context.account_.open();
  ++stats_.windows_opened;
  window_changed(context);
}

void SoftTables::close_window(Context& context) {
  context.account_.close();
  ++stats_.windows_closed;
  drop_window(context);
}

void SoftTables::drop_window(Context& context) {
  if (context.window_ == nullptr) return;
  context.window_.reset();
  if (low_owner_ == &context) low_owner_ = nullptr;
  window_changed(context);
}

// Blocks for the context are others now.
void SoftTables::window_changed(Context& context) {
  context.jumps_.clear_all();
  for (const bool user : {false, true})
    if (data_[user] == &context) set_data(user, &context);
}

void SoftTables::met_at_work() {
  if (!windows_ || windows_after_ == 0 || current_ == nullptr) return;
  Context& context = *current_;
  const bool low = &context == low_owner_;
  low_idle_ = low ? 0 : low_idle_ + 1;
  alone_ = (context.key_.mode & mode::user) != 0 ? 0 : alone_ + 1;
  if (context.window_ == nullptr) {
    if (context.account_.is_due(windows_after_)) open_window(context);
    return;
  }
  context.account_.earn();
  if (!context.account_.pay(context.window_->take_losses())) {
    close_window(context);
  } else if (!low && context.account_.worked() >= long_at_work && low_is_due(context)) {
    drop_window(context);
    open_window(context);
  }
}

void SoftTables::empty_windows() {
  pool_.for_each([&](Context& context) {
    if (context.window_ == nullptr) return;
    context.window_->clear();
    ++budget_.emptied;
  });
}

// A kernel's window would lose the memory of processes at each change of the address space: what reaches it there stays on the tables.
bool SoftTables::may_map(const Context& context, u32 page) const {
  if (page < context.window_->first_page()) return false;
  return (context.key_.mode & mode::user) != 0 || windows_after_ == 0 || !context.copies_.user(page);
}

// Maps what belongs together around `page`: neighbours in [least, end) that follow each other in RAM too, with the same rights, where they
// are not mapped so already.
bool SoftTables::map_run(Context& context, u32 page, u32 least, u32 end) {
  Window& window = *context.window_;
  const u64 value = context.read_[page];
  const Window::Rights rights = present(context.write_[page]) ? Window::Rights::write : Window::Rights::read;
  const auto belongs = [&](u32 other) {
    return context.read_[other] == value && may_map(context, other) &&
           present(context.write_[other]) == (rights == Window::Rights::write) && window.rights(other) < rights;
  };
  u32 first = page;
  while (first > least && belongs(first - 1)) --first;
  u32 last = page;
  while (last + 1 < end && belongs(last + 1)) ++last;
  const u64 host = value + (u64{first} << page_shift);
  return window.map(first, last - first + 1, host - reinterpret_cast<u64>(ram_.base()), rights);
}

bool SoftTables::map_window(u32 page, bool write) {
  if (!window_open()) return false;
  Context& context = *current_;
  if (!present((write ? context.write_ : context.read_)[page]) || !may_map(context, page)) return false;
  if (budget_.pieces > WindowBudget::most - pieces_a_miss) empty_windows();
  const u32 region = page & ~(pages_around - 1);
  if (!map_run(context, page, page & ~(longest_run - 1), (page | (longest_run - 1)) + 1)) {
    close_window(context);
    return false;
  }
  for (u32 other = region; other < region + pages_around; ++other) {
    const Window::Rights allowed = !present(context.read_[other])   ? Window::Rights::none
                                   : present(context.write_[other]) ? Window::Rights::write
                                                                    : Window::Rights::read;
    if (context.window_->rights(other) < allowed && may_map(context, other)) (void)map_run(context, other, region, region + pages_around);
  }
  ++stats_.window_misses;
  if (windows_after_ != 0 && !context.account_.pay(context.window_->take_losses())) {
    close_window(context);
    return false;
  }
  return true;
}

// In runs: a process that ends, or forks, loses many at once.
void SoftTables::unmap(Context& context, const std::vector<u32>& pages) {
  Window& window = *context.window_;
  for (std::size_t i = 0; i < pages.size();) {
    const u32 first = pages[i++];
    if (window.rights(first) == Window::Rights::none) continue;
    u32 count = 1;
    while (i < pages.size() && pages[i] == first + count && window.rights(pages[i]) != Window::Rights::none) ++count, ++i;
    window.unmap(first, count);
  }
}

// --- jump slots ---

bool SoftTables::set_jump(u32 linear, u32 offset, std::span<const u32> further) {
  if (current_ == nullptr) throw InternalError("set_jump before select_context");
  const TableCopies& copies = current_->copies_;
  const u32 page = linear >> page_shift;
  if (!copies.fetched(page) || !std::ranges::all_of(further, [&](u32 other) { return copies.fetched(other); })) return false;
  const bool first = current_->jumps_.none(page);
  current_->jumps_.set(linear, offset);
  for (const u32 other : further) current_->jumps_.depend(page, other);
  return first;
}

void SoftTables::set_jumps(std::span<const PageSlots::Slot> slots) {
  if (slots.empty() || !current_->copies_.fetched(slots[0].linear >> page_shift)) return;
  for (const PageSlots::Slot& slot : slots) current_->jumps_.set(slot.linear, slot.offset);
}

void SoftTables::clear_jump(u32 linear) {
  for_users(linear >> page_shift, [&](Context& context) { context.jumps_.clear(linear); });
}

bool SoftTables::code_in_use(u32 page) {
  bool result = false;
  for_users(page, [&](Context& context) { result |= context.copies_.fetched(page) && context.copies_.holds(page); });
  return result;
}

void SoftTables::clear_jumps(u32 page) {
  for_users(page, [&](Context& context) { context.jumps_.clear_page(page); });
}

void SoftTables::clear_all_jumps() {
  pool_.for_each([](Context& context) { context.jumps_.clear_all(); });
}

}  // namespace ring3
