#include "optim/schedule.h"

#include <cmath>
#include <gtest/gtest.h>

#include "core/error.h"
#include "trainer/config/config.h"

namespace lockstep {
namespace {

ScheduleOptions options_of(const std::string& name, std::int64_t warmup, std::int64_t steps,
                           double min_lr = 0) {
  ScheduleOptions s;
  s.name = name;
  s.warmup_steps = warmup;
  s.steps = steps;
  s.min_lr = min_lr;
  return s;
}

TEST(Schedule, ConstantStays) {
  const Schedule s(options_of("constant", 0, 0), 0.1);
  EXPECT_EQ(s.lr_at(0), 0.1);
  EXPECT_EQ(s.lr_at(1'000'000'000), 0.1);
}

TEST(Schedule, WarmUpIsLinearAndEndsAtLr) {
  const Schedule s(options_of("constant", 4, 0), 0.8);
  EXPECT_DOUBLE_EQ(s.lr_at(0), 0.2);
  EXPECT_DOUBLE_EQ(s.lr_at(1), 0.4);
  EXPECT_DOUBLE_EQ(s.lr_at(2), 0.6000000000000001);
  EXPECT_EQ(s.lr_at(3), 0.8);
  EXPECT_EQ(s.lr_at(4), 0.8);
}

TEST(Schedule, CosineFollowsItsFormula) {
  const Schedule s(options_of("cosine", 0, 100, 0.1), 0.9);
  EXPECT_EQ(s.lr_at(0), 0.9);
  EXPECT_NEAR(s.lr_at(50), 0.5, 1e-15);  // half way: the mean
  EXPECT_NEAR(s.lr_at(25), 0.5 + 0.4 * std::sqrt(0.5), 1e-15);
  EXPECT_NEAR(s.lr_at(75), 0.5 - 0.4 * std::sqrt(0.5), 1e-15);
  EXPECT_GT(s.lr_at(99), 0.1);
  EXPECT_EQ(s.lr_at(100), 0.1);
  EXPECT_EQ(s.lr_at(12345), 0.1);
  for (std::int64_t step = 1; step < 100; ++step) EXPECT_LT(s.lr_at(step), s.lr_at(step - 1));
}

TEST(Schedule, CosineBeginsWhereWarmUpEnds) {
  const Schedule s(options_of("cosine", 10, 110), 0.5);
  EXPECT_EQ(s.lr_at(9), 0.5);
  EXPECT_EQ(s.lr_at(10), 0.5);
  EXPECT_NEAR(s.lr_at(60), 0.25, 1e-15);
  EXPECT_EQ(s.lr_at(110), 0.0);
}

TEST(Schedule, WarmUpMayFillTheHorizon) {
  const Schedule s(options_of("cosine", 10, 10, 0.1), 0.5);
  EXPECT_EQ(s.lr_at(9), 0.5);
  EXPECT_EQ(s.lr_at(10), 0.1);
}

// Goyal et al. 2017 at a batch of 8192 on ImageNet: 157 steps an epoch, lr 3.2 reached after 5 epochs,
// divided by 10 at 30, 60 and 80.
TEST(Schedule, StepFallsAtItsMilestones) {
  ScheduleOptions options = options_of("step", 5 * 157, 0);
  options.milestones = "4710,9420, 12560";
  const Schedule s(options, 3.2);
  EXPECT_DOUBLE_EQ(s.lr_at(0), 3.2 / 785);
  EXPECT_EQ(s.lr_at(784), 3.2);
  EXPECT_EQ(s.lr_at(4709), 3.2);
  EXPECT_DOUBLE_EQ(s.lr_at(4710), 0.32);
  EXPECT_DOUBLE_EQ(s.lr_at(9419), 0.32);
  EXPECT_DOUBLE_EQ(s.lr_at(9420), 0.032);
  EXPECT_DOUBLE_EQ(s.lr_at(12560), 0.0032);
  EXPECT_DOUBLE_EQ(s.lr_at(1'000'000), 0.0032);
  options.gamma = 0.5;
  EXPECT_DOUBLE_EQ(Schedule(options, 3.2).lr_at(12560), 0.4);
}

TEST(Schedule, StepNeedsRisingMilestonesAfterTheWarmUp) {
  ScheduleOptions options = options_of("step", 10, 0);
  for (const char* bad : {"", ",", "20,", "20,20", "30,20", "0,20", "-1", "1.5", "5,20"}) {
    options.milestones = bad;
    EXPECT_THROW(Schedule(options, 0.1), ConfigError) << bad;
  }
  options.milestones = "10";
  EXPECT_DOUBLE_EQ(Schedule(options, 0.1).lr_at(10), 0.01);
}

TEST(Schedule, RefusesAHorizonThatWarmUpPasses) {
  EXPECT_THROW(Schedule(options_of("cosine", 0, 0), 0.1), ConfigError);
  EXPECT_THROW(Schedule(options_of("cosine", 11, 10), 0.1), ConfigError);
  EXPECT_THROW(Schedule(options_of("cosin", 0, 10), 0.1), ConfigError);
}

}  // namespace
}  // namespace lockstep
