// What leaves the tables when: flushes, INVLPG, contexts, code pages, jump slots.
#include "memory_fixture.h"

namespace ring3::test {
namespace {

constexpr u32 kernel_mode = mode::code32 | mode::cpl0;
constexpr u32 user_mode = mode::code32 | mode::user;

class MemoryFlush : public MemoryTest {};

TEST_F(MemoryFlush, EntriesAreHostMinusLinear) {
  enable_paging(false);
  map(0xC0400000, 0x300000, W);
  const u64 context = select(kernel_mode);
  must_read(0xC0400FFF, 1);
  EXPECT_EQ(read_slot(context, 0xC0400000) + 0xC0400123, reinterpret_cast<u64>(ram.at({0x300123})));
  EXPECT_EQ(write_slot(context, 0xC0400000), 0u);
  ASSERT_TRUE(write(0xC0400000, 1));
  EXPECT_EQ(write_slot(context, 0xC0400000), read_slot(context, 0xC0400000));
}

// Data breakpoints see an access because its page is not in the tables (SDM vol. 3, 17.2.4).
TEST_F(MemoryFlush, PagesWithDataBreakpointsAreNotInTheTables) {
  enable_paging(false);
  map(0x400000, 0x300000, W);
  map(0x401000, 0x301000, W);
  const u64 context = select(kernel_mode);
  ASSERT_TRUE(write(0x400000, 1));
  ASSERT_TRUE(write(0x401000, 1));
  cpu.dr[1] = 0x400102;
  cpu.dr[7] = 0x400 | (1u << 2) | (0xFu << 20);  // L1, reads and writes, four bytes
  memory.breakpoints_changed();
  EXPECT_EQ(read_slot(context, 0x400000), 0u);
  EXPECT_EQ(write_slot(context, 0x400000), 0u);
  EXPECT_NE(write_slot(context, 0x401000), 0u);
  must_read(0x400000);
  ASSERT_TRUE(write(0x400104, 1));
  ASSERT_TRUE(write(0x401100, 1));
  must_read(0x401000);
  EXPECT_EQ(read_slot(context, 0x400000), 0u);
  EXPECT_EQ(cpu.pending_debug, 0u);
  must_read(0x4000FF, 2);
  EXPECT_EQ(cpu.pending_debug, 2u) << "400100h to 400103h: the low bits of DR1 do not count";
  cpu.pending_debug = 0;
  EXPECT_TRUE(memory.probe_write(0x400100, 4, false, fault));
  EXPECT_EQ(cpu.pending_debug, 0u) << "no access took place";

  cpu.dr[7] = 0x400 | (1u << 2) | (0xDu << 20);  // writes alone
  memory.breakpoints_changed();
  must_read(0x400100);
  EXPECT_EQ(cpu.pending_debug, 0u);
  EXPECT_NE(read_slot(context, 0x400000), 0u);
  ASSERT_TRUE(write(0x400103, 1));
  EXPECT_EQ(cpu.pending_debug, 2u);
  EXPECT_EQ(write_slot(context, 0x400000), 0u);

  cpu.dr[7] = 0x400;
  memory.breakpoints_changed();
  ASSERT_TRUE(write(0x400100, 1));
  EXPECT_NE(write_slot(context, 0x400000), 0u);
}

// What is filled ahead of its access keeps the rule too.
TEST_F(MemoryFlush, NeighboursWithDataBreakpointsAreNotFilledAhead) {
  enable_paging(false);
  for (u32 page = 0; page < 4; ++page) map(0x400000 + 0x1000 * page, 0x300000 + 0x1000 * page, W | A | D);
  const u64 context = select(kernel_mode);
  cpu.dr[0] = 0x401FFF;
  cpu.dr[3] = 0x402000;
  cpu.dr[7] = 0x400 | 1u | (1u << 7) | (3u << 16) | (1u << 28);  // L0: reads and writes; G3: writes
  memory.breakpoints_changed();
  ASSERT_TRUE(write(0x400000, 1));
  EXPECT_EQ(read_slot(context, 0x401000), 0u);
  EXPECT_NE(read_slot(context, 0x402000), 0u);
  EXPECT_EQ(write_slot(context, 0x402000), 0u);
  EXPECT_NE(write_slot(context, 0x403000), 0u);
}

// What the page tables still say is kept over any flush but a change of the mode; what they do not say is gone, unless it is global.
TEST_F(MemoryFlush, FlushesDropWhatTheTablesNoLongerSay) {
  for (bool pae_format : {false, true}) {
    enable_paging(pae_format);
    const auto fill = [&] {
      map(0x400000, 0x300000, W | G, 0x20000);
      map(0x800000, 0x301000, W, 0x21000);
      map(0xC00000, 0x302000, W, 0x22000);
      memory.flush_all();
      const u64 context = select(kernel_mode);
      for (const u32 linear : {0x400000u, 0x800000u, 0xC00000u}) {
        EXPECT_TRUE(write(linear, 1));
        jump(linear + 0x10, linear >> 20);
      }
      return context;
    };
    const auto expect = [&](u64 context, u32 linear, bool kept) {
      EXPECT_EQ(read_slot(context, linear) != 0, kept) << std::hex << linear;
      EXPECT_EQ(write_slot(context, linear) != 0, kept) << std::hex << linear;
      EXPECT_EQ(jump_slot(context, linear + 0x10), kept ? linear >> 20 : 0u) << std::hex << linear;
    };
    u64 context = fill();
    EXPECT_TRUE(memory.context_selected());
    memory.flush_non_global();
    EXPECT_FALSE(memory.context_selected());
    EXPECT_EQ(select(kernel_mode), context);
    for (const u32 linear : {0x400000u, 0x800000u, 0xC00000u}) expect(context, linear, true);

    put(pte_at(0x400000, 0x20000), 0x310000 | P | W | G);
    put(pte_at(0x800000, 0x21000), 0x311000 | P | W);
    memory.flush_non_global();
    context = select(kernel_mode);
    expect(context, 0x400000, true);
    expect(context, 0x800000, false);
    expect(context, 0xC00000, true);
    memory.flush_global();
    context = select(kernel_mode);
    expect(context, 0x400000, false);
    expect(context, 0xC00000, true);

    // A directory entry takes all of its pages along, global ones too.
    context = fill();
    put(pde_at(0xC00000), 0x22000 | P | W);
    memory.flush_non_global();
    context = select(kernel_mode);
    expect(context, 0xC00000, false);
    expect(context, 0x800000, true);

    context = fill();
    memory.flush_all();
    context = select(kernel_mode);
    for (const u32 linear : {0x400000u, 0x800000u, 0xC00000u}) expect(context, linear, false);
  }
}

// The guest takes A or D back and loads CR3: the next access sets it again.
TEST_F(MemoryFlush, ClearedFlagsAreSetAgain) {
  for (bool pae_format : {false, true}) {
    for (bool large : {false, true}) {
      enable_paging(pae_format);
      map(0x400000, 0x300000, W);
      if (large) put(pde_at(0x400000), 0x400000 | P | W | PS);
      const u32 leaf = large ? pde_at(0x400000) : pte_at(0x400000);
      select(kernel_mode);
      for (const u64 taken : {A, D, A | D}) {
        ASSERT_TRUE(write(0x400000, 1));
        ASSERT_EQ(get(leaf) & (A | D), A | D);
        put(leaf, get(leaf) & ~taken);
        memory.flush_non_global();
        ASSERT_TRUE(write(0x400000, 2));
        EXPECT_EQ(get(leaf) & (A | D), A | D);
        put(leaf, get(leaf) & ~taken);
        memory.flush_non_global();
        must_read(0x400000);
        EXPECT_EQ(get(leaf) & (A | D), A | (D & ~taken));
        if (large) continue;
        put(pde_at(0x400000), get(pde_at(0x400000)) & ~A);
        memory.flush_non_global();
        must_read(0x400000);
        EXPECT_NE(get(pde_at(0x400000)) & A, 0u);
        ASSERT_TRUE(memory.translate_fetch(0x400000, false, fault).has_value());
        put(leaf, get(leaf) & ~A);
        memory.flush_non_global();
        ASSERT_TRUE(memory.translate_fetch(0x400000, false, fault).has_value());
        EXPECT_NE(get(leaf) & A, 0u);
      }
    }
  }
}

// A walk that sees a changed entry before the flush must not make the flush believe that what was cached before is right.
TEST_F(MemoryFlush, AWalkOfAChangedEntryDropsWhatTheOldOneGave) {
  enable_paging(true);
  cpu.efer = efer::nxe;
  memory.flush_all();
  map(0x400000, 0x300000, W | A | D);
  const u64 context = select(kernel_mode);
  ASSERT_TRUE(write(0x400000, 1));
  put(pte_at(0x400000), 0x301000 | P | W);
  ASSERT_TRUE(memory.translate_fetch(0x400000, false, fault).has_value());
  EXPECT_EQ(read_slot(context, 0x400000), 0u);
  EXPECT_EQ(write_slot(context, 0x400000), 0u);
  jump(0x400000, 5);
  put(pte_at(0x400000), 0x302000 | P | W);
  must_read(0x400000);
  EXPECT_EQ(jump_slot(context, 0x400000), 0u);
  EXPECT_EQ(memory.translate_fetch(0x400000, false, fault)->address.value, 0x302000u);
  // The same through the directory, for every page below it.
  map(0x401000, 0x303000, W);
  must_read(0x401000);
  jump(0x401000, 6);
  map(0x405000, 0x305000, W);
  std::memcpy(ram.at({0x21000}), ram.at({table}), page_size);
  put(pte_at(0x401000, 0x21000), 0x306000 | P | W);
  put(pde_at(0x400000), 0x21000 | P | W);
  must_read(0x405000);
  EXPECT_EQ(read_slot(context, 0x401000), 0u);
  EXPECT_EQ(jump_slot(context, 0x401000), 0u);
}

TEST_F(MemoryFlush, APageThatLosesItsGlobalBitIsFlushedAsNonGlobal) {
  enable_paging(false);
  map(0x400000, 0x300000, W | G);
  u64 context = select(kernel_mode);
  must_read(0x400000);
  put(pte_at(0x400000), 0x301000 | P | W);
  memory.flush_page(0x400000);
  must_read(0x400000);
  ASSERT_NE(read_slot(context, 0x400000), 0u);
  put(pte_at(0x400000), 0x302000 | P | W);
  memory.flush_non_global();
  context = select(kernel_mode);
  EXPECT_EQ(read_slot(context, 0x400000), 0u);
}

// Page tables in a device: nobody tells when they change, so nothing of them is kept.
TEST_F(MemoryFlush, NothingIsKeptOfPageTablesOutsideRam) {
  enable_paging(false);
  constexpr u32 outside = 0xF0000000;
  put(pde_at(0x400000), outside | P | W);
  const u64 context = select(kernel_mode);
  for (u32 page = 0x300; page < 0x304; ++page) {
    for (u32 i = 0; i < 4; ++i) bus.bytes[outside + i] = static_cast<u8>((page << 12 | P | W) >> (8 * i));
    EXPECT_EQ(must_read(0x400000), get32(page << 12));
    EXPECT_EQ(read_slot(context, 0x400000), 0u);
    EXPECT_EQ(memory.translate_fetch(0x400000, false, fault)->address.value, page << 12);
    EXPECT_EQ(memory.translate_fetch(0x400000, false, fault)->fetch_tag, 0u);
    memory.set_jump(0x400000, 1);
    EXPECT_EQ(jump_slot(context, 0x400000), 0u);
  }
}

TEST_F(MemoryFlush, InvlpgOfALargePageDropsAllOfIt) {
  for (bool pae_format : {false, true}) {
    enable_paging(pae_format);
    const u32 size = pae_format ? 2u << 20 : 4u << 20;
    const u64 context = select(kernel_mode);
    const u32 base = 0x800000;
    put(pde_at(base), 0x400000 | P | W | PS | G);
    put(pde_at(base + size), 0x400000 | P | W | PS | G);
    for (u32 offset = 0; offset < size; offset += 0x1F000) {
      ASSERT_TRUE(write(base + offset, 1));
      must_read(base + size + offset);
    }
    ASSERT_TRUE(memory.translate_fetch(base + 0x5000, false, fault).has_value());
    jump(base + 0x5000, 0x55);
    put(pde_at(base), 0);
    memory.flush_page(base + size - 1);
    for (u32 offset = 0; offset < size; offset += page_size) {
      ASSERT_EQ(read_slot(context, base + offset), 0u) << std::hex << offset;
      ASSERT_EQ(write_slot(context, base + offset), 0u) << std::hex << offset;
    }
    EXPECT_EQ(jump_slot(context, base + 0x5000), 0u);
    EXPECT_FALSE(memory.translate_fetch(base + 0x5000, false, fault).has_value());
    EXPECT_NE(read_slot(context, base + size), 0u);
  }
}

TEST_F(MemoryFlush, InvlpgReachesPagesOnlyFetchedFrom) {
  enable_paging(false);
  put(pde_at(0x800000), 0x400000 | P | W | PS);
  ASSERT_TRUE(memory.translate_fetch(0x803000, false, fault).has_value());
  ASSERT_TRUE(memory.translate_fetch(0xBFF000, true, fault).has_value() == false);
  put(pde_at(0x800000), 0xC00000 | P | W | PS);
  memory.flush_page(0xA00000);
  EXPECT_EQ(memory.translate_fetch(0x803004, false, fault)->address.value, 0xC03004u);
}

TEST_F(MemoryFlush, InvlpgLeavesOtherPagesAlone) {
  enable_paging(false);
  const u64 context = select(kernel_mode);
  for (u32 page = 0; page < 4; ++page) {
    map(0x400000 + page * page_size, 0x300000, W | G);
    must_read(0x400000 + page * page_size);
  }
  memory.flush_page(0x401FFF);
  EXPECT_NE(read_slot(context, 0x400000), 0u);
  EXPECT_EQ(read_slot(context, 0x401000), 0u);
  EXPECT_NE(read_slot(context, 0x402000), 0u);
}

TEST_F(MemoryFlush, PrivilegesHaveTablesOfTheirOwn) {
  enable_paging(false);
  map(0x400000, 0x300000, W);
  const u64 user = select(user_mode);
  const u64 kernel = select(kernel_mode);
  EXPECT_NE(user, kernel);
  ASSERT_TRUE(write(0x400000, 1));
  EXPECT_NE(write_slot(kernel, 0x400000), 0u);
  EXPECT_EQ(read_slot(user, 0x400000), 0u);
  // An implicit supervisor access while user code runs uses the supervisor's tables.
  EXPECT_EQ(select(user_mode), user);
  EXPECT_EQ(must_read(0x400000, 4, false), 1u);
  EXPECT_EQ(read_slot(user, 0x400000), 0u);
  u64 out;
  EXPECT_FALSE(read(0x400000, out, 4, true));
  expect_page_fault(0x400000, pf_error::present | pf_error::user);
}

TEST_F(MemoryFlush, WatchingCodeTakesWriteEntriesFromEveryContextAndAlias) {
  enable_paging(false);
  std::vector<u64> contexts;
  for (u32 page = 0; page < 3; ++page) map(0x400000 + page * page_size, 0x300000, W | U | A | D);
  map(0x403000, 0x301000, W | U | A | D);
  for (u32 i = 0; i < 6; ++i) {
    const bool user = (i & 1) != 0;
    contexts.push_back(select((user ? mode::user : mode::cpl0) | (i >= 2 ? mode::code32 : 0) | (i >= 4 ? mode::stack32 : 0)));
    for (u32 page = 0; page < 4; ++page) ASSERT_TRUE(write(0x400000 + page * page_size, i, 4, user));
  }
  memory.watch_code({0x300800});
  for (const u64 context : contexts) {
    for (u32 page = 0; page < 3; ++page) {
      EXPECT_EQ(write_slot(context, 0x400000 + page * page_size), 0u);
      EXPECT_NE(read_slot(context, 0x400000 + page * page_size), 0u);
    }
    EXPECT_NE(write_slot(context, 0x403000), 0u);
  }
  ASSERT_TRUE(write(0x401000, 9));
  EXPECT_EQ(watcher.written.size(), 1u);
  must_read(0x400000);
  memory.flush_all();
  ASSERT_TRUE(write(0x403000, 9));  // fills its neighbours too, but not the code page for writing
  for (const u64 context : contexts) EXPECT_EQ(write_slot(context, 0x402000), 0u);
  memory.unwatch_code({0x300000});
  ASSERT_TRUE(write(0x402000, 9));
  EXPECT_EQ(watcher.written.size(), 1u);
}

TEST_F(MemoryFlush, MoreModesThanContexts) {
  memory.limit_contexts(u64{1} << 30);
  constexpr u32 modes = Memory::max_contexts + 36;
  enable_paging(false);
  map(0x400000, 0x300000, W | U);
  u64 kernel = select(kernel_mode);
  ASSERT_TRUE(write(0x400000, 7));
  jump(0x400000, 1);
  std::map<u64, unsigned> bases;
  for (u32 i = 0; i < modes; ++i) {
    const bool user = i % 3 == 0;
    const u64 context = select((i << 16) | (user ? mode::user : 0));
    ++bases[context];
    EXPECT_EQ(read_slot(context, 0x400000), 0u) << i;
    EXPECT_EQ(write_slot(context, 0x400000), 0u) << i;
    EXPECT_EQ(jump_slot(context, 0x400000), 0u) << i;
    EXPECT_EQ(must_read(0x400000, 4, user), 7u);
    ASSERT_TRUE(write(0x400000, 7, 4, !user));
    jump(0x400000, i + 2);
    EXPECT_EQ(jump_slot(context, 0x400000), i + 2);
  }
  EXPECT_LE(bases.size(), u64{Memory::max_contexts});
  EXPECT_GE(memory.stats().contexts_reused, modes - Memory::max_contexts);
  EXPECT_EQ(memory.stats().contexts_released, 0u);
  kernel = select(kernel_mode);
  EXPECT_LE(jump_slot(kernel, 0x400000), 1u);  // its own, if it was not among those reused
  EXPECT_EQ(select(kernel_mode), kernel);
}

TEST_F(MemoryFlush, AContextThatChangesItsPrivilegeServesNoAccessOfTheOldOne) {
  memory.limit_contexts(u64{1} << 30);
  enable_paging(false);
  map(0x400000, 0x300000, W);  // supervisor only
  select(kernel_mode);
  must_read(0x400000);
  // More user modes than contexts: the supervisor's context may be among those that are reused.
  std::vector<u64> users;
  for (u32 i = 0; i < Memory::max_contexts; ++i) users.push_back(select(user_mode | i << 16));
  must_read(0x400000);  // an implicit supervisor access
  const u64 last = users.back();
  EXPECT_EQ(read_slot(last, 0x400000), 0u);
  for (u32 i = 1; i < Memory::max_contexts; ++i) EXPECT_EQ(read_slot(select(user_mode | i << 16), 0x400000), 0u);
  u64 out;
  EXPECT_FALSE(read(0x400000, out, 4, true));
}

TEST_F(MemoryFlush, AnImplicitSupervisorAccessDoesNotChangeTheCurrentContext) {
  const u64 user = select(user_mode);
  must_read(0x400000, 4, false);
  jump(0x400000, 9);
  EXPECT_EQ(jump_slot(user, 0x400000), 9u);
}

TEST_F(MemoryFlush, PagesFilledAheadAreFlushedAsWhatTheyAre) {
  for (bool pae_format : {false, true}) {
    for (bool pge : {false, true}) {
      enable_paging(pae_format);
      if (!pge) cpu.cr4 &= ~cr4::pge;
      memory.flush_all();
      map(0x400000, 0x300000, W | A);
      map(0x401000, 0x301000, W | A | G);
      map(0x402000, 0x302000, W | A);
      u64 context = select(kernel_mode);
      must_read(0x400000);
      EXPECT_NE(read_slot(context, 0x401000), 0u);
      for (u32 page = 0; page < 3; ++page) put(pte_at(0x400000 + page * page_size), 0);
      pge ? memory.flush_non_global() : memory.flush_global();
      context = select(kernel_mode);
      EXPECT_EQ(read_slot(context, 0x400000), 0u);
      EXPECT_EQ(read_slot(context, 0x401000), 0u);  // compared with its neighbours that are not global
      EXPECT_EQ(read_slot(context, 0x402000), 0u);
    }
  }
}

// The guest changed an entry and did not flush: either mapping may be used, but reads and writes must agree on one.
TEST_F(MemoryFlush, StaleEntriesNeverSplitReadsFromWrites) {
  enable_paging(false);
  const u64 context = select(kernel_mode);
  map(0x400000, 0x300000, W);
  map(0x401000, 0x301000, W | A);
  must_read(0x400000);
  ASSERT_NE(read_slot(context, 0x401000), 0u);
  map(0x400000, 0x310000, W);
  map(0x401000, 0x311000, W | A | D);
  ASSERT_TRUE(write(0x400000, 0x1234));
  EXPECT_EQ(must_read(0x400000), 0x1234u);
  const u64 neighbour = write_slot(context, 0x401000);
  EXPECT_TRUE(neighbour == 0 || neighbour == read_slot(context, 0x401000));
  ASSERT_TRUE(write(0x401000, 0x5678));
  EXPECT_EQ(must_read(0x401000), 0x5678u);
  // Downgraded while the write entry lives: a code page among the aliases must still find every write entry.
  map(0x401000, 0x312000, W | A | D);
  must_read(0x402000 - 4);
  memory.watch_code({0x301000});
  memory.watch_code({0x311000});
  memory.watch_code({0x312000});
  EXPECT_EQ(write_slot(context, 0x401000), 0u);
}

TEST_F(MemoryFlush, JumpSlotsGoWithTheirPage) {
  const u64 kernel = select(kernel_mode);
  jump(0x401000, 10);
  jump(0x401FFF, 11);
  jump(0x402000, 12);
  const u32 next = 0x401;
  jump(0x400FFF, 13, std::span(&next, 1));
  jump(0x403000, 15);
  jump(0x3FFFFF, 14);
  const u64 user = select(user_mode);
  jump(0x401080, 20);
  memory.flush_page(0x401234);
  EXPECT_EQ(jump_slot(kernel, 0x401000), 0u);
  EXPECT_EQ(jump_slot(kernel, 0x401FFF), 0u);
  EXPECT_EQ(jump_slot(kernel, 0x400FFF), 0u);  // its block reaches into the page
  EXPECT_EQ(jump_slot(kernel, 0x403000), 15u);
  EXPECT_EQ(jump_slot(kernel, 0x402000), 12u);
  EXPECT_EQ(jump_slot(kernel, 0x3FFFFF), 14u);
  EXPECT_EQ(jump_slot(user, 0x401080), 0u);
  jump(0, 30);
  const u32 zero = 0;
  jump(0xFFFFFFFF, 31, std::span(&zero, 1));
  EXPECT_EQ(jump_slot(user, 0xFFFFFFFF), 31u);
  memory.flush_page(0);
  EXPECT_EQ(jump_slot(user, 0), 0u);
  EXPECT_EQ(jump_slot(user, 0xFFFFFFFF), 0u);
}

TEST_F(MemoryFlush, JumpSlotsAreClearedOneByOneAndAllAtOnce) {
  const u64 kernel = select(kernel_mode);
  const u64 user = select(user_mode);
  for (u32 round = 0; round < 3; ++round) {
    for (const u32 mode_bits : {kernel_mode, user_mode}) {
      select(mode_bits);
      for (u32 i = 0; i < 100; ++i) jump(0x400000 + i * 97, i + 1);
      jump(0x400000, 500);  // again: a slot may change
    }
    memory.clear_jump(0x400000 + 97);
    memory.clear_jump(0x500000);
    for (const u64 context : {kernel, user}) {
      EXPECT_EQ(jump_slot(context, 0x400000), 500u);
      EXPECT_EQ(jump_slot(context, 0x400000 + 97), 0u);
      EXPECT_EQ(jump_slot(context, 0x400000 + 2 * 97), 3u);
    }
    jump(0x400000 + 97, 2);
    memory.clear_all_jumps();
    for (const u64 context : {kernel, user})
      for (u32 i = 0; i < 100; ++i) EXPECT_EQ(jump_slot(context, 0x400000 + i * 97), 0u);
  }
}

// A guest that spreads its code thinly makes every slot touch a host page of its own: the table must not keep them all.
TEST_F(MemoryFlush, JumpTableMemoryIsBounded) {
  const u64 context = select(kernel_mode);
  constexpr u32 step = 65536, count = 65536;
  const auto slot_address = [](u32 i) { return i * step; };
  u64 alive = 0;
  for (u32 i = 0; i < count; ++i) jump(slot_address(i), 7);
  for (u32 i = 0; i < count; ++i) alive += jump_slot(context, slot_address(i)) == 7;
  EXPECT_GT(alive, 0u);
  EXPECT_LE(alive * 4096, u64{64} << 20);
  memory.clear_all_jumps();
  for (u32 i = 0; i < count; ++i) ASSERT_EQ(jump_slot(context, slot_address(i)), 0u);
}

TEST_F(MemoryFlush, StatsCountWalksAndFlushes) {
  memory.limit_contexts(u64{1} << 30);
  enable_paging(false);
  const MemoryStats before = memory.stats();
  map(0x400000, 0x300000, W);
  map(0x401000, 0x301000, W | A);
  must_read(0x400000);
  must_read(0x401000);  // filled ahead
  must_read(0x400004);
  ASSERT_TRUE(memory.translate_fetch(0x400000, false, fault).has_value());
  ASSERT_TRUE(memory.translate_fetch(0x400004, false, fault).has_value());
  u64 out;
  EXPECT_FALSE(read(0x402000, out));
  memory.flush_page(0);
  memory.flush_non_global();
  memory.flush_non_global();
  const MemoryStats after = memory.stats();
  EXPECT_EQ(after.data_walks - before.data_walks, 2u);
  EXPECT_EQ(after.fetch_walks - before.fetch_walks, 1u);
  EXPECT_EQ(after.page_faults - before.page_faults, 1u);
  EXPECT_EQ(after.pages_filled - before.pages_filled, 2u);
  EXPECT_EQ(after.mode_flushes - before.mode_flushes, 0u);
  EXPECT_EQ(after.address_flushes - before.address_flushes, 2u);
  EXPECT_EQ(after.page_flushes - before.page_flushes, 1u);
  for (u32 i = 0; i < Memory::max_contexts + 3; ++i) {
    select(i << 16);
    must_read(0x400000);
  }
  EXPECT_EQ(memory.stats().contexts_reused - before.contexts_reused, 3u);
}

TEST_F(MemoryFlush, FetchTlbForgetsWithEveryFlush) {
  enable_paging(false);
  const auto fetched = [&](u32 linear) { return memory.translate_fetch(linear, false, fault)->address.value; };
  map(0x400000, 0x300000, W | G, 0x20000);
  map(0x800000, 0x301000, W, 0x21000);
  EXPECT_EQ(fetched(0x400000), 0x300000u);
  EXPECT_EQ(fetched(0x800000), 0x301000u);
  put(pte_at(0x400000, 0x20000), 0x310000 | P);
  put(pte_at(0x800000, 0x21000), 0x311000 | P);
  memory.flush_non_global();
  EXPECT_EQ(fetched(0x800000), 0x311000u);
  memory.flush_page(0x400000);
  EXPECT_EQ(fetched(0x400000), 0x310000u);
  put(pte_at(0x400000, 0x20000), 0x320000 | P | G);
  memory.flush_all();
  EXPECT_EQ(fetched(0x400000), 0x320000u);
  // CPL 3 does not get what CPL 0 fetched.
  EXPECT_FALSE(memory.translate_fetch(0x400000, true, fault).has_value());
  EXPECT_EQ(get(pte_at(0x400000, 0x20000)) & (A | D), A);
}

}  // namespace
}  // namespace ring3::test
