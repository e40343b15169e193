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
  const u64 context = memory.select_context(kernel_mode);
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
  const u64 context = memory.select_context(kernel_mode);
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
  const u64 context = memory.select_context(kernel_mode);
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

TEST_F(MemoryFlush, GlobalPagesSurviveNonGlobalFlushes) {
  for (bool pge : {true, false}) {
    enable_paging(false);
    if (!pge) cpu.cr4 &= ~cr4::pge;
    memory.flush_all();
    map(0x400000, 0x300000, W | G, 0x20000);
    map(0x800000, 0x301000, W, 0x21000);
    const u64 context = memory.select_context(kernel_mode);
    ASSERT_TRUE(write(0x400000, 1));
    ASSERT_TRUE(write(0x800000, 2));
    memory.set_jump(0x400010, 0x40, memory.translate_fetch(0x400010, false, fault)->global);
    memory.set_jump(0x800010, 0x80, memory.translate_fetch(0x800010, false, fault)->global);
    memory.flush_non_global();
    EXPECT_EQ(read_slot(context, 0x400000) != 0, pge);
    EXPECT_EQ(write_slot(context, 0x400000) != 0, pge);
    EXPECT_EQ(jump_slot(context, 0x400010), pge ? 0x40u : 0u);
    EXPECT_EQ(read_slot(context, 0x800000), 0u);
    EXPECT_EQ(write_slot(context, 0x800000), 0u);
    EXPECT_EQ(jump_slot(context, 0x800010), 0u);
    memory.flush_all();
    EXPECT_EQ(read_slot(context, 0x400000), 0u);
    EXPECT_EQ(jump_slot(context, 0x400010), 0u);
  }
  EXPECT_EQ(watcher.flushes.back(), false);
}

TEST_F(MemoryFlush, APageThatLosesItsGlobalBitIsFlushedAsNonGlobal) {
  enable_paging(false);
  map(0x400000, 0x300000, W | G);
  const u64 context = memory.select_context(kernel_mode);
  must_read(0x400000);
  put(pte_at(0x400000), 0x301000 | P | W);
  memory.flush_page(0x400000);
  must_read(0x400000);
  ASSERT_NE(read_slot(context, 0x400000), 0u);
  memory.flush_non_global();
  EXPECT_EQ(read_slot(context, 0x400000), 0u);
}

TEST_F(MemoryFlush, InvlpgOfALargePageDropsAllOfIt) {
  for (bool pae_format : {false, true}) {
    enable_paging(pae_format);
    const u32 size = pae_format ? 2u << 20 : 4u << 20;
    const u64 context = memory.select_context(kernel_mode);
    const u32 base = 0x800000;
    put(pde_at(base), 0x400000 | P | W | PS | G);
    put(pde_at(base + size), 0x400000 | P | W | PS | G);
    for (u32 offset = 0; offset < size; offset += 0x1F000) {
      ASSERT_TRUE(write(base + offset, 1));
      must_read(base + size + offset);
    }
    ASSERT_TRUE(memory.translate_fetch(base + 0x5000, false, fault).has_value());
    memory.set_jump(base + 0x5000, 0x55, true);
    put(pde_at(base), 0);
    memory.flush_page(base + size - 1);
    for (u32 offset = 0; offset < size; offset += page_size) {
      ASSERT_EQ(read_slot(context, base + offset), 0u) << std::hex << offset;
      ASSERT_EQ(write_slot(context, base + offset), 0u) << std::hex << offset;
    }
    EXPECT_EQ(jump_slot(context, base + 0x5000), 0u);
    EXPECT_FALSE(memory.translate_fetch(base + 0x5000, false, fault).has_value());
    EXPECT_NE(read_slot(context, base + size), 0u);
    EXPECT_EQ(watcher.unmapped.size(), size / page_size);
    EXPECT_EQ(watcher.unmapped.front(), base >> page_shift);
    watcher.unmapped.clear();
    memory.flush_page(base);
    EXPECT_EQ(watcher.unmapped.size(), 1u);  // nothing large is left there
    watcher.unmapped.clear();
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
  const u64 context = memory.select_context(kernel_mode);
  for (u32 page = 0; page < 4; ++page) {
    map(0x400000 + page * page_size, 0x300000, W | G);
    must_read(0x400000 + page * page_size);
  }
  memory.flush_page(0x401FFF);
  EXPECT_NE(read_slot(context, 0x400000), 0u);
  EXPECT_EQ(read_slot(context, 0x401000), 0u);
  EXPECT_NE(read_slot(context, 0x402000), 0u);
  EXPECT_EQ(watcher.unmapped, std::vector<u32>{0x401});
}

TEST_F(MemoryFlush, PrivilegesHaveTablesOfTheirOwn) {
  enable_paging(false);
  map(0x400000, 0x300000, W);
  const u64 user = memory.select_context(user_mode);
  const u64 kernel = memory.select_context(kernel_mode);
  EXPECT_NE(user, kernel);
  ASSERT_TRUE(write(0x400000, 1));
  EXPECT_NE(write_slot(kernel, 0x400000), 0u);
  EXPECT_EQ(read_slot(user, 0x400000), 0u);
  // An implicit supervisor access while user code runs uses the supervisor's tables.
  EXPECT_EQ(memory.select_context(user_mode), user);
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
    contexts.push_back(
        memory.select_context((user ? mode::user : mode::cpl0) | (i >= 2 ? mode::code32 : 0) | (i >= 4 ? mode::stack32 : 0)));
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
  enable_paging(false);
  map(0x400000, 0x300000, W | U);
  u64 kernel = memory.select_context(kernel_mode);
  ASSERT_TRUE(write(0x400000, 7));
  memory.set_jump(0x400000, 1, true);
  std::map<u64, unsigned> bases;
  for (u32 i = 0; i < 40; ++i) {
    const bool user = i % 3 == 0;
    const u64 context = memory.select_context((i << 16) | (user ? mode::user : 0));
    ++bases[context];
    EXPECT_EQ(read_slot(context, 0x400000), 0u) << i;
    EXPECT_EQ(write_slot(context, 0x400000), 0u) << i;
    EXPECT_EQ(jump_slot(context, 0x400000), 0u) << i;
    EXPECT_EQ(must_read(0x400000, 4, user), 7u);
    ASSERT_TRUE(write(0x400000, 7, 4, !user));
    memory.set_jump(0x400000, i + 2, (i & 1) != 0);
    EXPECT_EQ(jump_slot(context, 0x400000), i + 2);
  }
  EXPECT_LE(bases.size(), u64{Memory::max_contexts});
  kernel = memory.select_context(kernel_mode);
  EXPECT_EQ(jump_slot(kernel, 0x400000), 0u);
  EXPECT_EQ(memory.select_context(kernel_mode), kernel);
}

TEST_F(MemoryFlush, AContextThatChangesItsPrivilegeServesNoAccessOfTheOldOne) {
  enable_paging(false);
  map(0x400000, 0x300000, W);  // supervisor only
  memory.select_context(kernel_mode);
  must_read(0x400000);
  // More user modes than contexts: the supervisor's context is among those that are reused.
  std::vector<u64> users;
  for (u32 i = 0; i < Memory::max_contexts; ++i) users.push_back(memory.select_context(user_mode | i << 16));
  must_read(0x400000);  // an implicit supervisor access
  const u64 last = users.back();
  EXPECT_EQ(read_slot(last, 0x400000), 0u);
  for (u32 i = 1; i < Memory::max_contexts; ++i) EXPECT_EQ(read_slot(memory.select_context(user_mode | i << 16), 0x400000), 0u);
  u64 out;
  EXPECT_FALSE(read(0x400000, out, 4, true));
}

TEST_F(MemoryFlush, AnImplicitSupervisorAccessDoesNotChangeTheCurrentContext) {
  const u64 user = memory.select_context(user_mode);
  must_read(0x400000, 4, false);
  memory.set_jump(0x400000, 9, true);
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
      const u64 context = memory.select_context(kernel_mode);
      must_read(0x400000);
      EXPECT_NE(read_slot(context, 0x401000), 0u);
      memory.flush_non_global();
      EXPECT_EQ(read_slot(context, 0x400000), 0u);
      EXPECT_EQ(read_slot(context, 0x401000) != 0, pge);
      EXPECT_EQ(read_slot(context, 0x402000), 0u);
    }
  }
}

// The guest changed an entry and did not flush: either mapping may be used, but reads and writes must agree on one.
TEST_F(MemoryFlush, StaleEntriesNeverSplitReadsFromWrites) {
  enable_paging(false);
  const u64 context = memory.select_context(kernel_mode);
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
  const u64 kernel = memory.select_context(kernel_mode);
  memory.set_jump(0x401000, 10, true);
  memory.set_jump(0x401FFF, 11, false);
  memory.set_jump(0x402000, 12, true);
  memory.set_jump(0x400FFF, 13, true);
  memory.set_jump(0x3FFFFF, 14, true);
  const u64 user = memory.select_context(user_mode);
  memory.set_jump(0x401080, 20, false);
  memory.flush_page(0x401234);
  EXPECT_EQ(jump_slot(kernel, 0x401000), 0u);
  EXPECT_EQ(jump_slot(kernel, 0x401FFF), 0u);
  EXPECT_EQ(jump_slot(kernel, 0x400FFF), 0u);  // its last instruction may have reached into the page
  EXPECT_EQ(jump_slot(kernel, 0x402000), 12u);
  EXPECT_EQ(jump_slot(kernel, 0x3FFFFF), 14u);
  EXPECT_EQ(jump_slot(user, 0x401080), 0u);
  memory.set_jump(0, 30, true);
  memory.set_jump(0xFFFFFFFF, 31, true);
  EXPECT_EQ(jump_slot(user, 0xFFFFFFFF), 31u);
  memory.flush_page(0);
  EXPECT_EQ(jump_slot(user, 0), 0u);
  EXPECT_EQ(jump_slot(user, 0xFFFFFFFF), 0u);
}

TEST_F(MemoryFlush, JumpSlotsAreClearedOneByOneAndAllAtOnce) {
  const u64 kernel = memory.select_context(kernel_mode);
  const u64 user = memory.select_context(user_mode);
  for (u32 round = 0; round < 3; ++round) {
    for (const u32 mode_bits : {kernel_mode, user_mode}) {
      memory.select_context(mode_bits);
      for (u32 i = 0; i < 100; ++i) memory.set_jump(0x400000 + i * 97, i + 1, i % 2 == 0);
      memory.set_jump(0x400000, 500, true);  // again: a slot may change
    }
    memory.clear_jump(0x400000 + 97);
    memory.clear_jump(0x500000);
    for (const u64 context : {kernel, user}) {
      EXPECT_EQ(jump_slot(context, 0x400000), 500u);
      EXPECT_EQ(jump_slot(context, 0x400000 + 97), 0u);
      EXPECT_EQ(jump_slot(context, 0x400000 + 2 * 97), 3u);
    }
    memory.set_jump(0x400000 + 97, 2, true);
    memory.clear_all_jumps();
    for (const u64 context : {kernel, user})
      for (u32 i = 0; i < 100; ++i) EXPECT_EQ(jump_slot(context, 0x400000 + i * 97), 0u);
  }
}

// A guest that spreads its code thinly makes every slot touch a host page of its own: the table must not keep them all.
TEST_F(MemoryFlush, JumpTableMemoryIsBounded) {
  const u64 context = memory.select_context(kernel_mode);
  constexpr u32 step = 65536, count = 65536;
  const auto slot_address = [](u32 i) { return i * step; };
  u64 alive = 0;
  for (u32 i = 0; i < count; ++i) memory.set_jump(slot_address(i), 7, true);
  for (u32 i = 0; i < count; ++i) alive += jump_slot(context, slot_address(i)) == 7;
  EXPECT_GT(alive, 0u);
  EXPECT_LE(alive * 4096, u64{64} << 20);
  memory.clear_all_jumps();
  for (u32 i = 0; i < count; ++i) ASSERT_EQ(jump_slot(context, slot_address(i)), 0u);
}

TEST_F(MemoryFlush, StatsCountWalksAndFlushes) {
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
  EXPECT_EQ(after.full_flushes - before.full_flushes, 0u);
  EXPECT_EQ(after.address_flushes - before.address_flushes, 2u);
  EXPECT_EQ(after.page_flushes - before.page_flushes, 1u);
  for (u32 i = 0; i < Memory::max_contexts + 3; ++i) memory.select_context(i << 16);
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
  EXPECT_TRUE(memory.translate_fetch(0x400000, false, fault)->global);
  // CPL 3 does not get what CPL 0 fetched.
  EXPECT_FALSE(memory.translate_fetch(0x400000, true, fault).has_value());
  EXPECT_EQ(get(pte_at(0x400000, 0x20000)) & (A | D), A);
}

}  // namespace
}  // namespace ring3::test
