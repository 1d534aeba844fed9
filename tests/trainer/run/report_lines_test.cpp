// Which validation is the best, and the lines that tell of epochs.

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <sstream>

#include "trainer/evaluate/best.h"
#include "trainer/run/epoch_line.h"
#include "trainer/run/progress.h"

namespace lockstep {
namespace {

Evaluation evaluation(double accuracy, double loss) {
  Evaluation e;
  e.accuracy = accuracy;
  e.loss = loss;
  return e;
}

TEST(Best, EqualAccuraciesGoToTheLowerLossAndThenToTheEarlier) {
  const BestValidation best = best_of(evaluation(0.9, 0.5), "accuracy", 10);
  EXPECT_TRUE(is_better(evaluation(0.91, 0.9), "accuracy", best));
  EXPECT_TRUE(is_better(evaluation(0.9, 0.4), "accuracy", best));
  EXPECT_FALSE(is_better(evaluation(0.9, 0.5), "accuracy", best));
  EXPECT_FALSE(is_better(evaluation(0.9, 0.6), "accuracy", best));
  EXPECT_FALSE(is_better(evaluation(0.89, 0.1), "accuracy", best));
  EXPECT_TRUE(is_better(evaluation(0.0, 9.0), "accuracy", {}));
}

TEST(Best, ByLossTheAccuracyDoesNotCount) {
  const BestValidation best = best_of(evaluation(0.9, 0.5), "loss", 10);
  EXPECT_TRUE(is_better(evaluation(0.1, 0.4), "loss", best));
  EXPECT_FALSE(is_better(evaluation(0.99, 0.5), "loss", best));
}

TEST(Best, OfARunOfAnOlderVersionTheLossIsUnknown) {
  const BestValidation best{0.9, std::nullopt, 10, ""};
  EXPECT_FALSE(is_better(evaluation(0.9, 0.1), "accuracy", best));
  EXPECT_TRUE(is_better(evaluation(0.91, 0.1), "accuracy", best));
}

TEST(Best, AValidationThatIsNotFiniteIsNever) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    for (const char* metric : {"accuracy", "loss"}) EXPECT_FALSE(is_better(evaluation(1, bad), metric, {}));
}

TEST(Best, AutoIsAccuracyWhereThereAreClasses) {
  Config config;
  EXPECT_EQ(best_metric_name(config, true), "accuracy");
  EXPECT_EQ(best_metric_name(config, false), "loss");
  config.train.best = "loss";
  EXPECT_EQ(best_metric_name(config, true), "loss");
  EXPECT_EQ(best_text(best_of(evaluation(0.9, 0.5), "loss", 3), "loss"), "loss 0.5000");
  EXPECT_EQ(best_text(best_of(evaluation(0.9, 0.5), "accuracy", 3), "accuracy"),
            "accuracy 0.9000, loss 0.5000");
}

TEST(EpochLine, FitsEightyColumnsOrBecomesTwoLines) {
  EpochLine line{"epoch 100/100", 0.25142, 0.9123, 0.27, 0.9051, true};
  EXPECT_EQ(epoch_line_text(line),
            "epoch 100/100  loss 0.2514 acc 0.9123  validation: loss 0.2700 acc 0.9051  best");
  for (const char* head : {"epoch 1/2", "epoch 100/100", "epoch 1000000/1000000", "step 123456789/123456789"})
    for (const double loss :
         {1e-9, 0.5, 999.9999, 123456.7, 1.5e300, std::numeric_limits<double>::quiet_NaN()}) {
      line.head = head;
      line.loss = line.validation_loss = loss;
      std::istringstream text(epoch_line_text(line));
      for (std::string one; std::getline(text, one);) EXPECT_LE(one.size(), 80u) << one;
    }
  EXPECT_EQ(epoch_line_text({"epoch 2", 0.5, {}, {}, {}, false}), "epoch 2  loss 0.5000");
  EXPECT_EQ(epoch_line_text({"epoch 2", {}, {}, 0.5, {}, false}),
            "epoch 2  every batch was skipped  validation: loss 0.5000");
}

struct Screens {
  double now = 0;
  std::ostringstream bar, results;
  Progress::Options options(bool terminal, bool overtake = false) {
    Progress::Options o;
    o.terminal = terminal;
    o.clock = [this] { return now; };
    o.results = &results;
    o.results_overtake = overtake;
    return o;
  }
};

TEST(Progress, ResultsGoToAStreamOfTheirOwn) {
  Screens s;
  Progress progress(s.bar, s.options(true));
  progress.update({1, 2, 1, 200, 1, 100, 50, 0.25});
  progress.result("epoch 1/2  loss 0.2500");
  EXPECT_EQ(s.results.str(), "epoch 1/2  loss 0.2500\n");
  EXPECT_THAT(s.bar.str(), testing::EndsWith("\r\x1b[K"));
  EXPECT_THAT(s.bar.str(), Not(testing::HasSubstr("\n")));
}

TEST(Progress, ResultsThatMayOvertakeTheBarClearIt) {
  Screens s;
  Progress progress(s.bar, s.options(true, true));
  progress.result("epoch 1/2");
  EXPECT_EQ(s.results.str(), "\r\x1b[Kepoch 1/2\n");
}

TEST(Progress, TheFirstPlainLineComesAlsoWhereTheFirstStepIsLong) {
  Screens s;
  Progress progress(s.bar, s.options(false));
  s.now = 12;
  progress.update({1, 2, 1, 200, 1, 100, 50, 0.25});
  EXPECT_EQ(s.bar.str(), "epoch 1/2 step 1/200 loss 0.2500\n");
}

TEST(Progress, AnEvaluationIsASignOfLife) {
  Screens s;
  Progress progress(s.bar, s.options(false));
  for (std::int64_t done = 0; done <= 1000; done += 100, s.now += 3) progress.work("sample", done, 1000);
  EXPECT_EQ(s.bar.str(), "sample 400/1,000\nsample 800/1,000\n");
  Screens t;
  Progress drawn(t.bar, t.options(true));
  t.now = 1;
  drawn.work("sample", 400, 1000);
  EXPECT_EQ(t.bar.str(), "\rsample 400/1,000\x1b[K");
}

}  // namespace
}  // namespace lockstep
