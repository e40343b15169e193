// Which blocks have bytes on a physical page: what a write kills.
#pragma once

#include "base/mapping.h"
#include "base/types.h"
#include "guest/address.h"

#include <deque>
#include <vector>

namespace ring3 {

class PageIndex {
 public:
  PageIndex();

  // The bytes of a block that lie on one page.
  struct Piece {
    u32 block = 0;  // its number
    u32 page = 0;   // physical page number
    u16 first = 0;  // offsets in the page
    u16 last = 0;
    u32 next = 0;  // the next piece on the same page, plus 1; 0: none
  };

  // Returns the piece's number; those of one block are added in a row.
  u32 add(const Piece& piece);
  void remove(u32 number);
  void clear();

  [[nodiscard]] const Piece& piece(u32 number) const { return pieces_[number]; }
  [[nodiscard]] bool has_blocks(PhysAddr page) const { return head(page.value >> page_shift) != 0; }
  // Changes whenever a block of the page comes or goes; not 0 while the page has one.
  [[nodiscard]] u32 changes(PhysAddr page) const {
    const u64 number = page.value >> page_shift;
    return number < page_count ? pages_[number].changes : 0;
  }
  // For changes of what is known about its blocks otherwise.
  void note_change(PhysAddr page) { ++pages_[page.value >> page_shift].changes; }
  // Calls `f` with the number of each block on the page, until it returns false.
  template <typename F>
  void for_each(PhysAddr page, F&& f) const {
    for (u32 at = head(page.value >> page_shift); at != 0; at = pieces_[at - 1].next)
      if (!f(pieces_[at - 1].block)) return;
  }
  // Appends the blocks with a byte in [address, address + size), which lies within one page.
  void find(PhysAddr address, u32 size, std::vector<u32>& blocks) const;

 private:
  struct Page {
    u32 head = 0;  // its first piece plus 1; 0: none
    u32 changes = 0;
  };
  [[nodiscard]] u32 head(u64 page) const { return page < page_count ? pages_[page].head : 0; }

  static constexpr u64 page_count = linear_page_count;  // RAM lies below 4 GiB
  Mapping mapping_;                                     // sparse: costs nothing where no code is
  Page* pages_;                                         // by physical page
  std::deque<Piece> pieces_;
};

}  // namespace ring3
