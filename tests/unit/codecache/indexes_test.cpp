// The arrays behind the code cache, each against a plain one.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "codecache/number_table.h"
#include "codecache/page_index.h"
#include "codecache/point_stream.h"

namespace ring3 {
namespace {

TEST(PointStream, KeepsWhatItWasGiven) {
  std::vector<InsnPoint> points;
  u32 host = 0;
  u16 guest = 0;
  for (const u32 step : {0u, 1u, 30u, 254u, 255u, 256u, 70'000u, 0u}) {
    for (unsigned flags = 0; flags < 64; ++flags) {
      host += step;
      guest = static_cast<u16>(guest + step % 16 + flags % 8 * 2);  // distances of 14, 15 and 16 are among them
      points.push_back({host, guest, (flags & 1u) == 0, (flags & 2u) != 0, (flags & 4u) != 0, (flags & 8u) != 0, (flags & 16u) != 0,
                        (flags & 32u) != 0});
    }
  }
  std::vector<u8> stream;
  encode_points(points, stream);
  PointReader reader(stream.data());
  for (const InsnPoint& point : points) {
    const InsnPoint read = reader.next();
    EXPECT_EQ(read.host_offset, point.host_offset);
    EXPECT_EQ(read.guest_offset, point.guest_offset);
    EXPECT_EQ(read.emitted, point.emitted);
    EXPECT_EQ(read.rep_string, point.rep_string);
    EXPECT_EQ(read.shadowed, point.shadowed);
    EXPECT_EQ(read.esp_pending, point.esp_pending);
    EXPECT_EQ(read.segment, point.segment);
    EXPECT_EQ(read.moves_fip, point.moves_fip);
  }
}

TEST(NumberTable, AgreesWithAMap) {
  std::mt19937 random(1);
  NumberTable table;
  std::map<u32, u32> keys;  // number -> key; keys collide in the table
  const auto hash = [](u32 key) { return key % 997; };
  u32 next = 0;
  for (int i = 0; i < 20'000; ++i) {
    if (keys.empty() || (keys.size() < 2000 && random() % 3 != 0)) {
      keys[next] = static_cast<u32>(random() % 5000 * 10'000) + next % 10'000;
      table.insert(next, hash(keys[next]));
      ++next;
    } else {
      const auto victim = std::next(keys.begin(), static_cast<long>(random() % std::min<std::size_t>(keys.size(), 50)));
      table.remove(victim->first, hash(victim->second));
      const u32 key = victim->second;
      keys.erase(victim);
      EXPECT_EQ(table.find(hash(key), [&](u32 n) { return keys.at(n) == key; }), NumberTable::none);
    }
    if (i % 500 != 0) continue;
    for (const auto& [number, key] : keys) ASSERT_EQ(table.find(hash(key), [&](u32 n) { return keys.at(n) == key; }), number);
  }
  table.clear();
  EXPECT_EQ(table.find(0, [](u32) { return true; }), NumberTable::none);
}

TEST(PageIndex, FindsEveryByteOfAPiece) {
  PageIndex index;
  const u32 first = index.add({7, 0x80, 0xFF0, 0xFFF});
  const u32 second = index.add({7, 0x81, 0, 3});
  index.add({8, 0x81, 3, 3});
  const auto found = [&index](u64 at, u32 size) {
    std::vector<u32> blocks;
    index.find({at}, size, blocks);
    return std::multiset<u32>(blocks.begin(), blocks.end());
  };
  EXPECT_EQ(found(0x80FEF, 1), (std::multiset<u32>{}));
  EXPECT_EQ(found(0x80FEF, 2), (std::multiset<u32>{7}));
  EXPECT_EQ(found(0x80FFF, 1), (std::multiset<u32>{7}));
  EXPECT_EQ(found(0x81000, 4), (std::multiset<u32>{7, 8}));
  EXPECT_EQ(found(0x81002, 1), (std::multiset<u32>{7}));
  EXPECT_EQ(found(0x81004, 4092), (std::multiset<u32>{}));
  EXPECT_EQ(found(u64{1} << 40, 4), (std::multiset<u32>{}));
  index.remove(first);
  EXPECT_FALSE(index.has_blocks({0x80123}));
  index.remove(second);
  EXPECT_EQ(found(0x81000, 4), (std::multiset<u32>{8}));
  index.clear();
  EXPECT_FALSE(index.has_blocks({0x81000}));
}

}  // namespace
}  // namespace ring3
