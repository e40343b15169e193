// Install, link, kill and look up in random order; the cache's own invariants and a plain list judge.
#include "codecache/code_cache.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <utility>
#include <vector>

namespace ring3 {
namespace {

class CodeCacheTest : public testing::Test {
 protected:
  CodeCacheTest() : region_(u64{1} << 20), cache_(region_) {}

  // A block of three instructions, four bytes each, with one direct exit and an interpret site at its second instruction.
  Block& install(u64 physical, u32 host_size = 200, u64 second_page = 0, u32 mode = mode::code32, u32 cs_limit = 0xFFFFFFFF) {
    GuestBlock guest;
    guest.key = {physical, static_cast<u32>(physical) + 0xC0000000, mode, 0, cs_limit};
    guest.length = 12;
    guest.crosses_page = second_page != 0;
    TranslatedBlock translated;
    translated.code.resize(host_size);
    translated.points = {{0, 0}, {40, 4}, {40, 8}, {90, 12}};
    translated.exits = {{100, 140, 150, static_cast<u32>(physical) + 0xC0000040}, {110, 160, 0, 0}};
    translated.interpret_sites = {{42, 1}};
    if (host_size >= 200) translated.addresses = {172, 190};
    return cache_.install(guest, second_page, translated, nullptr);
  }
  [[nodiscard]] u32 word(u32 offset) const {
    u32 value = 0;
    std::memcpy(&value, region_.code() + offset, sizeof value);
    return value;
  }

  CodeRegion region_;
  CodeCache cache_;
};

TEST_F(CodeCacheTest, NumbersAndDisplacementsAreFilledIn) {
  install(0x1000);
  Block& block = install(0x2000);
  ASSERT_EQ(block.exit_count, 1);  // the other one leads out of the page
  EXPECT_EQ(word(block.host_offset + 150), block.first_exit);
  EXPECT_EQ(word(block.host_offset + 100), 140u - 104u);
  EXPECT_EQ(word(block.host_offset + 110), 160u - 114u);
  const CodeCache::Site site = cache_.interpret_site(word(block.host_offset + 42));
  EXPECT_EQ(site.block, &block);
  EXPECT_EQ(site.point, 1u);
}

TEST_F(CodeCacheTest, HostAddresses) {
  std::vector<Block*> blocks;
  for (u32 i = 0; i < 300; ++i) blocks.push_back(&install(0x1000 + i * 16, i % 7 == 0 ? 3000 : 16 + i % 200));
  const auto at = [&](const Block& block, u32 inside) { return cache_.find_host(cache_.base() + block.host_offset + inside); };
  for (Block* block : blocks) {
    EXPECT_EQ(at(*block, 0).block, block);
    EXPECT_EQ(at(*block, 0).point, 0u);
    EXPECT_EQ(at(*block, block->host_size - 1).block, block);
  }
  EXPECT_EQ(at(*blocks[0], 39).point, 0u);
  EXPECT_EQ(at(*blocks[0], 40).point, 2u);  // the one before has no host code
  EXPECT_EQ(at(*blocks[0], 2999).point, 3u);
  EXPECT_EQ(at(*blocks[0], 3000).block, nullptr);  // padding
  EXPECT_EQ(cache_.find_host(cache_.base() + cache_.stubs().end - 1).block, nullptr);
  EXPECT_EQ(cache_.find_host(cache_.base() + cache_.next_offset() + 4096).block, nullptr);
  EXPECT_EQ(cache_.find_host(cache_.base() - 1).block, nullptr);
}

TEST_F(CodeCacheTest, WritesKillWhatTheyTouch) {
  Block& crossing = install(0x1FF8, 200, 0x5000);
  Block& plain = install(0x5010);
  EXPECT_EQ(cache_.second_page(crossing), 0x5000u);
  EXPECT_FALSE(cache_.invalidate({0x5004}, 4));
  EXPECT_TRUE(crossing.valid);
  EXPECT_FALSE(cache_.invalidate({0x5003}, 1));
  EXPECT_FALSE(crossing.valid);
  EXPECT_FALSE(cache_.has_blocks({0x1000}));
  EXPECT_TRUE(cache_.invalidate({0x5000}, 4096));
  EXPECT_FALSE(plain.valid);
  cache_.check_invariants();
}

// What a page's list says after any change: each valid block of the page that lies in it alone, and no other. `check` is asked more than
// once between changes too, as the list is kept from the second time on.
TEST_F(CodeCacheTest, SlotsOfAPageFollowItsBlocks) {
  std::mt19937 random(11);
  std::vector<Block*> blocks;
  const auto check = [&](u64 page) {
    std::set<std::pair<u32, u32>> expected, found;
    for (const Block* block : blocks) {
      if (block->valid && !block->crosses_page && block->key.physical >> page_shift == page >> page_shift)
        expected.emplace(block->key.linear, cache_.way_in(*block));
    }
    for (const Block* block : blocks) {
      if (!block->valid || block->key.physical >> page_shift != page >> page_shift) continue;
      found.clear();
      for (const PageSlots::Slot& slot : cache_.slots_beside(*block)) found.emplace(slot.linear, slot.offset);
      ASSERT_EQ(found, expected);
    }
  };
  for (int i = 0; i < 3000; ++i) {
    const u64 page = 0x1000 + random() % 3 * page_size;
    const u64 physical = page + random() % 256 * 16;
    switch (random() % 4) {
      case 0:
      case 1: {
        const BlockKey key{physical, static_cast<u32>(physical) + 0xC0000000, mode::code32, 0, 0xFFFFFFFF};
        if (cache_.find(key) != nullptr) break;
        if (!cache_.has_room(200)) {
          cache_.flush();
          blocks.clear();
        }
        blocks.push_back(&install(physical, 200, (physical & page_mask) == 0xFF0 ? page + page_size : 0));
        break;
      }
      case 2: cache_.invalidate({physical}, 1 + random() % 4); break;
      default: ASSERT_NO_FATAL_FAILURE(check(page)) << i;
    }
  }
}

// All blocks of a page for a mode go to its new linear address, with links, targets and the addresses in their code.
TEST_F(CodeCacheTest, MovedPage) {
  Block& from = install(0x2000);
  Block& to = install(0x2040);
  Block& crossing = install(0x2FF8, 200, 0x5000);
  Block& other_mode = install(0x2080, 200, 0, mode::code32 | mode::user);
  Block& other_page = install(0x3000);
  cache_.link(from.first_exit, to);
  BlockKey key = from.key;
  key.linear = 0x40002000;
  const u32 distance = key.linear - from.key.linear;
  const u64 generation = cache_.generation();
  cache_.move_page(from, key);

  EXPECT_NE(cache_.generation(), generation);
  EXPECT_FALSE(crossing.valid);
  EXPECT_EQ(cache_.counters().moved, 2u);
  EXPECT_EQ(cache_.find(key), &from);
  EXPECT_EQ(to.key.linear, 0x40002040u);
  EXPECT_EQ(cache_.find(to.key), &to);
  EXPECT_EQ(other_mode.key.linear, 0xC0002080u);
  EXPECT_EQ(other_page.key.linear, 0xC0003000u);
  BlockKey old = key;
  old.linear = 0xC0002000;
  EXPECT_EQ(cache_.find(old), nullptr);
  EXPECT_EQ(cache_.exit(from.first_exit).target, 0x40002040u);
  EXPECT_EQ(word(from.host_offset + 100), to.host_offset - (from.host_offset + 104));
  for (const u32 at : {172, 190}) {
    EXPECT_EQ(word(from.host_offset + at), distance);
    EXPECT_EQ(word(to.host_offset + at), distance);
    EXPECT_EQ(word(other_mode.host_offset + at), 0u);
  }
  cache_.check_invariants();
  EXPECT_FALSE(cache_.invalidate({0x2040}, 1));
  EXPECT_FALSE(to.valid);
  EXPECT_TRUE(from.valid);
  EXPECT_EQ(word(from.host_offset + 100), 140u - 104u);
  cache_.check_invariants();
}

// Where a jump could lead around the end of linear space or over a limit, blocks die instead.
TEST_F(CodeCacheTest, PagesThatDoNotMove) {
  for (const u32 linear : {0x0FFFF000u, 0xF0000000u}) {
    Block& block = install(0x2000);
    BlockKey key = block.key;
    key.linear = linear;
    cache_.move_page(block, key);
    EXPECT_FALSE(block.valid);
    EXPECT_EQ(cache_.find(key), nullptr);
    cache_.check_invariants();
  }
  Block& limited = install(0x2000, 200, 0, mode::code32, 0xD0000000);
  EXPECT_FALSE(limited.movable);
  BlockKey key = limited.key;
  key.linear = 0x40002000;
  cache_.move_page(limited, key);
  EXPECT_FALSE(limited.valid);
  EXPECT_EQ(cache_.counters().moved, 0u);
}

TEST_F(CodeCacheTest, RandomLinksAndKills) {
  std::mt19937 random(7);
  std::vector<Block*> blocks;
  for (int i = 0; i < 3000; ++i) {
    switch (random() % 4) {
      case 0:
      case 1: {
        const u64 physical = 0x1000 + random() % 256 * 16;
        const BlockKey key{physical, static_cast<u32>(physical) + 0xC0000000, mode::code32, 0, 0xFFFFFFFF};
        if (cache_.find(key) != nullptr) break;
        if (!cache_.has_room(200)) {
          cache_.flush();
          blocks.clear();
        }
        blocks.push_back(&install(physical));
        break;
      }
      case 2:
        if (!blocks.empty()) cache_.link(blocks[random() % blocks.size()]->first_exit, *blocks[random() % blocks.size()]);
        break;
      default: cache_.invalidate({0x1000 + random() % 4096}, 1 + random() % 4); break;
    }
    if (i % 50 == 0) cache_.check_invariants();
  }
  for (const Block* block : blocks) EXPECT_EQ(cache_.find(block->key) == block, block->valid);
  EXPECT_GT(cache_.counters().unlinked, 100u);
}

}  // namespace
}  // namespace ring3
