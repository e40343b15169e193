// Every combination of rights, formats and modes against a reference written from SDM vol. 3, 4.6 and 4.7, and every reserved bit.
#include "memory_fixture.h"

#include <optional>

namespace ring3::test {
namespace {

struct Format {
  bool pae;
  bool large;
};

struct Request {
  Access access;
  bool user;
};

// The error code of the page fault, or nothing if the access is allowed. `levels` are the entries from the directory down.
std::optional<u32> expected_error(const std::vector<u64>& levels, Request request, bool pae, bool wp, bool nxe) {
  const bool execute_disable = pae && nxe;
  u32 code = 0;
  if (request.access == Access::write) code |= 1u << 1;
  if (request.user) code |= 1u << 2;
  if (request.access == Access::execute && execute_disable) code |= 1u << 4;
  for (const u64 level : levels) {
    if ((level & 1) == 0) return code;
    if (pae && !nxe && (level >> 63) != 0) return code | 1u | (1u << 3);
  }
  bool user_page = true, writable = true, executable = true;
  for (const u64 level : levels) {
    user_page = user_page && (level & 4) != 0;
    writable = writable && (level & 2) != 0;
    executable = executable && (level >> 63) == 0;
  }
  bool allowed = true;
  if (request.user) {
    if (!user_page) allowed = false;
    if (request.access == Access::write && !writable) allowed = false;
  } else {
    if (request.access == Access::write && !writable && wp) allowed = false;
  }
  if (request.access == Access::execute && execute_disable && !executable) allowed = false;
  if (allowed) return std::nullopt;
  return code | 1u;
}

const Request requests[] = {{Access::read, false}, {Access::write, false}, {Access::execute, false},
                            {Access::read, true},  {Access::write, true},  {Access::execute, true}};

class MemoryRights : public MemoryTest {
 protected:
  // Performs the access the way engines do; nothing if it was allowed, else the error code.
  std::optional<u32> attempt(Request request, u32 linear) {
    fault = {};
    bool ok = false;
    u64 value = 0;
    switch (request.access) {
      case Access::read: ok = memory.read(linear, &value, 4, request.user, fault); break;
      case Access::write: ok = memory.write(linear, &value, 4, request.user, fault); break;
      case Access::execute: ok = memory.translate_fetch(linear, request.user, fault).has_value(); break;
    }
    if (ok) return std::nullopt;
    EXPECT_EQ(fault.vector, Vector::page);
    EXPECT_EQ(fault.address, linear);
    return fault.error_code;
  }
};

TEST_F(MemoryRights, EveryCombinationAndEveryPairOfAccesses) {
  constexpr u32 linear = 0x00C05678;  // second half of a 4 MiB page's worth of directory entries, odd page
  constexpr u32 second = linear ^ 0x800;
  unsigned cases = 0;
  for (const Format format : {Format{false, false}, Format{false, true}, Format{true, false}, Format{true, true}}) {
    enable_paging(format.pae);
    const unsigned variants = format.pae ? 16 : 8;
    const auto rights = [](unsigned variant) { return u64{variant & 7} | ((variant & 8) != 0 ? NX : 0); };
    for (unsigned top = 0; top < variants; ++top) {
      for (unsigned bottom = 0; bottom < (format.large ? 1 : variants); ++bottom) {
        for (unsigned control = 0; control < 4; ++control) {
          const bool wp = (control & 1) != 0, nxe = (control & 2) != 0;
          cpu.cr0 = (cpu.cr0 & ~cr0::wp) | (wp ? cr0::wp : 0);
          cpu.efer = nxe ? efer::nxe : 0;
          const u64 pde = (format.large ? 0xC00000 | PS : u64{table}) | rights(top);
          const u64 pte = 0x300000 | rights(bottom);
          const std::vector<u64> levels = format.large ? std::vector<u64>{pde} : std::vector<u64>{pde, pte};
          for (const Request& first : requests) {
            for (const Request& then : requests) {
              put(pde_at(linear), pde);
              if (!format.large) put(pte_at(linear), pte);
              memory.flush_all();
              SCOPED_TRACE(::testing::Message() << (format.pae ? "pae " : "") << (format.large ? "large " : "") << std::hex << "pde " << pde
                                                << " pte " << pte << " wp " << wp << " nxe " << nxe);
              const auto expected = expected_error(levels, first, format.pae, wp, nxe);
              ASSERT_EQ(attempt(first, linear), expected);
              // A and D: untouched by a fault, else A everywhere and D where a write ended (SDM vol. 3, 4.8).
              const u64 leaf = A | (first.access == Access::write ? D : 0);
              ASSERT_EQ(get(pde_at(linear)), pde | (expected ? 0 : format.large ? leaf : A));
              if (!format.large) {
                ASSERT_EQ(get(pte_at(linear)), pte | (expected ? 0 : leaf));
              }
              // What the first access left in the tables must not lend its rights to another one.
              ASSERT_EQ(attempt(then, second), expected_error(levels, then, format.pae, wp, nxe));
              ++cases;
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(cases, (8u * 8 + 8 + 16 * 16 + 16) * 4 * 36);
}

TEST_F(MemoryRights, DirtyIsSetByTheFirstWriteAfterAnyNumberOfReads) {
  for (bool pae_format : {false, true}) {
    for (bool large : {false, true}) {
      enable_paging(pae_format);
      const u32 linear = 0x400000;
      const u32 leaf = large ? pde_at(linear) : pte_at(linear);
      if (large)
        put(leaf, 0x400000 | P | W | U | PS);
      else
        map(linear, 0x300000, W | U);
      for (int i = 0; i < 3; ++i) must_read(linear + 4 * i, 4, true);
      EXPECT_EQ(get(leaf) & (A | D), A);
      ASSERT_TRUE(memory.probe_write(linear, 4, true, fault));
      EXPECT_EQ(get(leaf) & (A | D), A | D);
      // The guest clears D and flushes; D must come back with the next write only.
      put(leaf, get(leaf) & ~D);
      memory.flush_page(linear);
      must_read(linear);
      EXPECT_EQ(get(leaf) & D, 0u);
      ASSERT_TRUE(write(linear, 1));
      EXPECT_EQ(get(leaf) & D, D);
    }
  }
}

TEST_F(MemoryRights, AFillAheadSetsNoFlags) {
  for (bool pae_format : {false, true}) {
    enable_paging(pae_format);
    for (u32 page = 0; page < 16; ++page) map(0x400000 + page * page_size, 0x300000 + page * page_size, W | ((page & 1) != 0 ? A : 0));
    must_read(0x402000);
    ASSERT_TRUE(write(0x404000, 1));
    for (u32 page = 0; page < 16; ++page) {
      const u64 flags = page == 2 ? A : page == 4 ? A | D : (page & 1) != 0 ? A : 0;
      EXPECT_EQ(get(pte_at(0x400000 + page * page_size)) & (A | D), flags) << page;
    }
    // Whatever was filled ahead, a write sets D.
    for (u32 page = 0; page < 16; ++page) {
      ASSERT_TRUE(write(0x400000 + page * page_size, page));
      EXPECT_EQ(get(pte_at(0x400000 + page * page_size)) & (A | D), A | D) << page;
      EXPECT_EQ(get32(0x300000 + page * page_size), page);
    }
  }
}

TEST_F(MemoryRights, ReservedBitsOfPae) {
  enable_paging(true);
  const u32 linear = 0x400000;
  for (bool nxe : {false, true}) {
    for (bool pat : {false, true}) {
      cpu.efer = nxe ? efer::nxe : 0;
      memory.set_paging_model({.physical_bits = 36, .pse36 = false, .pat = pat});
      for (unsigned bit = 9; bit < 64; ++bit) {
        const u64 extra = u64{1} << bit;
        const bool common = bit == 63 ? !nxe : bit >= 36;
        const auto check = [&](bool reserved, const char* what) {
          memory.flush_all();
          fault = {};
          const bool ok = memory.translate(linear, Access::read, false, fault).has_value();
          EXPECT_EQ(ok, !reserved) << what << " bit " << bit;
          if (!ok) expect_page_fault(linear, pf_error::present | pf_error::reserved);
        };
        map(linear, 0, W);
        put(pte_at(linear), get(pte_at(linear)) | extra);
        check(common, "page-table entry");
        put(pde_at(linear), P | W | PS | extra);
        check(common || (bit >= 13 && bit <= 20) || (bit == 12 && !pat), "large page");
        if (common) {
          put(pde_at(linear), table | P | W | extra);
          put(pte_at(linear), 0);  // an absent entry below does not hide it
          check(true, "directory entry");
        }
      }
      map(linear, 0, W | PS);  // bit 7 of a page-table entry
      memory.flush_all();
      EXPECT_EQ(memory.translate(linear, Access::read, false, fault).has_value(), pat);
    }
  }
}

TEST_F(MemoryRights, ReservedBitsOfTwoLevelPaging) {
  enable_paging(false);
  const u32 linear = 0x400000;
  for (bool pse36 : {false, true}) {
    for (unsigned bit = 12; bit < 32; ++bit) {
      memory.set_paging_model({.physical_bits = 36, .pse36 = pse36, .pat = true});
      put(pde_at(linear), P | W | PS | (u64{1} << bit));
      const bool reserved = pse36 ? bit >= 17 && bit <= 21 : bit >= 13 && bit <= 21;
      const auto result = memory.translate(linear + 0x123456, Access::write, true, fault);
      EXPECT_FALSE(result.has_value());  // not a user page either: the reserved bit is what is reported
      EXPECT_EQ(fault.error_code, pf_error::present | pf_error::write | pf_error::user | (reserved ? pf_error::reserved : 0)) << bit;
      if (reserved) continue;
      const auto page = memory.translate(linear + 0x123456, Access::read, false, fault);
      ASSERT_TRUE(page.has_value());
      const u64 address = bit == 12 ? 0 : bit < 17 ? u64{1} << (bit + 19) : u64{1} << bit;
      EXPECT_EQ(page->address.value, address + 0x123456);
    }
  }
  memory.set_paging_model({.physical_bits = 36, .pse36 = false, .pat = false});
  put(pde_at(linear), P | W | PS | 0x1000);
  EXPECT_FALSE(memory.translate(linear, Access::read, false, fault).has_value());
  expect_page_fault(linear, pf_error::present | pf_error::reserved);
  map(linear, 0x300000, W | PS);
  EXPECT_FALSE(memory.translate(linear, Access::read, false, fault).has_value());
  // Without CR4.PSE there are no reserved bits and no large pages.
  cpu.cr4 &= ~cr4::pse;
  memory.flush_all();
  EXPECT_TRUE(memory.translate(linear, Access::read, false, fault).has_value());
  put(pde_at(linear), table | P | W | PS);
  put(pte_at(linear), 0x333000 | P | W);
  const auto page = memory.translate(linear + 0x10, Access::read, false, fault);
  ASSERT_TRUE(page.has_value());
  EXPECT_EQ(page->address.value, 0x333010u);
}

TEST_F(MemoryRights, PdptesAreRegisters) {
  enable_paging(true);
  map(0xC0400000, 0x300000, W);
  put64(pointer_table + 24, 0);
  EXPECT_EQ(must_read(0xC0400000), 0u);  // memory changed, the register did not
  ASSERT_TRUE(memory.load_pdptes(cpu.cr3));
  memory.flush_non_global();
  u64 out;
  EXPECT_FALSE(read(0xC0400000, out, 4, true));
  expect_page_fault(0xC0400000, pf_error::user);
  EXPECT_FALSE(memory.peek(0xC0400000).has_value());

  const auto before = cpu.pdpte;
  for (unsigned bit = 1; bit < 64; ++bit) {
    const bool reserved = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= 36;
    put64(pointer_table + 8, (u64{1} << bit));
    EXPECT_TRUE(memory.load_pdptes(cpu.cr3)) << "not present: nothing is reserved, bit " << bit;
    put64(pointer_table + 8, (u64{1} << bit) | P);
    cpu.pdpte = before;
    EXPECT_EQ(memory.load_pdptes(cpu.cr3), !reserved) << bit;
    if (reserved) {
      EXPECT_EQ(cpu.pdpte, before);
    }
  }
  // The table is 32-byte aligned inside a page; bits 4:3 of CR3 are PWT and PCD.
  put64(pointer_table + 0x20, 0x5000 | P);
  ASSERT_TRUE(memory.load_pdptes(pointer_table + 0x20 + 0x18));
  EXPECT_EQ(cpu.pdpte[0], 0x5000 | P);
}

TEST_F(MemoryRights, LargePagesTranslateTheirOffset) {
  enable_paging(true);
  put(pde_at(0x00E00000), 0x00600000 | P | W | PS);
  EXPECT_EQ(memory.translate(0x00FFFFFC, Access::read, false, fault)->address.value, 0x007FFFFCu);
  put(pde_at(0xC0200000), (u64{5} << 32) | 0x00200000 | P | W | PS);
  const auto high = memory.translate(0xC0234567, Access::read, false, fault);
  EXPECT_EQ(high->address.value, 0x5'00234567u);
  EXPECT_FALSE(high->ram);
  enable_paging(false);
  put(pde_at(0x00C00000), 0x00800000 | P | W | PS);
  EXPECT_EQ(memory.translate(0x00FFFFFC, Access::read, false, fault)->address.value, 0x00BFFFFCu);
  EXPECT_EQ(memory.peek(0x00FFFFFC)->address.value, 0x00BFFFFCu);
}

TEST_F(MemoryRights, PeekIgnoresRightsAndChangesNothing) {
  enable_paging(false);
  map(0x400000, 0x300000, 0);
  put(pde_at(0x400000), table | P);
  const auto found = memory.peek(0x400123);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->address.value, 0x300123u);
  EXPECT_TRUE(found->ram);
  EXPECT_EQ(get(pte_at(0x400000)) & A, 0u);
  EXPECT_EQ(get(pde_at(0x400000)) & A, 0u);
  put(pde_at(0x400000), 0xFEC00000 | P);  // a page table on a device: looking would change the device
  EXPECT_FALSE(memory.peek(0x400123).has_value());
  EXPECT_TRUE(bus.log.empty());
}

TEST_F(MemoryRights, PageTablesOutsideRamGoThroughTheBus) {
  for (bool pae_format : {false, true}) {
    enable_paging(pae_format);
    bus.bytes.clear();
    const u64 entry = 0x300000 | P | W;
    for (unsigned i = 0; i < entry_size(); ++i) bus.bytes[0xFEC00000 + i] = static_cast<u8>(entry >> (8 * i));
    put(pde_at(0x400000), 0xFEC00000 | P | W);
    put32(0x300000, 0x1234);
    bus.log.clear();
    EXPECT_EQ(must_read(0x400000), 0x1234u);
    ASSERT_FALSE(bus.log.empty());
    EXPECT_EQ(bus.log[0], (ByteBus::Entry{0xFEC00000, entry_size(), false}));
    EXPECT_EQ(bus.bytes[0xFEC00000], static_cast<u8>(entry | A));
    EXPECT_EQ(bus.bytes[0xFEC00002], 0x30);
  }
}

}  // namespace
}  // namespace ring3::test
