// The record of a jump table's slots, against a map.
#include "runtime/memory/jump_slots.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace ring3::test {
namespace {

TEST(JumpSlotsTest, RandomUseAgreesWithAMap) {
  const Mapping owner = Mapping::sparse(u64{16} << 30);
  ASSERT_TRUE(owner);
  const u32* table = reinterpret_cast<const u32*>(owner.data());
  JumpSlots slots(owner, 0);
  std::map<u32, u32> model;
  std::map<u32, std::set<u32>> dependents;
  std::mt19937 random(7);
  // 64 slots in each of 40 pages at both ends of the address space.
  const auto pick = [&] { return static_cast<u32>((random() % 40 - 20) * page_size + random() % 64 * 61); };
  const auto clear_page = [&](u32 page) { std::erase_if(model, [&](const auto& slot) { return slot.first >> page_shift == page; }); };
  for (u32 step = 0; step < 200'000; ++step) {
    const u32 linear = pick();
    const u32 page = linear >> page_shift;
    switch (random() % 64) {
      case 0:
        slots.clear_page(page);
        clear_page(page);
        for (const u32 other : dependents[page]) clear_page(other);
        dependents.erase(page);
        break;
      case 1: {
        const u32 other = pick() >> page_shift;
        slots.depend(page, other);
        dependents[other].insert(page);
        break;
      }
      case 2:
        if (random() % 8 == 0) {
          slots.clear_all();
          model.clear();
          dependents.clear();
        }
        break;
      default:
        if (random() % 3 == 0) {
          slots.clear(linear);
          model.erase(linear);
        } else {
          slots.set(linear, step + 1);
          model[linear] = step + 1;
        }
    }
    ASSERT_EQ(slots.recorded(), model.size()) << step;
    ASSERT_LE(slots.records(), 40u);
    ASSERT_EQ(table[linear], model.count(linear) != 0 ? model[linear] : 0u) << step;
  }
  for (const auto& [linear, value] : model) EXPECT_EQ(table[linear], value);
  slots.clear_all();
  EXPECT_EQ(slots.recorded(), 0u);
  for (const auto& [linear, value] : model) EXPECT_EQ(table[linear], 0u);
}

}  // namespace
}  // namespace ring3::test
