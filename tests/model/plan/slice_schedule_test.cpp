#include "model/plan/slice_schedule.h"

#include <gtest/gtest.h>
#include <random>
#include <set>
#include <vector>

namespace lockstep {
namespace {

float tree_recursion(const std::vector<float>& values, Node node) {
  if (node.size() == 1) return values[static_cast<std::size_t>(node.begin)];
  const std::int64_t middle = split_of(node);
  return tree_recursion(values, {node.begin, middle}) + tree_recursion(values, {middle, node.end});
}

/// Plays the schedule on numbers: what each root slot holds at the end.
std::vector<float> play(const SliceSchedule& schedule, const std::vector<float>& values) {
  std::vector<float> slots(static_cast<std::size_t>(schedule.slots), -1e30f);
  for (const auto& round : schedule.rounds) {
    for (const auto& work : round.work)
      slots[static_cast<std::size_t>(work.slot)] = values[static_cast<std::size_t>(work.slice)];
    for (const auto& merge : round.merges)
      slots[static_cast<std::size_t>(merge.into)] += slots[static_cast<std::size_t>(merge.from)];
  }
  slots.resize(schedule.roots.size());
  return slots;
}

TEST(SliceSchedule, EveryScheduleSumsEachSubtreeAlongTheCanonicalTree) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> draw(-1.0f, 1.0f);
  for (std::int64_t slices = 1; slices <= 17; ++slices) {
    std::vector<float> values;
    for (std::int64_t i = 0; i < slices; ++i)
      values.push_back(draw(random) * static_cast<float>(1 << (i % 13)));
    for (std::int64_t begin = 0; begin < slices; ++begin)
      for (std::int64_t end = begin + 1; end <= slices; ++end)
        for (int lanes = 1; lanes <= 5; ++lanes) {
          const SliceSchedule schedule = make_slice_schedule(slices, {begin, end}, lanes);
          const std::vector<float> sums = play(schedule, values);
          ASSERT_EQ(schedule.roots, maximal_subtrees(slices, {begin, end}));
          for (std::size_t r = 0; r < sums.size(); ++r)
            ASSERT_EQ(sums[r], tree_recursion(values, schedule.roots[r]))
                << slices << " [" << begin << "," << end << ") lanes " << lanes;
        }
  }
}

TEST(SliceSchedule, EverySliceOnceEveryLaneInATeamAndNoSlotSharedInARound) {
  for (int lanes = 1; lanes <= 6; ++lanes) {
    const SliceSchedule schedule = make_slice_schedule(12, {3, 12}, lanes);
    std::multiset<std::int64_t> seen;
    for (const auto& round : schedule.rounds) {
      std::set<int> slots, teams;
      int members = 0;
      for (const auto& work : round.work) {
        seen.insert(work.slice);
        EXPECT_TRUE(slots.insert(work.slot).second);
        EXPECT_TRUE(teams.insert(work.team).second);
      }
      for (const int size : round.team_size) {
        EXPECT_GE(size, 1);
        members += size;
      }
      EXPECT_EQ(members, lanes);
    }
    EXPECT_EQ(seen.size(), 9u);
    for (std::int64_t s = 3; s < 12; ++s) EXPECT_EQ(seen.count(s), 1u);
  }
}

TEST(SliceSchedule, PrivateSlotsGrowWithDepthNotWithSlices) {
  EXPECT_EQ(make_slice_schedule(1024, {0, 1024}, 1).slots, 11);  // one root, one level each, and the leaf
  EXPECT_EQ(make_slice_schedule(4, {0, 4}, 4).slots, 4);
}

}  // namespace
}  // namespace lockstep
