#include "model/plan/memory_plan.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <random>

namespace lockstep {
namespace {

TEST(MemoryPlan, BuffersInUseTogetherNeverOverlap) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<MemoryRequest> requests;
    for (int i = 0; i < 40; ++i) {
      const int first = static_cast<int>(random() % 50);
      requests.push_back({"r", 1 + random() % 5000, first, first + static_cast<int>(random() % 20), 0});
    }
    const std::size_t arena = plan_memory(requests);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const auto& a = requests[i];
      ASSERT_EQ(a.offset % 64, 0u);
      ASSERT_LE(a.offset + a.bytes, arena);
      for (std::size_t j = i + 1; j < requests.size(); ++j) {
        const auto& b = requests[j];
        const bool together = a.first <= b.last && b.first <= a.last;
        const bool overlap = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
        ASSERT_FALSE(together && overlap);
      }
    }
  }
}

TEST(MemoryPlan, ReusesMemoryOfBuffersThatAreDone) {
  std::vector<MemoryRequest> chain;
  for (int i = 0; i < 10; ++i) chain.push_back({"r", 6400, i, i + 1, 0});
  EXPECT_EQ(plan_memory(chain), 2u * 6400u);
}

}  // namespace
}  // namespace lockstep
