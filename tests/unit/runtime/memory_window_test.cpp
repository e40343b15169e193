// When a window opens and closes (runtime/memory/context.h).
#include "runtime/memory/context.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace ring3
