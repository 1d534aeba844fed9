// The state of a run as checkpoints keep it: each member comes back, what older versions left out is none,
// and what nobody can have written is told of.

#include "trainer/checkpoint/run_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_number.h"
#include "data/epoch_order.h"

namespace lockstep {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

RunState full_state() {
  RunState s;
  s.generation = 3;
  s.step = 40;
  s.position = (std::int64_t{1} << 53) + 1;  // beyond what a double holds
  s.epoch = 2;
  s.slices = 8;
  s.horizon = 100;
  s.best = {0.1 + 0.2, 0.7, 30, "accuracy"};
  s.config = "[train]\nepochs = 3\n";
  s.fingerprint = "cpu\nbinary";
  s.reduction = "fast";
  s.any_fast = true;
  s.epoch_sums = {1.0 / 3, 17, 64, 60};
  s.loss_scale = LossScale{1024, 7, 2};
  s.preprocessing_sha256 = std::string(64, 'a');
  s.data =
      DataRecord{{{"data.train", "a.csv", "", 5, 0, std::string(64, 'b'), true, std::string(64, 'c')}}, {}};
  s.guard.skipped = {{4, 60, 0, "its loss is not a number", {1, 2}}, {9, 120, 1, "r", {}}};
  s.guard.losses = {{0.5, 1e-300}};
  s.plans = {"a = p\n", "b = q\n", 5};
  return s;
}

json stored(const RunState& state) {
  return json::parse(to_json(state).dump());  // as text, which it is in a file
}

TEST(RunStates, ComeBackWithEveryMember) {
  const RunState s = full_state();
  const RunState back = run_state_from_json(stored(s));
  EXPECT_EQ(back.fault, "");
  EXPECT_EQ(back.generation, s.generation);
  EXPECT_EQ(back.step, s.step);
  EXPECT_EQ(back.position, s.position);
  EXPECT_EQ(back.epoch, s.epoch);
  EXPECT_EQ(back.slices, s.slices);
  EXPECT_EQ(back.horizon, s.horizon);
  EXPECT_EQ(back.best.metric, s.best.metric);
  EXPECT_EQ(back.best.loss, s.best.loss);
  EXPECT_EQ(back.best.step, s.best.step);
  EXPECT_EQ(back.best.name, s.best.name);
  EXPECT_EQ(back.config, s.config);
  EXPECT_EQ(back.fingerprint, s.fingerprint);
  EXPECT_EQ(back.reduction, s.reduction);
  EXPECT_TRUE(back.any_fast);
  EXPECT_EQ(back.epoch_sums, s.epoch_sums);
  EXPECT_EQ(back.loss_scale, s.loss_scale);
  EXPECT_EQ(back.preprocessing_sha256, s.preprocessing_sha256);
  ASSERT_TRUE(back.data.has_value());
  EXPECT_EQ(back.data->files, s.data->files);
  EXPECT_EQ(back.guard, s.guard);
  EXPECT_EQ(back.plans.training, s.plans.training);
  EXPECT_EQ(back.plans.evaluation, s.plans.evaluation);
  EXPECT_EQ(back.plans.evaluation_rows, s.plans.evaluation_rows);
  EXPECT_EQ(stored(back), stored(s)) << "a member that no line above names";
}

TEST(RunStates, OfOlderVersionsLackWhatTheseDidNotWrite) {
  json d = stored(full_state());
  d["extra"] = json::object();
  d["best"].erase("loss");
  d["best"].erase("name");
  const RunState s = run_state_from_json(d);
  EXPECT_EQ(s.fault, "");
  EXPECT_EQ(s.best.step, 30);
  EXPECT_FALSE(s.best.loss.has_value());
  EXPECT_EQ(s.best.name, "");
  EXPECT_EQ(s.epoch_sums, EpochSums());
  EXPECT_FALSE(s.loss_scale.has_value());
  EXPECT_EQ(s.preprocessing_sha256, "");
  EXPECT_FALSE(s.data.has_value());
  EXPECT_EQ(s.guard, GuardState());
  EXPECT_EQ(s.plans.training, "");
}

TEST(RunStates, TellWhyAResumeCannotReadThem) {
  struct Case {
    const char* key;
    json value;
    const char* fault;
  };
  for (const Case& c : {Case{"epoch_loss", "1", "'epoch_loss' is not a number"},
                        Case{"loss_scale", {{"scale", 0}}, "'scale' is 0, but must be from 1 to 16777216"},
                        Case{"preprocessing_sha256", 5, "must be string"},
                        Case{"data", {{"files", 1}}, "what the run knows of its data cannot be read"},
                        Case{"guard", 1, "the state of the guards is not an object"},
                        Case{"guard", {{"skipped", {{{"step", 1}}}}}, "key 'position' not found"}}) {
    json d = stored(full_state());
    d["extra"][c.key] = c.value;
    const RunState s = run_state_from_json(d);
    EXPECT_THAT(s.fault, HasSubstr(c.fault)) << c.key;
    EXPECT_EQ(s.fault.find("json.exception"), std::string::npos) << s.fault;
    EXPECT_EQ(s.step, 40) << "the rest is there";
    EXPECT_EQ(s.plans.training, "a = p\n");
  }
  json d = stored(full_state());
  d["extra"] = json::array({1});
  EXPECT_THROW((void)run_state_from_json(d), JsonNumberError);
}

TEST(RunStates, ThatAreNotFiniteAreAnInternalError) {
  RunState s = full_state();
  s.epoch_sums.loss = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW((void)to_json(s), InternalError);
  s = full_state();
  s.best.metric = std::numeric_limits<double>::infinity();
  EXPECT_THROW((void)to_json(s), InternalError);
}

TEST(DataPositions, AreThoseOfTheOrder) {
  for (const std::int64_t samples : {1, 7, 12, 13})
    for (const std::int64_t batch : {1, 4, 20}) {
      const EpochOrder order(samples, batch, 1, 5);
      std::int64_t position = 0;
      for (std::int64_t step = 0; step < 40; ++step) {
        const auto found = data_position(step, samples, batch);
        ASSERT_TRUE(found.has_value());
        ASSERT_EQ(found->samples, position) << samples << " samples in batches of " << batch;
        ASSERT_EQ(found->epoch, order.batch_at(position).epoch);
        position = order.batch_at(position).next();
      }
    }
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(data_position(most, 1000, 1)->samples, most);
  EXPECT_EQ(data_position(most, 1000, 2), std::nullopt);
}

}  // namespace
}  // namespace lockstep
