// Walks the guest's page tables: two-level and PAE paging (SDM vol. 3, 4.3-4.8).
#pragma once

#include "base/types.h"
#include "guest/cpu_state.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/physical.h"

#include <array>

namespace ring3 {

// How much linear address space one translation covers.
enum class PageKind : u8 { small, large_2m, large_4m, unpaged };

struct Walk {
  bool ok = false;
  u32 error_code = 0;  // of the page fault, if not `ok`
  u64 page = 0;        // physical address of the 4 KiB page that holds the linear address, A20 applied
  PageKind kind = PageKind::small;
  bool write_ready = false;   // a write by the same privilege needs no further walk: rights allow it and D is set
  bool global = false;        // survives MOV CR3
  u64 directory_address = 0;  // of the directory entry (not `unpaged`); it and the next three are as the walk left them
  u64 directory_entry = 0;
  u64 entry_address = 0;  // of the page-table entry (kind `small` only)
  u64 entry = 0;
  bool directory_writable = false;  // the directory entry grants writes (kind `small` only)
};

// What a page-table entry would map, for filling the soft table ahead of the access.
struct Neighbour {
  bool ok = false;  // a read needs no further walk: present, no reserved bit, rights allow it, A is set
  u64 page = 0;
  u64 entry = 0;
  bool write_ready = false;
  bool global = false;
};

// How the CPU translates now.
enum class PagingFormat : u8 { none, two_level, pae };

// Where the page directories lie. Under PAE there are four, for a GiB each.
struct PagingRoots {
  static constexpr u64 absent = ~u64{0};
  PagingFormat format = PagingFormat::none;
  std::array<u64, 4> directory{absent, absent, absent, absent};
};

class PageWalker {
 public:
  PageWalker(const CpuState& cpu, PhysicalMemory& memory) : cpu_(cpu), memory_(memory) { set_model({}); }

  void set_model(const PagingModel& model);
  void set_a20(bool enabled) { a20_mask_ = enabled ? ~u64{0} : ~(u64{1} << 20); }
  [[nodiscard]] bool a20() const { return a20_mask_ == ~u64{0}; }

  // With `commit`, a walk that succeeds sets A in every entry it used and, for a write, D in the last one (SDM vol. 3, 4.8); a walk that
  // fails changes nothing. Without it nothing is ever written.
  [[nodiscard]] Walk walk(u32 linear, Access access, bool user, bool commit);
  // Rights and flags are ignored and nothing is written. Page tables outside RAM count as absent, because reading a device may change it.
  [[nodiscard]] Walk peek(u32 linear) const;
  // The entry at `entry_address` (in RAM), which belongs to the same page table as the successful walk `near`.
  [[nodiscard]] Neighbour neighbour(const Walk& near, u64 entry_address, bool user) const;
  // Bytes of an entry in the current paging mode.
  [[nodiscard]] u32 entry_size() const { return pae() ? 8 : 4; }

  [[nodiscard]] PagingFormat format() const {
    return !cpu_.paging() ? PagingFormat::none : pae() ? PagingFormat::pae : PagingFormat::two_level;
  }
  // Of the current CR3, or of the PDPTE registers.
  [[nodiscard]] PagingRoots roots() const;
  // What tells address spaces apart: 1 without paging, else the part of CR3 that is an address.
  [[nodiscard]] u32 space() const { return !cpu_.paging() ? 1 : cpu_.cr3 & (pae() ? ~0x1Fu : ~u32{page_mask}); }

  // SDM vol. 3, 4.4.1. False: a present entry has a reserved bit set.
  [[nodiscard]] bool read_pdptes(u32 cr3, std::array<u64, 4>& out);

 private:
  [[nodiscard]] bool pae() const { return (cpu_.cr4 & cr4::pae) != 0; }
  [[nodiscard]] bool no_execute() const { return pae() && (cpu_.efer & efer::nxe) != 0; }
  template <typename T>
  [[nodiscard]] Walk walk_tables(u32 linear, u64 directory, Access access, bool user, bool commit);
  template <typename T>
  [[nodiscard]] u64 reserved_in_table() const;
  template <typename T>
  [[nodiscard]] u64 reserved_in_directory(bool large) const;
  [[nodiscard]] bool may_write(bool user, bool page_writable) const { return page_writable || (!user && (cpu_.cr0 & cr0::wp) == 0); }
  template <typename T>
  [[nodiscard]] Neighbour neighbour_of(const Walk& near, u64 entry_address, bool user) const;

  const CpuState& cpu_;
  PhysicalMemory& memory_;
  u64 a20_mask_ = ~u64{0};
  u64 above_physical_ = 0;      // address bits that the CPU does not have, 51:MAXPHYADDR and up to 62
  u32 reserved_pse_ = 0;        // 4 MiB directory entries, 32-bit paging
  u32 reserved_pat_large_ = 0;  // the PAT bit of large pages
  u32 reserved_pat_small_ = 0;  // the PAT bit of page-table entries
  u32 pse36_bits_ = 0;          // entry bits that hold address bits 32 and up
};

}  // namespace ring3
