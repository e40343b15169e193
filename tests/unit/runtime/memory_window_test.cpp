// When a window opens and closes (runtime/memory/context.h), and what windows take of the host's mappings (runtime/memory/window.h).
#include "runtime/memory/context.h"
#include "runtime/memory/ram.h"
#include "runtime/memory/window.h"
#include "translator/contract.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace ring3 {
namespace {

TEST(WindowAccountTest, OpensAfterBeingMetOftenEnough) {
  WindowAccount account;
  EXPECT_FALSE(account.is_due(3));
  EXPECT_FALSE(account.is_due(3));
  EXPECT_TRUE(account.is_due(3));
}

TEST(WindowAccountTest, LivesOnWhatItEarns) {
  WindowAccount account;
  account.open();
  for (int i = 0; i < 100'000; ++i) {
    account.earn();
    ASSERT_TRUE(account.pay(20)) << i;
  }
  int paid = 0;
  while (account.pay(50)) ++paid;
  EXPECT_LT(paid, 100);  // no savings without end
}

TEST(WindowAccountTest, WaitsLongerAfterEachTimeThatItDidNotPay) {
  WindowAccount account;
  for (const int wait : {2, 8, 32}) {
    int met = 1;
    while (!account.is_due(2)) ++met;
    EXPECT_EQ(met, wait);
    account.open();
    while (account.pay(50)) {
    }
    account.close();
  }
}

u32 mappings_of_this_process() {
  std::ifstream maps("/proc/self/maps");
  u32 count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

// Every other page of large runs is taken back, in more windows than the host has mappings for.
TEST(WindowBudgetTest, HoldsHoweverPagesAreTakenBack) {
  constexpr u32 pages = 16384;
  const GuestRam ram(u64{pages} << page_shift);
  WindowBudget budget;
  const Mapping space = Mapping::reserve(8 * contract::linear_size);
  ASSERT_TRUE(space);
  std::vector<std::unique_ptr<Window>> windows;
  for (u32 n = 0; n < 8; ++n) windows.push_back(std::make_unique<Window>(space, n * contract::linear_size, 0, ram, budget));
  const u32 before = mappings_of_this_process();
  u32 most = 0;
  for (auto& window : windows) {
    ASSERT_TRUE(window->map(0, pages, 0, Window::Rights::write));
    for (u32 page = 0; page < pages; page += 2) {
      if (window->rights(page) != Window::Rights::write) continue;
      if (page % 4 == 0) {
        window->unmap(page, 1);
        ASSERT_EQ(window->rights(page), Window::Rights::none);
      } else {
        window->write_protect(page);
        ASSERT_NE(window->rights(page), Window::Rights::write);
      }
    }
    ASSERT_LE(budget.pieces, WindowBudget::most + 2);
    most = std::max(most, mappings_of_this_process() - before);
  }
  EXPECT_GT(budget.emptied, 0u);
  EXPECT_LE(most, WindowBudget::most + 2);
  windows.clear();
  EXPECT_EQ(budget.pieces, 0u);
}

}  // namespace
}  // namespace ring3
