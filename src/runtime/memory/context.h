// One context: soft tables for data, a jump table for code, and what they were filled from.
#pragma once

#include "base/mapping.h"
#include "base/types.h"
#include "guest/address.h"
#include "runtime/memory/jump_slots.h"
#include "runtime/memory/table_copies.h"
#include "runtime/memory/window.h"

#include <algorithm>
#include <array>
#include <bit>
#include <memory>

namespace ring3 {

class GuestRam;
class MissPages;

// What a set of tables is for. The data tables depend on mode::user and the address space alone, the jump slots on all of it.
struct ContextKey {
  u32 mode = 0;
  u32 cs_base = 0;
  u32 cs_limit = 0xFFFFFFFF;
  u32 space = 0;  // PageWalker::space
  [[nodiscard]] bool same_mode(const ContextKey& other) const {
    return mode == other.mode && cs_base == other.cs_base && cs_limit == other.cs_limit;
  }
  bool operator==(const ContextKey&) const = default;
};

// Whether a window pays for a context. It opens when the context was met at work often enough, and may lose as much as the times that it is
// met later allow; one that loses more stays closed for longer. What it maps is not counted before it is lost: memory in use is mapped
// once.
class WindowAccount {
 public:
  // Met at work while closed. True: open.
  [[nodiscard]] bool is_due(u32 after) { return ++met_ >= u64{after} * patience_; }
  void open() {
    credit_ = first_credit;
    worked_ = 0;
  }
  // Met at work while open.
  void earn() {
    credit_ = std::min(credit_ + credit_each, most_credit);
    ++worked_;
  }
  // How often since it was opened.
  [[nodiscard]] u32 worked() const { return worked_; }
  // So often the host was told to take back what had been mapped. False: close.
  [[nodiscard]] bool pay(u32 losses) { return (credit_ -= static_cast<i32>(losses)) >= 0; }
  void close() {
    met_ = 0;
    patience_ = std::min(patience_ * 4, most_patience);
  }

 private:
  // A loss costs about eight microseconds with the fault and the mapping again; a context is met every four to ten milliseconds.
  static constexpr i32 credit_each = 24;
  static constexpr i32 first_credit = 256;
  static constexpr i32 most_credit = 512;
  static constexpr u32 most_patience = 1024;
  u64 met_ = 0;
  u32 patience_ = 1;
  u32 worked_ = 0;
  i32 credit_ = 0;
};

// Invariant: a write entry is a miss or equals the read entry of the same page.
class Context {
 public:
  // Throws UserError when the host has no address space left.
  Context(unsigned number, const GuestRam& ram, const MissPages& misses);

  [[nodiscard]] u64 base() const { return reinterpret_cast<u64>(tables_.data()) + start_; }
  // Entries: host address - linear address, or contract::no_entry.
  [[nodiscard]] const u64* reads() const { return read_; }
  [[nodiscard]] const u64* writes() const { return write_; }
  [[nodiscard]] JumpSlots& jumps() { return jumps_; }
  // Changes when anything that was fetched through this context may translate differently; no two contexts ever have the same.
  [[nodiscard]] u64 fetch_tag() const { return fetch_tag_; }

 private:
  friend class SoftTables;
  friend class ContextPool;

  // Beside each linear page: its place in the list of write entries for one physical page. A link is SoftTables::link, 0 = none.
  struct Note {
    u32 previous = 0;
    u32 next = 0;
  };
  static constexpr unsigned region_shift = 9;  // pages: what one host page of a data table covers
  class Regions {
   public:
    static constexpr u32 count = linear_page_count >> region_shift;
    // False: it was set.
    bool set(u32 region) {
      u64& word = words_[region / 64];
      const u64 before = word;
      word |= u64{1} << region % 64;
      return word != before;
    }
    template <typename F>
    void for_each(F&& f) const {
      for (u32 i = 0; i < words_.size(); ++i)
        for (u64 bits = words_[i]; bits != 0; bits &= bits - 1) f(i * 64 + static_cast<u32>(std::countr_zero(bits)));
    }

   private:
    std::array<u64, count / 64> words_{};
  };

  // Host pages in use, page tables of the host and records in the heap included; at most about (the parts say how).
  [[nodiscard]] u32 touched() const {
    return own_pages + data_touched_ + jumps_.touched() + copies_.touched() + (window_ != nullptr ? window_->touched() : 0);
  }
  void touch_region(u32 region) {
    if (touched_.set(region)) data_touched_ += 3;  // two tables and the notes
    const u32 gib = region / (Regions::count / 4);
    if ((touched_gib_ >> gib & 1) == 0) data_touched_ += 3;  // of each, a page table of the host covers that
    touched_gib_ |= static_cast<u8>(1u << gib);
  }
  static constexpr u32 own_pages = 8;  // the object itself, and the upper levels of the host's page tables

  unsigned number_;
  ContextKey key_;
  bool has_key_ = false;
  bool is_known_free_ = false;
  Context* next_in_chain_ = nullptr;  // ContextPool's
  u64 last_selected_ = 0;
  u64 fetch_tag_ = 0;
  // The last flush of each kind that was done here (SoftTables has the counts).
  u64 flushes_ = 0, global_flushes_ = 0, mode_changes_ = 0;
  u64 comparing_ = 0;  // groups compared since the last one was registered or all were dropped
  Mapping tables_;
  u64 start_;  // offset in it: the window begins at a multiple of its size
  Mapping note_mapping_;
  u64* read_;
  u64* write_;
  Note* notes_;
  Regions used_;     // where a page was registered since the context was emptied
  Regions touched_;  // since it was made
  u8 touched_gib_ = 0;
  u32 data_touched_ = 0;  // host pages
  u32 charged_ = 0;       // what ContextPool counts for it
  JumpSlots jumps_;
  TableCopies copies_;
  WindowAccount account_;
  std::unique_ptr<Window> window_;  // null: closed
};

}  // namespace ring3
