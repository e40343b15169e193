// The jump table of one context, with a record of the slots that are set, so that emptying it costs no more than filling it did.
#pragma once

#include "base/mapping.h"
#include "base/types.h"
#include "guest/address.h"

#include <array>
#include <vector>

namespace ring3 {

class JumpSlots {
 public:
  // `table`: contract::jump_table of a zeroed context; it lies at `offset` of `owner`.
  JumpSlots(const Mapping& owner, u64 offset);

  // `value` is not 0.
  void set(u32 linear, u32 value);
  // No slot of the page is set.
  [[nodiscard]] bool none(u32 page) const {
    const u32 known = index_[page] & record_mask;
    return known == 0 || pages_[known - 1].slots.empty();
  }
  // When `other` is cleared, `page` is too.
  void depend(u32 page, u32 other);
  void clear(u32 linear);
  void clear_page(u32 page);
  void clear_all();

  // Slots on record: equals the slots that are set, so that the record cannot outgrow the table.
  [[nodiscard]] u64 recorded() const;
  // Host pages of the table that are in use, and what they need of the host's page tables and of the index.
  [[nodiscard]] u32 touched() const { return touched_; }
  // Linear pages that ever had a record at once.
  [[nodiscard]] u64 records() const { return pages_.size(); }

 private:
  // The set slots of one linear page.
  struct Page {
    u32 number = 0;
    std::vector<u16> slots;       // offsets in the page, each once
    std::vector<u32> dependents;  // pages, each once
  };

  static constexpr u32 unit = 128;                 // linear pages whose slots one page table of the host covers
  static constexpr u32 record_mask = 0x0FFF'FFFF;  // of an element of `index_`

  Page& page_of(u32 page);
  void empty(Page& record);
  void release(u32 index);

  const Mapping& owner_;
  u64 offset_;
  u32* table_;
  // Per linear page: index + 1 of its record in `pages_` (low 28 bits), and which of the four host pages of its slots were ever written
  // since the last discard (high 4 bits). Sparse: costs nothing where no code is.
  Mapping index_mapping_;
  u32* index_;
  std::vector<Page> pages_;
  std::vector<u32> free_;
  std::array<u64, linear_page_count / unit / 64> units_{};  // a bit for each that has a page in use
  u32 touched_ = 0;
};

}  // namespace ring3
