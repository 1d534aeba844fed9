#include "trainer/checkpoint/checkpoint.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "support/temp_dir.h"
#include "trainer/checkpoint/test_support.h"

namespace lockstep::checkpoint_test {
namespace {

namespace fs = std::filesystem;
using test::write_file_bytes;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(Checkpoints, KeepEveryBitOfStateAndTensors) {
  EXPECT_EQ(newest(), std::nullopt);
  const int g = store_.claim_generation();
  EXPECT_EQ(g, 1);
  Tensors t(7);
  RunState s = state_at(7);
  s.position = (std::int64_t{1} << 53) + 1;  // beyond what a double holds
  s.best.metric = 0.1 + 0.2;
  s.best.step = 5;
  s.reduction = "fast";
  s.any_fast = true;
  s.guard.skipped = {{3, 96, 0, "\u00e9", {1, 2}}};
  s.guard.losses = {{0.1, 1e-300}};
  const std::string path = store_.save(g, s, t.model, t.optimizer);
  EXPECT_EQ(path, gen(1) + "/step-000000007");

  const Checkpoint c = load_checkpoint(path);
  EXPECT_EQ(c.state.generation, 1);
  EXPECT_EQ(c.state.step, 7);
  EXPECT_EQ(c.state.position, s.position);
  EXPECT_EQ(c.state.epoch, 0);
  EXPECT_EQ(c.state.slices, 8);
  EXPECT_EQ(c.state.horizon, 100);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(*c.state.best.metric), std::bit_cast<std::uint64_t>(0.1 + 0.2));
  EXPECT_EQ(c.state.best.step, 5);
  EXPECT_EQ(c.state.config, s.config);
  EXPECT_EQ(c.state.fingerprint, s.fingerprint);
  EXPECT_EQ(c.state.reduction, "fast");
  EXPECT_TRUE(c.state.any_fast);
  EXPECT_EQ(c.state.guard, s.guard);
  std::vector<float> weight(24);
  c.model.read_f32("fc.weight", {6, 4}, weight);
  EXPECT_EQ(std::memcmp(weight.data(), t.weight.data(), sizeof(float) * 24), 0);
  ASSERT_TRUE(c.optimizer.has_value());
  c.optimizer->check_names({"optimizer.exp_avg.fc.weight"});
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000007"});
}

TEST_F(Checkpoints, TheHighestGenerationAndStepIsTaken) {
  const int first = store_.claim_generation();
  save(store_, first, 10);
  save(store_, first, 30);
  const int second = store_.claim_generation();
  EXPECT_EQ(newest()->step, 30);
  save(store_, second, 20);
  EXPECT_EQ(newest()->path, gen(2) + "/step-000000020");
  // A job that was cut off goes on in its own generation and displaces nothing.
  save(store_, first, 1000);
  EXPECT_EQ(newest()->path, gen(2) + "/step-000000020");
  EXPECT_THAT(passed_over_, IsEmpty());
}

TEST_F(Checkpoints, SavingAStepAgainReplacesItWhole) {
  const int g = store_.claim_generation();
  save(store_, g, 5);
  RunState s = state_at(5);
  s.best.metric = 0.75;
  s.best.step = 5;
  const Tensors t(5);
  store_.save(g, s, t.model, t.optimizer);
  EXPECT_EQ(load_checkpoint(newest()->path).state.best.step, 5);
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000005"});
}

TEST_F(Checkpoints, PruneKeepsTheNewestAndNeverTouchesAHigherGeneration) {
  for (int g = 1; g <= 3; ++g) {
    ASSERT_EQ(store_.claim_generation(), g);
    for (int step : {10, 20}) save(store_, g, step + g);
    fs::create_directories(gen(g) + "/.saving-step-000000099");
    fs::create_directories(gen(g) + "/.removing-step-000000098");
    write_file_bytes(gen(g) + "/notes.txt", "the user's own");
  }
  store_.prune(2, 3);
  EXPECT_EQ(names_in(gen(1)), (std::set<std::string>{"step-000000021", "notes.txt"}));
  EXPECT_EQ(names_in(gen(2)), (std::set<std::string>{"step-000000012", "step-000000022", "notes.txt"}));
  EXPECT_EQ(names_in(gen(3)).size(), 5u);
  store_.prune(2, 1);
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"notes.txt"});
  EXPECT_EQ(names_in(gen(2)), (std::set<std::string>{"step-000000022", "notes.txt"}));
  EXPECT_EQ(names_in(gen(3)).size(), 5u);
  EXPECT_EQ(newest()->path, gen(3) + "/step-000000023");
  EXPECT_EQ(store_.claim_generation(), 4);
}

TEST_F(Checkpoints, ADamagedOneIsNoneOfThoseThatPruneKeeps) {
  const int first = store_.claim_generation();
  for (const int step : {10, 20, 30, 40}) save(store_, first, step);
  // The bytes of one are wrong, the manifest of another cannot be read.
  const std::string weights = gen(1) + "/step-000000040/model.safetensors";
  std::string bytes = test::read_file_bytes(weights);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  test::write_file_bytes(weights, bytes);
  test::write_file_bytes(gen(1) + "/step-000000030/manifest.json", "{");
  EXPECT_EQ(newest()->step, 20);
  EXPECT_EQ(passed_over_.size(), 2u);

  const int second = store_.claim_generation();
  save(store_, second, 25);
  store_.prune(second, 2);
  EXPECT_EQ(names_in(gen(1)), (std::set<std::string>{"step-000000020", "step-000000030", "step-000000040"}));
  save(store_, second, 30);
  store_.prune(second, 2);
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>());
  EXPECT_EQ(names_in(gen(2)), (std::set<std::string>{"step-000000025", "step-000000030"}));
}

TEST_F(Checkpoints, TheBestWeightsLiveAsLongAsACheckpointRefersToThem) {
  const int g = store_.claim_generation();
  const auto at = [&](std::int64_t step, std::int64_t best) {
    const Tensors t(step);
    RunState s = state_at(step);
    s.best.metric = 0.5;
    s.best.step = best;
    if (best == step) store_.save_best(g, s, t.model);
    store_.save(g, s, t.model, t.optimizer);
    store_.prune(g, 1);
  };
  at(10, 10);
  at(20, 10);
  at(30, 10);
  const auto best = store_.find_best(10, passed_over_);
  ASSERT_TRUE(best.has_value());
  const Checkpoint c = load_checkpoint(best->path);
  EXPECT_EQ(first_bias(c), -10.0f);
  EXPECT_FALSE(c.optimizer.has_value());
  EXPECT_EQ(newest()->step, 30);  // best weights are no checkpoint to resume from
  // Saved, but the job dies before a checkpoint says so: both stay.
  const Tensors t(35);
  store_.save_best(g, state_at(35), t.model);
  store_.prune(g, 1);
  EXPECT_EQ(names_in(gen(1)), (std::set<std::string>{"best-000000010", "best-000000035", "step-000000030"}));
  at(40, 35);
  EXPECT_EQ(names_in(gen(1)), (std::set<std::string>{"best-000000035", "step-000000040"}));
  EXPECT_EQ(store_.find_best(10, passed_over_), std::nullopt);
}

TEST_F(Checkpoints, WhereBestWeightsCouldNotBeSavedThoseBeforeThemStay) {
  const int g = store_.claim_generation();
  const auto at = [&](std::int64_t step, std::int64_t best, bool best_is_saved) {
    const Tensors t(step);
    RunState s = state_at(step);
    s.best.metric = 0.5;
    s.best.step = best;
    if (best_is_saved) store_.save_best(g, s, t.model);
    store_.save(g, s, t.model, t.optimizer);
    store_.prune(g, 1);
  };
  at(10, 10, true);
  at(20, 20, true);
  at(30, 30, false);
  at(40, 30, false);
  EXPECT_EQ(names_in(gen(1)), (std::set<std::string>{"best-000000020", "step-000000040"}));
  EXPECT_EQ(store_.find_best(30, passed_over_)->step, 20);
  EXPECT_THAT(passed_over_, testing::ElementsAre(testing::AllOf(testing::HasSubstr("step 30"),
                                                                testing::HasSubstr("step 20 stand in"))));
  at(50, 50, true);
  EXPECT_EQ(names_in(gen(1)), (std::set<std::string>{"best-000000050", "step-000000050"}));
  // Under another name they are not those of that step.
  fs::rename(gen(1) + "/best-000000050", gen(1) + "/best-000000045");
  EXPECT_EQ(store_.find_best(50, passed_over_), std::nullopt);
}

TEST_F(Checkpoints, WeightsAloneAreNothingToResumeFrom) {
  const int g = store_.claim_generation();
  save(store_, g, 10);
  const Tensors t(20);
  store_.save_best(g, state_at(20), t.model);
  fs::rename(gen(1) + "/best-000000020", gen(1) + "/step-000000020");
  EXPECT_EQ(newest()->step, 10);
  EXPECT_THAT(passed_over_, testing::ElementsAre(testing::HasSubstr("no optimizer state")));
}

TEST_F(Checkpoints, AReaderBesideAJobThatPrunesFindsOneEveryTime) {
  const int g = store_.claim_generation();
  save(store_, g, 1);
  std::atomic<bool> stop{false};
  std::thread job([&] {
    CheckpointStore store(dir_.path());
    for (std::int64_t step = 2; !stop; ++step) {
      save(store, g, step);
      store.prune(g, 1);
    }
  });
  int found = 0;
  for (int i = 0; i < 300; ++i) found += newest() && passed_over_.empty() ? 1 : 0;
  stop = true;
  job.join();
  EXPECT_EQ(found, 300);
}

TEST_F(Checkpoints, AFileOfTheNameOfAGenerationIsInNobodysWay) {
  const int g = store_.claim_generation();
  write_file_bytes(gen(2), "");
  const int later = store_.claim_generation();
  EXPECT_EQ(later, 3);
  save(store_, g, 10);
  save(store_, later, 20);
  store_.prune(later, 1);
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>());
  fs::create_directories(dir_ / "checkpoints/gen-1000000000");
  EXPECT_THAT(message_of([&] { store_.claim_generation(); }), testing::HasSubstr("gen-1000000000"));
}

TEST_F(Checkpoints, LeftoversOfTheOwnGenerationDoNotDisturbASave) {
  const int g = store_.claim_generation();
  fs::create_directories(gen(1) + "/.saving-step-000000010/model.safetensors");
  save(store_, g, 10);
  EXPECT_EQ(newest()->step, 10);
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000010"});
}

TEST_F(Checkpoints, ForeignNamesAreLeftAlone) {
  const int g = store_.claim_generation();
  save(store_, g, 10);
  for (const char* name : {"gen-2", "gen-0000002", "gen-00000x", "old"}) {
    fs::create_directories(dir_ / ("checkpoints/" + std::string(name) + "/step-000000090"));
  }
  for (const char* name : {"step-90", "step-", "step-0000000090", "step-00000009x", "step--00000009"}) {
    fs::create_directories(gen(1) + "/" + name);
  }
  EXPECT_EQ(newest()->step, 10);
  EXPECT_THAT(passed_over_, IsEmpty());
  store_.prune(g, 1);
  EXPECT_EQ(names_in(gen(1)).size(), 6u);
  // A file where a generation would be: its number is taken.
  write_file_bytes(gen(7), "");
  EXPECT_EQ(store_.claim_generation(), 8);
}

}  // namespace
}  // namespace lockstep::checkpoint_test
