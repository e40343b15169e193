// The record of a jump table's slots, against a map.
#include "runtime/memory/jump_slots.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace ring3::test {
namespace {

TEST(JumpSlotsTest, RandomUseAgreesWithAMap) {
  const Mapping owner = Mapping::sparse(u64{16} << 30);
  ASSERT_TRUE(owner);
  const u32* table = reinterpret_cast<const u32*>(owner.data());
  JumpSlots slots(owner, 0);
  struct Slot {
    u32 value;
    bool global;
  };
  std::map<u32, Slot> model;
  std::mt19937 random(7);
  // 64 slots in each of 40 pages at both ends of the address space.
  const auto pick = [&] { return static_cast<u32>((random() % 40 - 20) * page_size + random() % 64 * 61); };
  for (u32 step = 0; step < 200'000; ++step) {
    const u32 linear = pick();
    switch (random() % 64) {
      case 0:
        slots.clear_page(linear >> page_shift);
        std::erase_if(model, [&](const auto& entry) { return entry.first >> page_shift == linear >> page_shift; });
        break;
      case 1:
        // Global slots may go too when a page has both kinds: check what must, and take over what did.
        slots.clear_non_global();
        for (auto entry = model.begin(); entry != model.end();) {
          if (entry->second.global && table[entry->first] != 0) {
            ++entry;
            continue;
          }
          ASSERT_EQ(table[entry->first], 0u);
          entry = model.erase(entry);
        }
        break;
      case 2:
        if (random() % 8 == 0) {
          slots.clear_all();
          model.clear();
        }
        break;
      default:
        if (random() % 3 == 0) {
          slots.clear(linear);
          model.erase(linear);
        } else {
          const bool global = (linear >> page_shift) % 3 != 0;
          slots.set(linear, step + 1, global);
          model[linear] = {step + 1, global};
        }
    }
    ASSERT_EQ(slots.recorded(), model.size()) << step;
    ASSERT_LE(slots.records(), 40u);
    ASSERT_EQ(table[linear], model.count(linear) != 0 ? model[linear].value : 0u) << step;
  }
  for (const auto& [linear, slot] : model) EXPECT_EQ(table[linear], slot.value);
  slots.clear_all();
  EXPECT_EQ(slots.recorded(), 0u);
  for (const auto& [linear, slot] : model) EXPECT_EQ(table[linear], 0u);
}

TEST(JumpSlotsTest, APageOfGlobalSlotsSurvivesNonGlobalFlushes) {
  const Mapping owner = Mapping::sparse(u64{16} << 30);
  const u32* table = reinterpret_cast<const u32*>(owner.data());
  JumpSlots slots(owner, 0);
  slots.set(0x1000, 1, true);
  slots.set(0x2000, 2, false);
  slots.set(0x3000, 3, true);
  slots.set(0x3001, 4, false);
  slots.clear_non_global();
  EXPECT_EQ(table[0x1000], 1u);
  EXPECT_EQ(table[0x2000], 0u);
  EXPECT_EQ(table[0x3001], 0u);
  // The page that lost its non-global slots is an ordinary global page again.
  slots.set(0x3000, 5, true);
  slots.clear_non_global();
  EXPECT_EQ(table[0x3000], 5u);
}

}  // namespace
}  // namespace ring3::test
