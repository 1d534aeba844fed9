// What surrounds calls between GPUs and needs none.

#include <gtest/gtest.h>
#include <memory>
#include <string>

#include "comm/cuda/call_limits.h"
#include "comm/cuda/standing.h"

namespace lockstep::cuda {
namespace {

TEST(CallLimits, TheFirstCallOfANameHasMoreTimeThanThoseThatFollow) {
  CallLimits limits(65);
  for (const char* call : {"ncclCommInitRankConfig", "ncclGroupEnd", "ncclAllGather"}) {
    const CallLimits::Limit first = limits.next(call);
    EXPECT_TRUE(first.connects) << call;
    EXPECT_EQ(first.seconds, 5 * 65);
    for (int i = 0; i < 3; ++i) {
      // The same name at another address.
      const CallLimits::Limit later = limits.next(std::string_view(call));
      EXPECT_FALSE(later.connects) << call;
      EXPECT_EQ(later.seconds, 65);
    }
  }
}

TEST(CallLimits, WithoutATimeOutNothingIsLimited) {
  CallLimits limits(0);
  EXPECT_EQ(limits.next("ncclGroupEnd").seconds, 0);
  EXPECT_EQ(limits.next("ncclGroupEnd").seconds, 0);
}

struct Waiter {
  Standing<Waiter> standing;
};

TEST(Standing, APlaceNamesAnObjectForAsLongAsItIsThere) {
  const auto place = std::make_shared<Waiter*>(nullptr);
  {
    Waiter one;
    one.standing.take(place, &one);
    EXPECT_EQ(*place, &one);
  }
  EXPECT_EQ(*place, nullptr);
}

TEST(Standing, WhoHasTakenThePlaceKeepsItWhenTheLastOneEnds) {
  const auto place = std::make_shared<Waiter*>(nullptr);
  auto one = std::make_unique<Waiter>();
  one->standing.take(place, one.get());
  Waiter two;
  two.standing.take(place, &two);
  one.reset();
  EXPECT_EQ(*place, &two);
  // And one that never took a place frees none.
  { const Waiter three; }
  EXPECT_EQ(*place, &two);
}

}  // namespace
}  // namespace lockstep::cuda
