#include "trainer/guard/straggler.h"

#include <gmock/gmock.h>

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// Ranks whose steps take as long as they are told, the others waiting for the slowest.
class Ranks {
 public:
  Ranks(double factor, std::vector<std::int64_t> slices)
      : watch_(factor, slices, hosts(slices.size())), times_(slices.size()), window_(slices.size()) {}

  /// `steps` more, in each of which rank r computes for compute[r] seconds.
  void run(int steps, const std::vector<double>& compute) {
    const double slowest = *std::max_element(compute.begin(), compute.end());
    for (std::size_t r = 0; r < times_.size(); ++r) {
      RankTimes& t = times_[r];
      for (int i = 0; i < steps; ++i) window_[r].push_back(compute[r]);
      t.steps += steps;
      t.sum.step += steps * slowest;
      t.sum.compute += steps * compute[r];
      t.sum.wait += steps * (slowest - compute[r]);
    }
    now_ += steps * slowest;
  }
  std::optional<std::string> look() {
    for (std::size_t r = 0; r < times_.size(); ++r) {
      std::sort(window_[r].begin(), window_[r].end());
      times_[r].window = static_cast<double>(window_[r].size());
      times_[r].median.compute = window_[r].empty() ? 0 : window_[r][window_[r].size() / 2];
      window_[r].clear();
    }
    return watch_.look(times_, now_);
  }
  void wait(double seconds) { now_ += seconds; }

 private:
  static std::vector<std::string> hosts(std::size_t n) {
    std::vector<std::string> names;
    for (std::size_t r = 0; r < n; ++r) names.push_back("node" + std::to_string(r / 2));
    return names;
  }
  StragglerWatch watch_;
  std::vector<RankTimes> times_;
  std::vector<std::vector<double>> window_;
  double now_ = 0;
};

TEST(Straggler, TheSlowRankIsNamedWithItsHost) {
  for (std::size_t slow = 0; slow < 4; ++slow) {
    Ranks ranks(2, {2, 2, 2, 2});
    std::vector<double> compute(4, 0.010);
    compute[slow] = 0.025;
    ranks.run(50, compute);
    const auto warning = ranks.look();
    ASSERT_TRUE(warning);
    EXPECT_THAT(*warning,
                AllOf(HasSubstr("rank " + std::to_string(slow) + " on node" + std::to_string(slow / 2) + " "),
                      HasSubstr("2.5 times"), HasSubstr("last 50 steps")));
  }
}

TEST(Straggler, OfTwoRanksTheOtherIsTheMeasure) {
  Ranks ranks(2, {4, 4});
  ranks.run(50, {0.010, 0.019});
  EXPECT_FALSE(ranks.look());
  ranks.run(50, {0.010, 0.021});
  ASSERT_TRUE(ranks.look());
}

TEST(Straggler, RanksWithMoreSlicesAreNotSlow) {
  // Four slices on three ranks: with one lane a rank with two needs twice the time.
  Ranks uneven(1.5, {1, 1, 2});
  uneven.run(200, {0.010, 0.010, 0.020});
  EXPECT_FALSE(uneven.look());
  // With two lanes that do not help one slice, a rank with one needs as long as one with two.
  Ranks lanes(1.5, {1, 2});
  lanes.run(200, {0.010, 0.010});
  EXPECT_FALSE(lanes.look());
  // Slow is slow, whatever it has to do.
  Ranks slow(1.5, {1, 1, 2});
  slow.run(200, {0.010, 0.010, 0.050});
  EXPECT_TRUE(slow.look());
  Ranks alone(1.5, {1, 1, 2});
  alone.run(200, {0.050, 0.010, 0.020});
  const auto warning = alone.look();
  ASSERT_TRUE(warning);
  EXPECT_THAT(*warning, HasSubstr("rank 0 "));
}

TEST(Straggler, WhatCostsNobodyTimeIsNotTold) {
  // Computing is a small part of the step: three times slower there delays nobody by a tenth.
  StragglerWatch watch(2, {1, 1}, {"a", "a"});
  std::vector<RankTimes> times(2);
  for (std::size_t r = 0; r < 2; ++r) {
    times[r].steps = times[r].window = 100;
    times[r].sum.step = 10;
    times[r].sum.compute = r == 0 ? 0.1 : 0.3;
    times[r].median.compute = times[r].sum.compute / 100;
  }
  EXPECT_FALSE(watch.look(times, 10));
}

TEST(Straggler, AHiccupIsNoStraggler) {
  Ranks ranks(2, {1, 1, 1});
  for (int i = 0; i < 20; ++i) {
    ranks.run(49, {0.010, 0.010, 0.010});
    // In every third window one step takes a second on rank 1.
    ranks.run(1, {0.010, i % 3 == 0 ? 1.0 : 0.010, 0.010});
    EXPECT_FALSE(ranks.look()) << i;
  }
  // One in every window is more than that, though the median does not show it.
  ranks.run(49, {0.010, 0.010, 0.010});
  ranks.run(1, {0.010, 1.0, 0.010});
  EXPECT_TRUE(ranks.look() || (ranks.run(50, {0.010, 0.040, 0.010}), ranks.look()));
}

TEST(Straggler, TooFewOrTooShortStepsSayNothingUntilThereAreMore) {
  Ranks ranks(2, {1, 1});
  for (int i = 0; i < 4; ++i) {
    ranks.run(2, {0.050, 0.150});
    EXPECT_FALSE(ranks.look()) << i;
  }
  ranks.run(2, {0.050, 0.150});  // ten steps: suspected
  EXPECT_FALSE(ranks.look());
  for (int i = 0; i < 4; ++i) {
    ranks.run(2, {0.050, 0.150});
    EXPECT_FALSE(ranks.look()) << i;
  }
  ranks.run(2, {0.050, 0.150});  // and again: told
  EXPECT_TRUE(ranks.look());
  Ranks quick(2, {1, 1});
  quick.run(100, {0.0005, 0.0020});
  EXPECT_FALSE(quick.look());
}

TEST(Straggler, IsToldNowAndThenOnly) {
  Ranks ranks(2, {1, 1, 1});
  int told = 0;
  for (int i = 0; i < 100; ++i) {
    ranks.run(50, {0.010, 0.010, 0.030});
    told += ranks.look() ? 1 : 0;
  }
  EXPECT_EQ(told, 1);
  ranks.run(50, {0.030, 0.010, 0.010});  // another one is news
  EXPECT_TRUE(ranks.look());
  ranks.wait(StragglerWatch::repeat_seconds + 1);
  ranks.run(50, {0.010, 0.010, 0.030});
  EXPECT_TRUE(ranks.look());
}

TEST(Straggler, NeverWithFactorZeroOrAlone) {
  Ranks off(0, {1, 1});
  off.run(100, {0.01, 1.0});
  EXPECT_FALSE(off.look());
  Ranks alone(2, {4});
  alone.run(100, {0.01});
  EXPECT_FALSE(alone.look());
}

TEST(StepTimes, MediansAreOfTheLastStepsAndSumsOfAll) {
  StepTimesLog log(5);
  for (int i = 1; i <= 12; ++i) {
    StepTimes t;
    t.step = i;
    t.compute = 100 - i;
    log.add(t);
  }
  RankTimes s = log.summary();
  EXPECT_EQ(s.steps, 12);
  EXPECT_EQ(s.sum.step, 78);
  EXPECT_EQ(s.window, 5);
  EXPECT_EQ(s.median.step, 10);
  EXPECT_EQ(s.median.compute, 90);
  log.clear_window();
  s = log.summary();
  EXPECT_EQ(s.steps, 12);
  EXPECT_EQ(s.window, 0);
  StepTimes t;
  t.step = 3;
  log.add(t);
  EXPECT_EQ(log.summary().median.step, 3);
}

}  // namespace
}  // namespace lockstep
