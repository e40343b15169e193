// Where jump tables lead for all blocks of a page: gathered once for all contexts that come to the page.
#pragma once

#include "base/types.h"
#include "codecache/number_table.h"
#include "guest/block_key.h"

#include <array>
#include <deque>
#include <vector>

namespace ring3 {

class PageSlots {
 public:
  struct Slot {
    u32 linear = 0;
    u32 offset = 0;  // from the code cache's base
  };
  // Identified by the key that a block at the page's start would have.
  struct Page {
    BlockKey key;
    u32 changes = 0;  // PageIndex::changes when the slots were gathered; 0: never
    std::vector<Slot> slots;
  };

  // A new one has no slots. The first time that a key is asked for, what is returned is for once: programs that never lie at the same
  // addresses again would fill the table. Else the reference holds until `clear`.
  [[nodiscard]] Page& of(const BlockKey& key) {
    const u32 hashed = key.hash();
    const u32 known = table_.find(hashed, [&](u32 n) { return pages_[n].key == key; });
    if (known != NumberTable::none) return pages_[known];
    u32& seen = seen_[hashed % seen_.size()];
    if (seen != hashed) {
      seen = hashed;
      once_.changes = 0;
      return once_;
    }
    const u32 number = static_cast<u32>(pages_.size());
    pages_.push_back({key, 0, {}});
    table_.insert(number, hashed);
    return pages_[number];
  }
  void clear() {
    pages_.clear();
    table_.clear();
    seen_ = {};
    counts_.fill(0);
  }

  // A block of this page was installed, or killed. `key` is that of the page.
  void add(const BlockKey& key) {
    if (u8& count = count_of(key); count != many) ++count;
  }
  void remove(const BlockKey& key) {
    if (u8& count = count_of(key); count != many) --count;
  }
  // No block of this page is installed. False: there may be one.
  [[nodiscard]] bool none(const BlockKey& key) { return count_of(key) == 0; }
  // No more than one block of this page is installed. False: there may be more.
  [[nodiscard]] bool at_most_one(const BlockKey& key) { return count_of(key) <= 1; }

 private:
  static constexpr u8 many = 255;  // and for good
  [[nodiscard]] u8& count_of(const BlockKey& key) { return counts_[key.hash() >> 16]; }

  std::deque<Page> pages_;
  NumberTable table_;
  std::array<u32, 4096> seen_{};  // hashes of keys that were asked for
  Page once_;
  // Blocks by hash of their page's key: what runs at fresh addresses has one, while the same physical page has many at other addresses.
  std::array<u8, 65536> counts_{};
};

}  // namespace ring3
