// What a run decides before it begins: a function of config, data and place, without ranks, files or devices.

#include "trainer/run/run_setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>

#include "core/error.h"
#include "trainer/config/test_support.h"

namespace lockstep {
namespace {

using test::config_of;
using test::message_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// 117 training samples, 13 to validate on.
const std::string small =
    "model.layers = flatten dense:8 relu dense:5\n"
    "data.format = synthetic\ndata.samples = 130\ndata.shape = 3x4x4\ndata.classes = 5\n"
    "data.validation_fraction = 0.1\ntrain.global_batch = 48\n";

struct Planned {
  explicit Planned(const std::string& more, const RunPlace& place = {})
      : config(config_of(small + more)),
        data(open_datasets(config)),
        setup(set_up_run(config, data, place)) {}
  Config config;
  DataSets data;
  RunSetup setup;
};

TEST(RunSetups, EndWhereEpochsOrStepsDo) {
  EXPECT_EQ(Planned("train.epochs = 4\n").setup.natural_end, 12) << "three batches of 48 hold 117 samples";
  EXPECT_EQ(Planned("train.epochs = 4\n").setup.end_steps, 12);
  const Planned cut("train.epochs = 4\ntrain.steps = 7\n");
  EXPECT_EQ(cut.setup.natural_end, 12) << "a horizon is that of the epochs";
  EXPECT_EQ(cut.setup.end_steps, 7);
  EXPECT_EQ(Planned("train.steps = 7\n").setup.end_steps, 7);
}

TEST(RunSetups, ResolveWhatTheConfigLeavesToThem) {
  const Planned p("train.epochs = 4\n");
  EXPECT_EQ(p.config.train.slices, 0);
  EXPECT_EQ(p.setup.config.train.slices, 4) << "8 slices have fewer than 16 rows";
  EXPECT_EQ(p.setup.config.train.eval_batch, 48);
  EXPECT_EQ(p.setup.config.schedule.steps, 12);
  EXPECT_EQ(p.setup.config.data.classes, 5);
  EXPECT_EQ(p.setup.order.samples(), 117);
  EXPECT_EQ(p.setup.order.slices(), 4);
  EXPECT_THAT(p.setup.doubt, IsEmpty());
}

TEST(RunSetups, AreTheSameForAnyNumberOfRanksThatHaveASliceEach) {
  const std::string more = "train.epochs = 2\n";
  for (const int ranks : {1, 2, 4}) {
    RunPlace place;
    place.ranks = ranks;
    EXPECT_EQ(resolved_ini(Planned(more, place).setup.config), resolved_ini(Planned(more).setup.config));
  }
  RunPlace five;
  five.ranks = 5;
  EXPECT_THAT(message_of([&] { Planned(more, five); }), HasSubstr("more ranks (5) than slices (4)"));
}

TEST(RunSetups, RefuseLabelsThatTheModelHasNoOutputFor) {
  const Config config = config_of(
      "model.layers = flatten dense:3\ndata.format = synthetic\ndata.samples = 130\ndata.shape = 3x4x4\n"
      "data.classes = 5\ntrain.epochs = 1\n");
  const DataSets data = open_datasets(config);
  try {
    set_up_run(config, data, {});
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_THAT(e.what(), HasSubstr("the model gives 3 outputs (3), but the data needs 5"));
    EXPECT_THAT(e.what(), HasSubstr("have a label above 2: 'synthetic' sample 3 has label 3"));
  }
}

TEST(RunSetups, StepsAheadOnlyWhereNoneMayBeLeftOut) {
  const auto in_flight = [](const std::string& more) {
    return step_options(Planned("train.epochs = 1\n" + more).setup.config).in_flight;
  };
  EXPECT_EQ(in_flight("log.every_steps = 1000\n"), 64);
  EXPECT_EQ(in_flight("log.every_steps = 5\n"), 5);
  EXPECT_EQ(in_flight("guard.nonfinite = skip\n"), 1);
}

TEST(RunSetups, ChangeTheirScheduleFromAStepOn) {
  Planned p("train.epochs = 4\noptimizer.lr = 0.1\n");
  EXPECT_THAT(change_schedule(p.setup, 6), IsEmpty()) << "no flag asks for another rate";
  EXPECT_EQ(p.setup.config.schedule.changes, "");
  p.setup.config.run.rate_change = {{"optimizer.lr", "0.01"}};
  EXPECT_THAT(change_schedule(p.setup, 6), IsEmpty());
  EXPECT_EQ(p.setup.config.schedule.changes, "6: optimizer.lr=0.01");
  EXPECT_EQ(p.setup.schedule.lr_at(5), 0.1);
  EXPECT_EQ(p.setup.schedule.lr_at(6), 0.01);
  // Asked again at another step, as when a start takes the run over: from what was stored, not twice.
  change_schedule(p.setup, 9);
  EXPECT_EQ(p.setup.config.schedule.changes, "9: optimizer.lr=0.01");
  EXPECT_EQ(p.setup.schedule.lr_at(8), 0.1);
  EXPECT_THAT(message_of([&] { change_schedule(p.setup, 12); }), HasSubstr("optimizer.lr"));
}

}  // namespace
}  // namespace lockstep
