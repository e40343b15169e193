// The contexts: soft tables for data, a jump table for code, and the records that make flushing them cost what filling them did.
#pragma once

#include "base/mapping.h"
#include "base/types.h"
#include "guest/address.h"
#include "runtime/memory/jump_slots.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/ram.h"

#include <array>
#include <memory>
#include <vector>

namespace ring3 {

// What a set of tables is for. The data tables depend on mode::user alone, the jump slots on all of it.
struct ContextKey {
  u32 mode = 0;
  u32 cs_base = 0;
  u32 cs_limit = 0xFFFFFFFF;
  bool operator==(const ContextKey&) const = default;
};

// One set of tables.
// Invariant: a write entry is 0 or equals the read entry of the same page.
class Context {
 public:
  Context(unsigned number, const ContextKey& key);

  [[nodiscard]] u64 base() const { return reinterpret_cast<u64>(tables_.data()); }
  // Entries: host address - linear address, 0 = miss.
  [[nodiscard]] const u64* reads() const { return read_; }
  [[nodiscard]] const u64* writes() const { return write_; }
  [[nodiscard]] JumpSlots& jumps() { return jumps_; }

 private:
  friend class SoftTables;

  // Beside each linear page: its place in the list of write entries for one physical page, and which logs name it.
  // A link is a `Link` below, 0 = none.
  struct Note {
    u32 previous : 24 = 0;
    u32 logged_global : 1 = 0;
    u32 logged_non_global : 1 = 0;
    u32 next = 0;
  };

  unsigned number_;
  ContextKey key_;
  u64 last_selected_ = 0;
  Mapping tables_;
  Mapping note_mapping_;
  u64* read_;
  u64* write_;
  Note* notes_;
  std::vector<u32> global_, non_global_;  // linear pages that were filled, by the longest flush they survive; a page may be in both
  JumpSlots jumps_;
};

class SoftTables {
 public:
  explicit SoftTables(GuestRam& ram);

  // Finds, reuses or makes the context for `key`.
  Context& select(const ContextKey& key);
  // The context to look data up in: the one last selected with that privilege; made if there is none.
  Context& data(bool user) {
    Context* context = data_[user];
    return context != nullptr ? *context : select_data(user);
  }
  // As `data`, but null if there is none.
  [[nodiscard]] Context* data_if_any(bool user) const { return data_[user]; }
  [[nodiscard]] Context* current() const { return current_; }

  // Linear page `page` -> RAM page at physical `ram_page`. `writable`: also for writes.
  void fill(Context& context, u32 page, u64 ram_page, bool writable, bool global);
  // `page` is cached for reads alone, and leads to `ram_page`.
  [[nodiscard]] bool reads(const Context& context, u32 page, u64 ram_page) const {
    return context.read_[page] == entry(page, ram_page) && context.write_[page] == 0;
  }
  // As `fill`, but leaves a page alone that is mapped to something else, and never takes a write entry away.
  void prefill(Context& context, u32 page, u64 ram_page, bool writable, bool global);

  void flush_all();
  void flush_non_global();
  // Linear pages [first, first + count), data and jumps, in all contexts; also the jumps of the page before, whose last block may reach in.
  void flush_pages(u32 first, u32 count);
  // No context keeps an entry for this linear page; jumps stay.
  void drop_page(u32 page);
  // No context keeps a write entry for this RAM page.
  void drop_writes(u64 ram_page);
  void clear_jump(u32 linear);
  void clear_all_jumps();

  [[nodiscard]] u64 filled() const { return filled_; }
  [[nodiscard]] u64 reused() const { return reused_; }

 private:
  // Context number and linear page in one word, + 1 so that zeroed memory means none.
  static constexpr u32 link(unsigned number, u32 page) { return ((number << 20) | page) + 1; }
  static_assert(Memory::max_contexts << 20 < 1u << 24, "a link has 24 bits");
  [[nodiscard]] Context::Note& note(u32 some_link) { return contexts_[(some_link - 1) >> 20]->notes_[(some_link - 1) & 0xFFFFF]; }

  [[nodiscard]] u64 entry(u32 page, u64 ram_page) const {
    return reinterpret_cast<u64>(ram_.base()) + ram_page - (u64{page} << page_shift);
  }
  Context& select_data(bool user);
  void log(Context& context, u32 page, bool global);
  void link_write(Context& context, u32 page, u64 ram_page);
  void unlink_write(Context& context, u32 page);
  void drop(Context& context, u32 page);
  void empty(Context& context);

  GuestRam& ram_;
  std::array<std::unique_ptr<Context>, Memory::max_contexts> contexts_;
  std::array<Context*, 2> data_{};  // [user]
  Context* current_ = nullptr;
  u64 selections_ = 0;
  u64 filled_ = 0;
  u64 reused_ = 0;
  std::vector<u32> writers_;  // per RAM page: link to the first write entry that leads to it
};

}  // namespace ring3
