#include "runtime/memory/table_copies.h"

#include "base/error.h"
#include "runtime/memory/ram.h"

#include <bit>
#include <cstring>

namespace ring3 {

namespace {

constexpr u8 entry_user = 4;  // U/S in the lowest byte of an entry (SDM vol. 3, tables 4-4 to 4-20)

constexpr u64 accessed_dirty = 0x60;
constexpr u64 large = 1u << 7;

template <typename T>
T entry_of(const u8* copy, u32 n) {
  T value;
  std::memcpy(&value, copy + n * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void set_entry(u8* copy, u32 n, u64 value) {
  const T narrow = static_cast<T>(value);
  std::memcpy(copy + n * sizeof(T), &narrow, sizeof(T));
}

// Not what a walk does to an entry, which is to set A or D.
bool edited(u64 before, u64 now) { return ((before & ~now) | (now & ~before & ~accessed_dirty)) != 0; }

}  // namespace

TableCopies::TableCopies(const GuestRam& ram)
    : ram_(ram), index_mapping_(Mapping::sparse(u64{linear_page_count} / group_size * sizeof(u32))), slot_groups_(2048) {
  if (!index_mapping_) throw UserError("memory tables: the host has no address space left; raise the limit (ulimit -v)");
  index_ = reinterpret_cast<u32*>(index_mapping_.data());
}

TableCopies::Pages& TableCopies::pages_of(u32 some_link) {
  if (list_of(some_link) == plain) return plain_[place_of(some_link)];
  return groups_[list_of(some_link)][place_of(some_link)];
}

void TableCopies::name(const Pages& pages, StalePages& stale) {
  for (u32 bits = pages.used; bits != 0; bits &= bits - 1)
    stale.pages.push_back(pages.number * group_size + static_cast<u32>(std::countr_zero(bits)));
  stale.code |= pages.fetched != 0;
}

// The last of the list takes its place.
void TableCopies::remove(u32 number) {
  const u32 old = index_[number];
  const auto take_out = [&](auto& list) {
    list[place_of(old)] = list.back();
    list.pop_back();
    if (place_of(old) < list.size()) index_[list[place_of(old)].number] = old;
  };
  if (list_of(old) == plain) {
    take_out(plain_);
  } else {
    take_out(groups_[list_of(old)]);
  }
  index_[number] = 0;
  --slot_groups_[(number * group_size) >> slot_shift()];
}

void TableCopies::forget_group(u32 number, StalePages& stale) {
  name(pages_of(index_[number]), stale);
  remove(number);
}

void TableCopies::forget_slot(u32 slot, StalePages& stale) {
  const u32 first = (slot << slot_shift()) / group_size;
  const u32 count = (1u << slot_shift()) / group_size;
  for (u32 number = first; number < first + count && slot_groups_[slot] != 0; ++number) {
    if (index_[number] != 0) forget_group(number, stale);
  }
  if (const u16 place = directory_index_[slot / group_size]; place != 0) {
    Directory& d = directories_[place - 1u];
    d.used &= static_cast<u8>(~(1u << slot % group_size));
    d.non_global &= d.used;
  }
}

bool TableCopies::fetched(u32 page) const {
  const u32 known = index_[page / group_size];
  if (known == 0) return false;
  const Pages& pages = list_of(known) == plain ? plain_[place_of(known)] : groups_[list_of(known)][place_of(known)];
  return ((pages.fetched >> page % group_size) & 1) != 0;
}

bool TableCopies::holds(u32 page) const {
  const u32 known = index_[page / group_size];
  if (known == 0) return false;
  if (format_ == PagingFormat::none) return true;
  const std::size_t size = format_ == PagingFormat::pae ? sizeof(u64) : sizeof(u32);
  const auto same = [&](u64 address, const Copy& copy, u32 n) {
    return std::memcmp(ram_.at({address}) + n % group_size * size, copy.data() + n % group_size * size, size) == 0;
  };
  const u32 slot = page >> slot_shift();
  const Directory& d = directories_[directory_index_[slot / group_size] - 1u];
  if (!same(d.address, d.copy, slot)) return false;
  if (list_of(known) == plain) return true;
  const Group& group = groups_[list_of(known)][place_of(known)];
  return same(group.address, group.copy, page);
}

bool TableCopies::user(u32 page) const {
  if (format_ == PagingFormat::none) return false;
  const u32 known = index_[page / group_size];
  if (known == 0) return false;
  const u32 slot = page >> slot_shift();
  const bool in_directory = list_of(known) == plain;
  const u8* const copies = in_directory ? directories_[directory_index_[slot / group_size] - 1u].copy.data()
                                        : groups_[list_of(known)][place_of(known)].copy.data();
  const std::size_t size = format_ == PagingFormat::pae ? sizeof(u64) : sizeof(u32);
  return (copies[(in_directory ? slot : page) % group_size * size] & entry_user) != 0;
}

void TableCopies::forget(u32 page, StalePages& stale) {
  const u32 slot = page >> slot_shift();
  if (const u16 place = directory_index_[slot / group_size]; place != 0) {
    const Directory& d = directories_[place - 1u];
    const u64 entry =
        format_ == PagingFormat::pae ? entry_of<u64>(d.copy.data(), slot % group_size) : entry_of<u32>(d.copy.data(), slot % group_size);
    if (((d.used >> slot % group_size) & 1) != 0 && (entry & large) != 0) return forget_slot(slot, stale);
  }
  const u32 number = page / group_size;
  if (index_[number] == 0) return;
  Pages& pages = pages_of(index_[number]);
  const u8 bit = static_cast<u8>(1u << page % group_size);
  if ((pages.used & bit) == 0) return;
  name({number, bit, static_cast<u8>(pages.fetched & bit)}, stale);
  pages.used &= static_cast<u8>(~bit);
  pages.fetched &= pages.used;
  if (pages.used == 0) remove(number);
}

void TableCopies::forget_all(StalePages& stale) {
  const auto clear = [&](auto& list) {
    for (const Pages& pages : list) {
      name(pages, stale);
      index_[pages.number] = 0;
      slot_groups_[(pages.number * group_size) >> slot_shift()] = 0;
    }
    list.clear();
  };
  clear(groups_[non_global]);
  clear(groups_[global_pages]);
  clear(plain_);
  directories_.clear();
  directory_index_ = {};
}

template <typename T>
TableCopies::Directory& TableCopies::directory_of(u32 number, u64 address) {
  u16& place = directory_index_[number];
  if (place == 0) {
    directories_.push_back({address, number, 0, 0, {}});
    place = static_cast<u16>(directories_.size());
  }
  Directory& d = directories_[place - 1u];
  if (d.used == 0) std::memcpy(d.copy.data(), ram_.at({address}), group_size * sizeof(T));
  d.address = address;
  return d;
}

void TableCopies::enter(u32 page, const Source& source, bool global, bool fetched, StalePages& stale) {
  const PagingFormat format = source.format;
  if (format != format_) {
    forget_all(stale);
    format_ = format;
  }
  if (format_ == PagingFormat::none) {
    enter_plain(page, fetched);
  } else if (format_ == PagingFormat::pae) {
    enter_paged<u64>(page, source, global, fetched, stale);
  } else {
    enter_paged<u32>(page, source, global, fetched, stale);
  }
}

template <typename T>
void TableCopies::enter_paged(u32 page, const Source& source, bool global, bool fetched, StalePages& stale) {
  const u32 slot = page >> slot_shift();
  const u32 in_group = slot % group_size;
  const u8 bit = static_cast<u8>(1u << in_group);
  Directory& d = directory_of<T>(slot / group_size, source.directory_address - in_group * sizeof(T));
  if ((d.used & bit) != 0 && edited(entry_of<T>(d.copy.data(), in_group), source.directory_entry)) forget_slot(slot, stale);
  set_entry<T>(d.copy.data(), in_group, source.directory_entry);
  d.used |= bit;
  if (!global) d.non_global |= bit;
  if (source.large) {
    enter_plain(page, fetched);
  } else {
    enter_small<T>(page, source, global, fetched, stale);
  }
}

void TableCopies::enter_plain(u32 page, bool fetched) {
  const u32 number = page / group_size;
  if (index_[number] == 0) {
    index_[number] = link(plain, plain_.size());
    plain_.push_back({number, 0, 0});
    ++slot_groups_[page >> slot_shift()];
  }
  Pages& pages = plain_[place_of(index_[number])];
  const u8 bit = static_cast<u8>(1u << page % group_size);
  pages.used |= bit;
  if (fetched) pages.fetched |= bit;
}

template <typename T>
void TableCopies::enter_small(u32 page, const Source& source, bool global, bool fetched, StalePages& stale) {
  const u32 number = page / group_size;
  const u32 in_group = page % group_size;
  const u8 bit = static_cast<u8>(1u << in_group);
  const List list = global ? global_pages : non_global;
  u32 known = index_[number];
  if (known != 0 && list_of(known) != list && list == non_global) {
    // From now on compared at every flush.
    const Group moved = groups_[global_pages][place_of(known)];
    remove(number);
    index_[number] = known = link(non_global, groups_[non_global].size());
    groups_[non_global].push_back(moved);
    ++slot_groups_[page >> slot_shift()];
  }
  if (known == 0) {
    index_[number] = known = link(list, groups_[list].size());
    Group& fresh = groups_[list].emplace_back();
    fresh.number = number;
    fresh.address = source.entry_address - in_group * sizeof(T);
    std::memcpy(fresh.copy.data(), ram_.at({fresh.address}), group_size * sizeof(T));
    ++slot_groups_[page >> slot_shift()];
  }
  Group& group = groups_[list_of(known)][place_of(known)];
  if ((group.used & bit) != 0 && edited(entry_of<T>(group.copy.data(), in_group), source.entry)) {
    name({number, bit, static_cast<u8>(group.fetched & bit)}, stale);
    group.fetched &= static_cast<u8>(~bit);
  }
  set_entry<T>(group.copy.data(), in_group, source.entry);
  group.used |= bit;
  if (fetched) group.fetched |= bit;
}

const u8* TableCopies::directory_at(const PagingRoots& roots, u32 number, u64& address) const {
  const bool pae = format_ == PagingFormat::pae;
  const u32 slot = number * group_size;
  const u64 root = roots.directory[pae ? slot >> 9 : 0];
  address = root + (pae ? u64{slot & 511} * sizeof(u64) : u64{slot} * sizeof(u32));
  return root != PagingRoots::absent && ram_.contains({root}, page_size) ? ram_.at({address}) : nullptr;
}

template <typename T>
void TableCopies::compare_as(const PagingRoots& roots, bool global, StalePages& stale) {
  constexpr std::size_t bytes = group_size * sizeof(T);
  for (Directory& d : directories_) {
    u32 wanted = global ? d.used : d.non_global;
    if (wanted == 0) continue;
    u64 address = 0;
    const u8* now = directory_at(roots, d.number, address);
    if (now != nullptr) d.address = address;
    if (now != nullptr && std::memcmp(now, d.copy.data(), bytes) == 0) continue;
    for (; wanted != 0; wanted &= wanted - 1) {
      const u32 n = static_cast<u32>(std::countr_zero(wanted));
      if (now == nullptr || entry_of<T>(now, n) != entry_of<T>(d.copy.data(), n)) forget_slot(d.number * group_size + n, stale);
    }
    // So that what nobody uses does not lead here again.
    for (u32 n = 0; n < group_size && now != nullptr; ++n) {
      if (((d.used >> n) & 1) == 0) set_entry<T>(d.copy.data(), n, entry_of<T>(now, n));
    }
  }
  for (const List list : {non_global, global_pages}) {
    if (list == global_pages && !global) continue;
    // Downwards: removing puts the last in the place of the removed.
    std::vector<Group>& groups = groups_[list];
    for (std::size_t i = groups.size(); i-- > 0;) {
      Group& group = groups[i];
      const u8* now = ram_.at({group.address});
      if (std::memcmp(now, group.copy.data(), bytes) == 0) continue;
      u8 changed = 0;
      for (u32 n = 0; n < group_size; ++n) {
        if (entry_of<T>(now, n) != entry_of<T>(group.copy.data(), n)) changed |= static_cast<u8>(1u << n);
      }
      std::memcpy(group.copy.data(), now, bytes);
      changed &= group.used;
      name({group.number, changed, static_cast<u8>(group.fetched & changed)}, stale);
      group.used &= static_cast<u8>(~changed);
      group.fetched &= group.used;
      if (group.used == 0) remove(group.number);
    }
  }
}

void TableCopies::compare(const PagingRoots& roots, bool global, StalePages& stale) {
  if (roots.format != format_) return forget_all(stale);
  if (format_ == PagingFormat::pae) compare_as<u64>(roots, global, stale);
  if (format_ == PagingFormat::two_level) compare_as<u32>(roots, global, stale);
}

u32 TableCopies::differing(const PagingRoots& roots) const {
  if (roots.format != format_) return count();
  u32 result = 0;
  const std::size_t size = format_ == PagingFormat::pae ? sizeof(u64) : sizeof(u32);
  for (const Directory& d : directories_) {
    if (d.non_global == 0) continue;
    u64 address = 0;
    const u8* now = directory_at(roots, d.number, address);
    if (now != nullptr && std::memcmp(now, d.copy.data(), group_size * size) == 0) continue;
    for (u32 bits = d.non_global; bits != 0; bits &= bits - 1) {
      const u32 n = static_cast<u32>(std::countr_zero(bits));
      if (now == nullptr || std::memcmp(now + n * size, d.copy.data() + n * size, size) != 0)
        result += slot_groups_[d.number * group_size + n];
    }
  }
  return result;
}

bool TableCopies::dead() const {
  if (format_ == PagingFormat::none) return count() == 0;
  const std::size_t size = format_ == PagingFormat::pae ? sizeof(u64) : sizeof(u32);
  for (const Directory& d : directories_) {
    const u8* now = ram_.at({d.address});
    for (u32 bits = d.used; bits != 0; bits &= bits - 1) {
      const u32 n = static_cast<u32>(std::countr_zero(bits));
      if (std::memcmp(now + n * size, d.copy.data() + n * size, size) == 0) return false;
    }
  }
  return true;
}

}  // namespace ring3
