#include "trainer/cli/run_summary.h"

#include <chrono>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <span>
#include <unistd.h>
#include <vector>

#include "core/error.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/config/config.h"

namespace lockstep {
namespace {

using test::read_file_bytes;
using test::write_file_bytes;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using State = RunSummary::State;
namespace fs = std::filesystem;

class Runs : public testing::Test {
 protected:
  /// A run of 4 epochs of 5 steps.
  std::string make(const std::string& name, const std::string& metrics, double lr = 0.01) {
    const std::string path = dir / name;
    fs::create_directories(path);
    Config config;
    config.run.dir = path;
    config.model.layers = "dense:3";
    config.data.format = "csv";
    config.data.train = "a.csv";
    config.train.epochs = 4;
    config.schedule.steps = 100;
    config.optimizer.lr = lr;
    config.device.threads = static_cast<int>(name.size());  // a placement key
    write_file_bytes(path + "/config.resolved.ini", resolved_ini(config));
    write_file_bytes(path + "/metrics.jsonl", metrics);
    return path;
  }
  static std::string epoch(int number, const std::string& more) {
    return "{\"kind\":\"epoch\",\"step\":" + std::to_string(5 * number) +
           ",\"epoch\":" + std::to_string(number) + more + "}\n";
  }
  test::TempDir dir;
};

TEST_F(Runs, TellTheirStepsAndTheBestValidation) {
  const std::string text = epoch(1, ",\"validation_loss\":1.0,\"validation_accuracy\":0.5") +
                           epoch(2, ",\"validation_loss\":2.0,\"validation_accuracy\":0.75") +
                           epoch(3, ",\"validation_loss\":0.1,\"validation_accuracy\":0.75") +
                           epoch(4, ",\"validation_loss\":null") +
                           "{\"kind\":\"test\",\"step\":20,\"accuracy\":0.625}\n{\"kind\":\"ep";
  const std::string path = make("a", text);
  RunSummary run = summarise_run(path);
  EXPECT_EQ(run.state, State::stopped);
  EXPECT_EQ(run.step, 20);
  EXPECT_EQ(run.steps, 20) << "4 epochs of 5 steps";
  EXPECT_EQ(run.best_metric, "accuracy");
  EXPECT_EQ(run.best_value, 0.75);
  EXPECT_EQ(run.best_step, 15) << "of equal accuracies the lower loss";
  EXPECT_EQ(run.test_metric, "accuracy");
  EXPECT_EQ(run.test_value, 0.625);
  EXPECT_EQ(run.config.at("optimizer.lr"), "0.01");
  EXPECT_EQ(run.config.count("run.dir") + run.config.count("device.threads"), 0u);
  EXPECT_EQ(state_text(run), "stopped at step 20");
  write_file_bytes(path + "/model.safetensors", "");
  EXPECT_EQ(state_text(summarise_run(path)), "finished");
}

TEST_F(Runs, OfRegressionTheLowestLossIsTheBest) {
  const RunSummary run = summarise_run(
      make("a", epoch(1, ",\"validation_loss\":3") + epoch(2, ",\"validation_loss\":2.5") +
                    epoch(3, ",\"validation_loss\":4") + "{\"kind\":\"test\",\"step\":15,\"rmse\":0.5}\n"));
  EXPECT_EQ(run.best_metric, "loss");
  EXPECT_EQ(run.best_value, 2.5);
  EXPECT_EQ(run.test_metric, "rmse");
}

TEST_F(Runs, NameTheBestThatTheTrainingKeeps) {
  const std::string text = epoch(1, ",\"validation_loss\":1.0,\"validation_accuracy\":0.75") +
                           epoch(2, ",\"validation_loss\":0.5,\"validation_accuracy\":0.5");
  const std::string path = make("a", text);
  EXPECT_EQ(summarise_run(path).best_step, 5);
  Config by_loss = make_config(read_config_file(path + "/config.resolved.ini"));
  by_loss.train.best = "loss";
  write_file_bytes(path + "/config.resolved.ini", resolved_ini(by_loss));
  const RunSummary run = summarise_run(path);
  EXPECT_EQ(run.best_metric, "loss");
  EXPECT_EQ(run.best_value, 0.5);
  EXPECT_EQ(run.best_step, 10);
  // A run that ends within its first epoch.
  const RunSummary brief = summarise_run(make("b", "{\"kind\":\"end\",\"step\":3,\"validation_loss\":2}\n"));
  EXPECT_EQ(brief.best_metric, "loss");
  EXPECT_EQ(brief.best_step, 3);
}

TEST_F(Runs, WithoutMetricsTheTestIsThatOfItsReport) {
  const std::string path = make("a", "");
  fs::remove(path + "/metrics.jsonl");
  write_file_bytes(path + "/test.json", "{\"loss\": 1.5, \"accuracy\": 0.25}");
  fs::create_directories(path + "/checkpoints/gen-000001/step-000000120");
  const RunSummary run = summarise_run(path);
  EXPECT_EQ(run.test_metric, "accuracy");
  EXPECT_EQ(run.test_value, 0.25);
  EXPECT_EQ(run.step, 120);
  EXPECT_EQ(run.steps, 0) << "where it ends is not known: the schedule is shorter than what was done";
}

TEST_F(Runs, WithoutMetricsTheBestIsThatOfTheNewestWholeCheckpoint) {
  const std::string path = make("a", "");
  fs::remove(path + "/metrics.jsonl");
  CheckpointStore store(path);
  const int generation = store.claim_generation();
  const std::vector<float> weights = {1, 2};
  const std::vector<TensorView> model = {
      {"w", DType::f32, Shape{2}, std::as_bytes(std::span<const float>(weights))}};
  const auto save = [&](std::int64_t step, const std::string& name, double metric) {
    RunState state;
    state.step = step;
    state.position = step;
    state.slices = 4;
    state.config = read_file_bytes(path + "/config.resolved.ini");
    state.best.metric = metric;
    state.best.loss = 0.5;
    state.best.step = step - 1;
    state.best.name = name;
    store.save(generation, state, model, model);
  };
  save(5, "accuracy", 0.75);
  EXPECT_EQ(summarise_run(path).best_metric, "accuracy");
  EXPECT_EQ(summarise_run(path).best_value, 0.75);
  EXPECT_EQ(summarise_run(path).best_step, 4);
  save(10, "loss", -0.25);
  EXPECT_EQ(summarise_run(path).best_metric, "loss");
  EXPECT_EQ(summarise_run(path).best_value, 0.25);
  save(15, "", -0.125);
  EXPECT_EQ(summarise_run(path).best_metric, "loss");
  EXPECT_EQ(summarise_run(path).best_value, 0.125);
  // A newer one that is damaged, and metrics, which win.
  fs::create_directories(path + "/checkpoints/gen-000001/step-000000020");
  EXPECT_EQ(summarise_run(path).best_step, 14);
  write_file_bytes(path + "/metrics.jsonl", epoch(1, ",\"validation_loss\":3"));
  EXPECT_EQ(summarise_run(path).best_value, 3);
}

TEST_F(Runs, ThatDivergedOrAreHeldSaySo) {
  const std::string last = "{\"kind\":\"diverged\",\"step\":7}\n";
  EXPECT_EQ(state_text(summarise_run(make("a", epoch(1, "") + last))), "diverged at step 7");
  EXPECT_EQ(state_text(summarise_run(make("b", last + epoch(2, "")))), "stopped at step 10") << "it went on";
  const std::string lease = dir / "a/lease.json";
  write_file_bytes(lease, "{}");
  EXPECT_EQ(state_text(summarise_run(dir / "a")), "running");
  fs::last_write_time(lease, fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_EQ(state_text(summarise_run(dir / "a")), "diverged at step 7") << "nobody renews it";
}

TEST_F(Runs, WhatCannotBeReadIsADamagedRunAndNoError) {
  const std::string path = make("a", "");
  for (const char* text : {"", "[train]\nepochs = many\n", "\x1b[2J", "[nosuch]\nkey = 1\n"}) {
    write_file_bytes(path + "/config.resolved.ini", text);
    const RunSummary run = summarise_run(path);
    EXPECT_EQ(run.state, State::damaged) << text;
    EXPECT_THAT(state_text(run), HasSubstr("damaged: ")) << text;
  }
  make("a",
       "{\"kind\":\"epoch\",\"step\":1e300,\"epoch\":0,\"validation_loss\":\"x\"}\n[1]\n{\"kind\":3}\n"
       "{\"kind\":\"epoch\",\"step\":18446744073709551615,\"epoch\":1}\n\n\xff\n");
  EXPECT_EQ(state_text(summarise_run(path)), "stopped at step 0");
  fs::remove(path + "/config.resolved.ini");
  EXPECT_EQ(summarise_run(path).state, State::damaged);
}

TEST_F(Runs, AreFoundBelowFoldersAndNotInsideRuns) {
  make("x/b", "");
  make("x/a", "");
  make("x/a/inner", "");
  make("c", "");
  fs::create_directory_symlink(dir.path(), dir / "loop");
  std::map<std::string, std::string> unreadable;
  EXPECT_THAT(find_runs(dir.path() + "/", unreadable), ElementsAre(dir / "c", dir / "x/a", dir / "x/b"));
  EXPECT_THAT(find_runs(dir / "x/a", unreadable), ElementsAre(dir / "x/a"));
  EXPECT_THAT(unreadable, IsEmpty());
  EXPECT_THROW(find_runs(dir / "absent", unreadable), InputError);
  EXPECT_THROW(find_runs(dir / "c/metrics.jsonl", unreadable), InputError);
}

TEST_F(Runs, KeysThatDifferAreThoseOfTheSoundOnes) {
  std::vector<RunSummary> runs = {summarise_run(make("a", "")), summarise_run(make("bcd", "", 0.02)),
                                  summarise_run(dir / "absent")};
  EXPECT_EQ(runs[2].state, State::damaged);
  EXPECT_THAT(differing_keys(runs), ElementsAre("optimizer.lr"));
  runs[1].config = runs[0].config;
  EXPECT_THAT(differing_keys(runs), IsEmpty());
}

}  // namespace
}  // namespace lockstep
