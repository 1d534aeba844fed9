// What is told of the training while nothing of it ends.

#include "trainer/run/progress.h"

#include <chrono>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sstream>
#include <string>
#include <thread>

namespace lockstep {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(Progress, AStepOrABatchThatTakesLongIsToldOfBeforeItEnds) {
  const auto told = [](const std::function<void(Progress&)>& act) {
    std::ostringstream out;
    {
      Progress::Options options;
      options.line_seconds = 0.02;
      Progress progress(out, options);
      act(progress);
      std::this_thread::sleep_for(std::chrono::milliseconds(600));
      progress.end();
    }
    return out.str();
  };
  const auto state = [](std::int64_t step, std::int64_t epoch_step) {
    ProgressState s;
    s.epoch = 1;
    s.epochs = 3;
    s.step = step;
    s.steps = 30;
    s.epoch_step = epoch_step;
    s.epoch_steps = 10;
    return s;
  };
  EXPECT_THAT(told([&](Progress& p) { p.begin(state(0, 0)); }),
              StartsWith("epoch 1/3 step 1/30 under way for "));
  const std::string later = told([&](Progress& p) { p.update(state(4, 4)); });
  EXPECT_THAT(later, HasSubstr("epoch 1/3 step 5/30 under way for "));
  EXPECT_THAT(later, EndsWith("\n"));
  EXPECT_THAT(told([&](Progress& p) { p.update(state(10, 10)); }),
              HasSubstr("epoch 2/3 step 11/30 under way"));
  EXPECT_THAT(told([&](Progress& p) { p.work("sample", 0, 2000); }),
              StartsWith("sample 0/2,000, a batch under way for "));
  // Nothing is under way.
  EXPECT_EQ(told([](Progress&) {}), "");
  EXPECT_THAT(told([&](Progress& p) { p.update(state(30, 10)); }), Not(HasSubstr("under way")));
  EXPECT_THAT(told([&](Progress& p) { p.work("sample", 9, 9); }), Not(HasSubstr("under way")));
  EXPECT_EQ(told([&](Progress& p) {
              p.begin(state(0, 0));
              p.end();
            }),
            "");
  // After an evaluation comes the next step.
  EXPECT_THAT(told([&](Progress& p) {
                p.begin(state(10, 10));
                p.work("sample", 0, 9);
                p.work("sample", 9, 9);
              }),
              HasSubstr("epoch 2/3 step 11/30 under way for "));
}

}  // namespace
}  // namespace lockstep
