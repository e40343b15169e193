// What the entries of one context were made from, so that a context can outlive MOV CR3.
//
// A TLB may keep an entry over a flush if a new walk would give the same (SDM vol. 3, 4.10.2). So every page that a context holds anything
// of is registered here, with copies of the directory entry and the page-table entry that led to it. At a flush `compare` lays the copies
// beside the guest's tables and names the pages whose entries changed in any bit, A and D included: a guest that clears A must see it set
// again. Cost: a comparison of 32 or 64 bytes for 8 neighbouring pages.
//
// An entry's copy is always what the walk saw. If a later walk of the same page sees something that no walk of ours can have done to it,
// what was made from the old entry goes first: else the next comparison would take the stale for the new.
//
// Which question each index answers:
//   `directory_index_`  8 neighbouring directory entries -> their copies, in `directories_`
//   `index_`            8 neighbouring pages -> their group, in one of `groups_` or in `plain_`
#pragma once

#include "base/mapping.h"
#include "base/types.h"
#include "guest/address.h"
#include "runtime/memory/page_walker.h"

#include <array>
#include <vector>

namespace ring3 {

class GuestRam;

// Pages to drop, and whether code was fetched from one of them.
struct StalePages {
  std::vector<u32> pages;
  bool code = false;
};

class TableCopies {
 public:
  // Throws UserError when the host has no address space left.
  explicit TableCopies(const GuestRam& ram);

  // What registering needs of a walk. All addresses are in RAM.
  struct Source {
    u64 directory_address = 0, directory_entry = 0;
    u64 entry_address = 0, entry = 0;  // unless the page is large
    bool large = false;
    PagingFormat format = PagingFormat::none;
  };

  // `page` is about to be cached: by the data tables, or (`fetched`) by anything that code fetch feeds. Names what to drop before.
  void enter(u32 page, const Source& source, bool global, bool fetched, StalePages& stale);
  [[nodiscard]] bool fetched(u32 page) const;
  // The guest's tables still have the entries, where they were, that a registered page came from.
  [[nodiscard]] bool holds(u32 page) const;
  // The entry of a registered page, small or large, lets user code in. False without paging.
  [[nodiscard]] bool user(u32 page) const;
  // Unregisters a page, or all of a large page that it lies in.
  void forget(u32 page, StalePages& stale);
  void forget_all(StalePages& stale);
  // Unregisters what does not agree with the guest's tables. `global`: also look at pages that are global.
  void compare(const PagingRoots& roots, bool global, StalePages& stale);

  // Groups of pages that are registered; those that `compare` looks at; those that it would drop because a directory differs.
  [[nodiscard]] u32 count() const { return static_cast<u32>(groups_[0].size() + groups_[1].size() + plain_.size()); }
  [[nodiscard]] u32 compared(bool global) const { return static_cast<u32>(groups_[0].size() + (global ? groups_[1].size() : 0)); }
  [[nodiscard]] u32 differing(const PagingRoots& roots) const;
  // Host pages in use, but for a few.
  [[nodiscard]] u32 touched() const {
    const std::size_t bytes = (groups_[0].capacity() + groups_[1].capacity()) * sizeof(Group) + plain_.capacity() * sizeof(Pages);
    return static_cast<u32>(bytes / page_size);
  }
  // No directory entry is what it was where it was: the address space is gone.
  [[nodiscard]] bool dead() const;

 private:
  static constexpr u32 group_size = 8;  // pages, or directory entries
  using Copy = std::array<u8, group_size * sizeof(u64)>;
  struct Directory {
    u64 address = 0;    // where the entries were last found
    u32 number = 0;     // first slot / 8; a slot is what one directory entry covers
    u8 used = 0;        // slots with a registered page
    u8 non_global = 0;  // those with one that is not global
    alignas(8) Copy copy{};
  };
  struct Pages {
    u32 number = 0;  // first page / 8
    u8 used = 0;
    u8 fetched = 0;
  };
  struct Group : Pages {
    u64 address = 0;  // of the 8 page-table entries
    alignas(8) Copy copy{};
  };
  // `index_` holds list and place + 1.
  enum List : u32 { non_global = 0, global_pages = 1, plain = 2 };
  static constexpr u32 link(List list, std::size_t place) { return (list << 30) | static_cast<u32>(place + 1); }
  static constexpr List list_of(u32 link) { return static_cast<List>(link >> 30); }
  static constexpr u32 place_of(u32 link) { return (link & 0x3FFFFFFF) - 1; }

  [[nodiscard]] unsigned slot_shift() const { return format_ == PagingFormat::pae ? 9 : 10; }
  [[nodiscard]] Pages& pages_of(u32 some_link);
  [[nodiscard]] const u8* directory_at(const PagingRoots& roots, u32 number, u64& address) const;
  template <typename T>
  void enter_paged(u32 page, const Source& source, bool global, bool fetched, StalePages& stale);
  template <typename T>
  void compare_as(const PagingRoots& roots, bool global, StalePages& stale);
  template <typename T>
  Directory& directory_of(u32 number, u64 address);
  template <typename T>
  void enter_small(u32 page, const Source& source, bool global, bool fetched, StalePages& stale);
  void enter_plain(u32 page, bool fetched);
  void name(const Pages& pages, StalePages& stale);
  void remove(u32 number);
  void forget_group(u32 number, StalePages& stale);
  void forget_slot(u32 slot, StalePages& stale);

  const GuestRam& ram_;
  PagingFormat format_ = PagingFormat::none;
  Mapping index_mapping_;
  u32* index_;
  std::array<u16, 256> directory_index_{};  // place + 1
  std::vector<Directory> directories_;
  std::array<std::vector<Group>, 2> groups_;  // by List
  std::vector<Pages> plain_;                  // of large pages, or without paging: nothing to compare
  std::vector<u16> slot_groups_;              // registered groups of each slot
};

}  // namespace ring3
