#include "runtime/memory/page_walker.h"

#include <algorithm>
#include <type_traits>

namespace ring3 {

namespace {

// Bits of paging-structure entries, the same in both formats (SDM vol. 3, tables 4-4 to 4-6 and 4-8 to 4-11).
namespace entry {
constexpr u32 present = 1u << 0;
constexpr u32 writable = 1u << 1;
constexpr u32 user = 1u << 2;
constexpr u32 accessed = 1u << 5;
constexpr u32 dirty = 1u << 6;
constexpr u32 large = 1u << 7;  // directory
constexpr u32 pat_small = 1u << 7;
constexpr u32 pat_large = 1u << 12;
constexpr u32 global = 1u << 8;
constexpr u64 no_execute = u64{1} << 63;
}  // namespace entry

// Bits [low, high] set.
constexpr u64 bits(unsigned high, unsigned low) { return (~u64{0} >> (63 - high)) & (~u64{0} << low); }

template <typename T>
constexpr bool is_pae = std::is_same_v<T, u64>;
// 22 or 21 address bits below a large page, 10 or 9 index bits in a page table.
template <typename T>
constexpr unsigned large_shift = is_pae<T> ? 21 : 22;
template <typename T>
constexpr u32 index_mask = is_pae<T> ? 0x1FF : 0x3FF;
// Where an entry keeps the address of a page table or small page.
template <typename T>
constexpr u64 address_bits = is_pae<T> ? bits(51, 12) : bits(31, 12);

}  // namespace

void PageWalker::set_model(const PagingModel& model) {
  above_physical_ = bits(62, model.physical_bits);
  // SDM vol. 3, 4.3: without PSE-36 bits 21:13 are reserved, with it 21:(M-19) where M = min(40, MAXPHYADDR).
  const unsigned reach = std::min(40u, model.physical_bits);
  reserved_pse_ = static_cast<u32>(model.pse36 ? bits(21, reach - 19) : bits(21, 13));
  pse36_bits_ = model.pse36 && reach > 32 ? static_cast<u32>(bits(reach - 20, 13)) : 0;
  reserved_pat_large_ = model.pat ? 0 : entry::pat_large;
  reserved_pat_small_ = model.pat ? 0 : entry::pat_small;
}

// Under PAE always; under 32-bit paging there are reserved bits only while CR4.PSE = 1 (SDM vol. 3, 4.3 and 4.4.2).
template <typename T>
u64 PageWalker::reserved_in_table() const {
  if constexpr (is_pae<T>) {
    return above_physical_ | reserved_pat_small_ | (no_execute() ? 0 : entry::no_execute);
  } else {
    return (cpu_.cr4 & cr4::pse) != 0 ? reserved_pat_small_ : 0;
  }
}

template <typename T>
u64 PageWalker::reserved_in_directory(bool large) const {
  if constexpr (is_pae<T>) {
    return above_physical_ | (no_execute() ? 0 : entry::no_execute) | (large ? bits(20, 13) | reserved_pat_large_ : 0);
  } else {
    return large ? reserved_pse_ | reserved_pat_large_ : 0;
  }
}

template <typename T>
Walk PageWalker::walk_tables(u32 linear, u64 directory, Access access, bool user, bool commit) {
  const bool write = access == Access::write;
  const bool execute = access == Access::execute;
  Walk result;
  result.error_code = (write ? pf_error::write : 0) | (user ? pf_error::user : 0) | (execute && no_execute() ? pf_error::fetch : 0);

  const u64 pde_address = (directory + ((linear >> large_shift<T>)&index_mask<T>)*sizeof(T)) & a20_mask_;
  const T pde = memory_.template read_entry<T>(pde_address);
  if ((pde & entry::present) == 0) return result;
  const bool large = (pde & entry::large) != 0 && (is_pae<T> || (cpu_.cr4 & cr4::pse) != 0);
  if ((pde & reserved_in_directory<T>(large)) != 0) {
    result.error_code |= pf_error::present | pf_error::reserved;
    return result;
  }

  u64 pte_address = pde_address;
  T last = pde;
  T combined = pde;
  u64 denied_execute = pde;
  if (large) {
    u64 base = pde & address_bits<T> & ~bits(large_shift<T> - 1, 0);
    if constexpr (!is_pae<T>) base |= u64{pde & pse36_bits_} << 19;  // bit 13 holds address bit 32
    result.page = (base | (linear & bits(large_shift<T> - 1, page_shift))) & a20_mask_;
    result.kind = is_pae<T> ? PageKind::large_2m : PageKind::large_4m;
  } else {
    pte_address = ((pde & address_bits<T>)+((linear >> page_shift) & index_mask<T>)*sizeof(T)) & a20_mask_;
    last = memory_.template read_entry<T>(pte_address);
    if ((last & entry::present) == 0) return result;
    if ((last & reserved_in_table<T>()) != 0) {
      result.error_code |= pf_error::present | pf_error::reserved;
      return result;
    }
    combined &= last;
    denied_execute |= last;
    result.page = last & address_bits<T> & a20_mask_;
    result.entry_address = pte_address;
    result.directory_writable = (pde & entry::writable) != 0;
  }

  // SDM vol. 3, 4.6: rights are what every level grants.
  const bool writable = may_write(user, (combined & entry::writable) != 0);
  const bool allowed = (!user || (combined & entry::user) != 0) && (!write || writable) &&
                       (!execute || !no_execute() || (denied_execute & entry::no_execute) == 0);
  if (!allowed) {
    result.error_code |= pf_error::present;
    return result;
  }

  result.directory_address = pde_address;
  result.directory_entry = pde;
  result.entry = last;
  if (commit) {
    if (!large && (pde & entry::accessed) == 0) {
      memory_.set_entry_flags(pde_address, pde, entry::accessed);
      result.directory_entry |= entry::accessed;
    }
    const u32 wanted = entry::accessed | (write ? entry::dirty : 0);
    if ((last & wanted) != wanted) {
      memory_.set_entry_flags(pte_address, last, static_cast<u8>(wanted));
      (large ? result.directory_entry : result.entry) |= wanted;
    }
  }
  result.ok = true;
  result.write_ready = writable && (write || (last & entry::dirty) != 0);
  result.global = (last & entry::global) != 0 && (cpu_.cr4 & cr4::pge) != 0;
  return result;
}

Walk PageWalker::walk(u32 linear, Access access, bool user, bool commit) {
  if (!cpu_.paging()) {
    Walk result;
    result.ok = true;
    result.page = linear & ~u64{page_mask} & a20_mask_;
    result.kind = PageKind::unpaged;
    result.write_ready = true;
    result.global = true;  // nothing but a mode change, which flushes all, can make it stale
    return result;
  }
  if (!pae()) return walk_tables<u32>(linear, cpu_.cr3 & address_bits<u32>, access, user, commit);
  // The PDPTE registers, not memory, are the first level; they carry no rights (SDM vol. 3, 4.4.1).
  const u64 pdpte = cpu_.pdpte[linear >> 30];
  if ((pdpte & entry::present) == 0) {
    Walk result;
    result.error_code = (access == Access::write ? pf_error::write : 0) | (user ? pf_error::user : 0) |
                        (access == Access::execute && no_execute() ? pf_error::fetch : 0);
    return result;
  }
  return walk_tables<u64>(linear, pdpte & address_bits<u64>, access, user, commit);
}

Walk PageWalker::peek(u32 linear) const {
  Walk result;
  result.page = linear & ~u64{page_mask} & a20_mask_;
  result.ok = true;
  if (!cpu_.paging()) return result;
  result.ok = false;

  const unsigned shift = pae() ? large_shift<u64> : large_shift<u32>;
  const u32 mask = pae() ? index_mask<u64> : index_mask<u32>;
  const u64 address = pae() ? address_bits<u64> : address_bits<u32>;
  u64 table = cpu_.cr3 & address;
  if (pae()) {
    const u64 pdpte = cpu_.pdpte[linear >> 30];
    if ((pdpte & entry::present) == 0) return result;
    table = pdpte & address;
  }
  const auto read = [&](u64 base, u32 index) -> u64 {
    const u64 at = (base + u64{index} * entry_size()) & a20_mask_;
    if (!memory_.is_ram(at)) return 0;
    return pae() ? memory_.read_entry<u64>(at) : memory_.read_entry<u32>(at);
  };
  const u64 pde = read(table, (linear >> shift) & mask);
  if ((pde & entry::present) == 0) return result;
  if ((pde & entry::large) != 0 && (pae() || (cpu_.cr4 & cr4::pse) != 0)) {
    u64 base = pde & address & ~bits(shift - 1, 0);
    if (!pae()) base |= (pde & pse36_bits_) << 19;
    result.page = (base | (linear & bits(shift - 1, page_shift))) & a20_mask_;
    result.ok = true;
    return result;
  }
  const u64 pte = read(pde & address, (linear >> page_shift) & mask);
  if ((pte & entry::present) == 0) return result;
  result.page = pte & address & a20_mask_;
  result.ok = true;
  return result;
}

template <typename T>
Neighbour PageWalker::neighbour_of(const Walk& near, u64 entry_address, bool user) const {
  const T pte = memory_.template read_entry<T>(entry_address);
  constexpr u32 needed = entry::present | entry::accessed;
  if ((pte & needed) != needed || (pte & reserved_in_table<T>()) != 0) return {};
  if (user && (pte & entry::user) == 0) return {};
  Neighbour result;
  result.ok = true;
  result.page = pte & address_bits<T> & a20_mask_;
  result.entry = pte;
  result.write_ready = (pte & entry::dirty) != 0 && may_write(user, near.directory_writable && (pte & entry::writable) != 0);
  result.global = (pte & entry::global) != 0 && (cpu_.cr4 & cr4::pge) != 0;
  return result;
}

Neighbour PageWalker::neighbour(const Walk& near, u64 entry_address, bool user) const {
  return pae() ? neighbour_of<u64>(near, entry_address, user) : neighbour_of<u32>(near, entry_address, user);
}

PagingRoots PageWalker::roots() const {
  PagingRoots result;
  result.format = format();
  if (result.format == PagingFormat::none) return result;
  if (!pae()) {
    result.directory[0] = cpu_.cr3 & address_bits<u32> & a20_mask_;
    return result;
  }
  for (unsigned i = 0; i < result.directory.size(); ++i) {
    if ((cpu_.pdpte[i] & entry::present) != 0) result.directory[i] = cpu_.pdpte[i] & address_bits<u64> & a20_mask_;
  }
  return result;
}

bool PageWalker::read_pdptes(u32 cr3, std::array<u64, 4>& out) {
  const u64 reserved = bits(2, 1) | bits(8, 5) | above_physical_ | entry::no_execute;
  const u64 table = cr3 & ~u64{0x1F};
  std::array<u64, 4> values{};
  for (unsigned i = 0; i < values.size(); ++i) {
    values[i] = memory_.read_entry<u64>((table + i * sizeof(u64)) & a20_mask_);
    if ((values[i] & entry::present) != 0 && (values[i] & reserved) != 0) return false;
  }
  out = values;
  return true;
}

}  // namespace ring3
