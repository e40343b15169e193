// How many contexts there are, which one serves an address space, and what they may hold together.
#include "memory_fixture.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

#include "base/sanitizer.h"

namespace ring3::test {
namespace {

constexpr u32 kernel_mode = mode::code32 | mode::cpl0;
constexpr u32 user_mode = mode::code32 | mode::user;
constexpr u64 everything = u64{1} << 40;

class MemoryContexts : public MemoryTest {
 protected:
  static constexpr u32 first_directory = 0x100000;
  static constexpr u32 at = 0x400000;  // what every space maps, for kernel and user

  // A space of its own: a directory and a page table, one page behind the other.
  static u32 directory_of(u32 space) { return first_directory + space * 2 * page_size; }
  void make_space(u32 space) {
    directory = directory_of(space);
    for (u32 i = 0; i < 8; ++i) map(at + i * page_size, 0x800000 + i * page_size, W | U | A | D, directory + page_size);
  }
  static u32 pde_at_in(u32 space, u32 slot) { return directory_of(space) + slot * 4; }
  // As a kernel does it when a process ends.
  void end_space(u32 space) {
    for (u32 i = 0; i < page_size; i += 4) put32(directory_of(space) + i, 0);
  }
  void load_space(u32 space) {
    cpu.cr3 = directory_of(space);
    memory.flush_non_global();
  }
  // Runs a program of this space for a moment.
  u64 run(u32 space) {
    load_space(space);
    const u64 context = select(user_mode);
    EXPECT_TRUE(write(at, space, 4, true));
    return context;
  }
  [[nodiscard]] u64 walks() const { return memory.stats().data_walks; }
  // What the process takes of the host, page tables included.
  static u64 resident() {
    std::ifstream status("/proc/self/status");
    u64 result = 0;
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("RssAnon:") || line.starts_with("VmPTE:")) result += std::stoull(line.substr(line.find(':') + 1)) * 1024;
    return result;
  }
};

TEST_F(MemoryContexts, ManySpacesKeepTheirTables) {
  memory.limit_contexts(everything);
  enable_paging(false);
  constexpr u32 count = 300;
  for (u32 i = 0; i < count; ++i) make_space(i);
  std::set<u64> contexts;
  for (u32 i = 0; i < count; ++i) contexts.insert(run(i));
  EXPECT_EQ(contexts.size(), count);
  const u64 before = walks();
  for (u32 i = 0; i < count; ++i) contexts.insert(run(i));
  EXPECT_EQ(walks(), before);
  EXPECT_EQ(contexts.size(), count);
}

TEST_F(MemoryContexts, OfSpacesThatEndedContextsAreUsedAgain) {
  memory.limit_contexts(everything);
  enable_paging(false);
  constexpr u32 living = 40, rounds = 600;
  for (u32 i = 0; i < living; ++i) make_space(i);
  for (u32 i = 0; i < living; ++i) run(i);
  // Each of these lives for as long as others run in between.
  for (u32 i = 0; i < rounds; ++i) {
    make_space(living + i);
    run(living + i);
    run(i % living);
    end_space(living + i);
  }
  // About an eighth of all may be gone and not found yet, and as many found and not used yet.
  EXPECT_LE(memory.stats().contexts_made, living + living * 2 / 5);
  const u64 before = walks();
  for (u32 i = 0; i < living; ++i) run(i);
  EXPECT_EQ(walks(), before);  // no living one lost its tables for them
}

TEST_F(MemoryContexts, BeyondTheLimitTheyAreGivenBack) {
  enable_paging(false);
  constexpr u32 count = 200;
  for (u32 i = 0; i < count; ++i) make_space(i);
  run(0);
  memory.limit_contexts(1u << 20);
  const u64 before = resident();
  for (u32 round = 0; round < 3; ++round) {
    for (u32 i = 0; i < count; ++i) {
      load_space(i);
      select(user_mode);
      // In 32 regions: three host pages for each.
      for (u32 region = 0; region < 32; ++region) {
        put(pde_at_in(i, region), get(directory_of(i) + (at >> 22) * 4));
        must_read(region << 22 | (at & 0x3FFFFF), 4, true);
      }
    }
  }
  EXPECT_GT(memory.stats().contexts_released, count);
  // The limit, two that are at work, and what the heap of the test takes; AddressSanitizer keeps what was freed there. All of them together
  // would take 75 MiB.
  EXPECT_LE(resident(), before + ((address_sanitizer ? 24u : 6u) << 20));
}

// The window at host address 0 is one program's, as long as it works; a kernel has it while no program runs.
class LowWindow : public MemoryContexts {
 protected:
  static constexpr u32 often = 10'000;

  void SetUp() override {
    memory.limit_contexts(everything);
    enable_paging(false);
    memory.set_windows(1, true);
    for (u32 i = 0; i < 2; ++i) make_space(i);
    run(0);
    memory.met_at_work();
    ASSERT_TRUE(memory.window_open());
    if (!memory.window_low()) GTEST_SKIP() << "something of this process lies in the lowest 4 GiB";
  }
  // Until the current context has it.
  u32 meetings() {
    u32 met = 0;
    for (; !memory.window_low() && met < often; ++met) memory.met_at_work();
    return met;
  }
};

TEST_F(LowWindow, GoesFromProgramToProgram) {
  run(1);
  memory.met_at_work();
  EXPECT_TRUE(memory.window_open()) << "of its own, as the other one was at work just now";
  EXPECT_FALSE(memory.window_low());
  const u64 own = memory.window_base();
  run(0);
  EXPECT_TRUE(memory.window_low());
  EXPECT_NE(memory.window_base(), own);
  memory.met_at_work();
  run(1);
  const u32 met = meetings();
  EXPECT_GT(met, 10u);
  EXPECT_LT(met, 100u);
  EXPECT_EQ(memory.window_base(), 0u);
  EXPECT_TRUE(memory.map_window(at, true));
  run(0);
  EXPECT_FALSE(memory.window_open()) << "what it had is the other one's now";
  memory.met_at_work();
  EXPECT_TRUE(memory.window_open());
  EXPECT_FALSE(memory.window_low());
  EXPECT_EQ(memory.stats().windows_low, 2u);
}

TEST_F(LowWindow, IsAKernelsWhileNoProgramRuns) {
  end_space(0);
  load_space(1);
  select(kernel_mode);
  memory.met_at_work();
  EXPECT_FALSE(memory.window_low()) << "the program had it just now";
  for (u32 i = 0; i < often; ++i) memory.met_at_work();
  EXPECT_FALSE(memory.window_low()) << "it is still there";
  // Its context is used for another process, without a window.
  memory.flush_all();
  run(1);
  select(kernel_mode);
  EXPECT_LT(meetings(), often);
  run(1);
  memory.met_at_work();
  EXPECT_TRUE(memory.window_low()) << "it asks, and a program comes first";
}

TEST_F(MemoryContexts, WhatIsAtWorkIsNotGivenBack) {
  memory.limit_contexts(0);
  enable_paging(false);
  for (u32 i = 0; i < 2; ++i) make_space(i);
  load_space(0);
  const u64 kernel = select(kernel_mode);
  must_read(at);
  jump(at, 5);
  const u64 user = select(user_mode);
  must_read(at, 4, true);
  jump(at, 6);
  for (u32 i = 0; i < 100; ++i) {
    EXPECT_EQ(select(kernel_mode), kernel);
    EXPECT_EQ(select(user_mode), user);
  }
  EXPECT_EQ(jump_slot(kernel, at), 5u);
  EXPECT_EQ(jump_slot(user, at), 6u);
  EXPECT_NE(read_slot(kernel, at), 0u);
  EXPECT_EQ(memory.stats().contexts_released, 0u);
  // Another mode of the user's: nothing is kept for later, so it gets what the one before had.
  EXPECT_EQ(read_slot(select(user_mode | 1u << 16), at), 0u);
  EXPECT_EQ(select(kernel_mode), kernel);
  EXPECT_EQ(jump_slot(kernel, at), 5u);
  EXPECT_EQ(memory.stats().contexts_made, 2u);
  EXPECT_EQ(memory.stats().contexts_reused, 1u);
}

// What a given-back context held is held by nobody: neither the list of write entries of a page nor INVLPG may lead to it.
TEST_F(MemoryContexts, NothingLeadsToOneThatWasGivenBack) {
  enable_paging(false);
  constexpr u32 count = 20;
  for (u32 i = 0; i < count; ++i) make_space(i);
  for (u32 i = 0; i < count; ++i) run(i);
  memory.limit_contexts(0);
  run(0);
  EXPECT_GE(memory.stats().contexts_released, count - 2);
  memory.watch_code({0x800000});
  memory.flush_page(at);
  memory.clear_jump(at);
  memory.clear_all_jumps();
  for (u32 i = 0; i < count; ++i) {
    const u64 context = run(i);
    EXPECT_EQ(write_slot(context, at), 0u);
  }
  EXPECT_EQ(watcher.written.size(), count);
}

TEST_F(MemoryContexts, InvlpgOfAnotherSpaceLeavesWhatStillHolds) {
  memory.limit_contexts(everything);
  enable_paging(false);
  for (u32 i = 0; i < 2; ++i) make_space(i);
  run(0);
  run(1);
  const u64 before = walks();
  memory.flush_page(at);
  run(0);
  EXPECT_EQ(walks(), before);
  run(1);
  EXPECT_EQ(walks(), before + 1);
  // One that does not hold any more is dropped when its space comes back.
  load_space(1);
  put(pte_at(at, directory_of(0) + page_size), 0x900000 | P | W | U);
  memory.flush_page(at);
  run(0);
  EXPECT_EQ(must_read(at, 4, true), 0u);
  EXPECT_EQ(get32(0x900000), 0u);
}

TEST_F(MemoryContexts, InvlpgReachesGlobalPagesOfEverySpace) {
  memory.limit_contexts(everything);
  enable_paging(false);
  for (u32 i = 0; i < 2; ++i) {
    make_space(i);
    put(pde_at_in(i, 64), directory_of(2) | P | W | U | A);
  }
  const u32 shared = 64u << 22;
  put(pte_at(shared, directory_of(2)), 0x800000 | P | W | U | A | D | G);
  for (u32 i = 0; i < 2; ++i) {
    load_space(i);
    select(user_mode);
    must_read(shared, 4, true);
  }
  put(pte_at(shared, directory_of(2)), 0x801000 | P | W | U | A | D | G);
  put32(0x801000, 77);
  memory.flush_page(shared);
  for (const u32 i : {1u, 0u}) {
    load_space(i);
    select(user_mode);
    EXPECT_EQ(must_read(shared, 4, true), 77u) << i;
  }
}

}  // namespace
}  // namespace ring3::test
