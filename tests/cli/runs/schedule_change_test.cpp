// A run whose learning rate is changed in its course: the change is part of the run from its step on, however
// often and wherever the run was interrupted. And what would have no effect.

#include <filesystem>
#include <set>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

/// Three steps an epoch, four epochs, cosine.
class ScheduleChange : public ::testing::Test {
 protected:
  ScheduleChange() { write_file_bytes(folder / "small.ini", small_config()); }
  ProcessResult train(int ranks, const std::string& dir, const std::vector<std::string>& more = {}) {
    std::vector<std::string> args = {"train",     "--config",          folder / "small.ini",
                                     "--run.dir", folder / dir,        "--checkpoint.every_steps",
                                     "1",         "--checkpoint.keep", "20"};
    args.insert(args.end(), more.begin(), more.end());
    return lockstep(ranks, args);
  }
  ProcessResult resume(int ranks, const std::string& dir, const std::vector<std::string>& more = {}) {
    std::vector<std::string> args = {"train", "--resume", "--run.dir", folder / dir};
    args.insert(args.end(), more.begin(), more.end());
    return lockstep(ranks, args);
  }
  void expect_done(const ProcessResult& result) { ASSERT_EQ(result.exit_code, 0) << result.describe(); }
  std::string config_of(const std::string& dir) {
    return read_file_bytes(folder / dir + "/config.resolved.ini");
  }
  std::string state(const std::string& dir) { return digest(folder / dir, true) + digest(folder / dir); }
  TempDir folder;
};

TEST_F(ScheduleChange, UndisturbedAndInterruptedRunsWithTheSameChangeHaveOneDigest) {
  const std::vector<std::string> change = {"--optimizer.lr", "0.003", "--schedule.steps", "30"};
  expect_done(
      train(1, "whole",
            {"--schedule.steps", "12", "--schedule.changes", "5: optimizer.lr=0.003 schedule.steps=30"}));
  std::set<std::string> digests = {state("whole")};
  for (const int ranks : {0, 2, 3, 4}) {
    const std::string dir = "run" + std::to_string(ranks);
    expect_done(train(ranks, dir, {"--train.steps", "5"}));
    std::vector<std::string> more = change;
    more.insert(more.end(), {"--train.steps", "8"});
    const ProcessResult changed = resume(ranks, dir, more);
    expect_done(changed);
    EXPECT_EQ(count(changed.err, "from step 6 on: optimizer.lr=0.003 schedule.steps=30"), 1) << changed.err;
    EXPECT_EQ(count(config_of(dir), "changes = 5: optimizer.lr=0.003 schedule.steps=30\n"), 1);
    EXPECT_EQ(count(config_of(dir), "lr = 0.01\n"), 1) << "what it began with stays";
    // As after the loss of all checkpoints behind the third: the change holds from the fifth step all the
    // same.
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / dir + "/checkpoints")) {
      const std::string name = entry.path().filename();
      if (name.starts_with("step-") && std::stoi(name.substr(5)) > 3)
        write_file_bytes(entry.path().string() + "/manifest.json", "damaged");
    }
    // The flags of a job that is started again with its old command line are no second change.
    more.back() = "0";
    const ProcessResult again = resume(ranks, dir, more);
    expect_done(again);
    EXPECT_EQ(count(again.err, "step 3)"), 1) << again.err;
    EXPECT_EQ(count(config_of(dir), "changes = 5: optimizer.lr=0.003 schedule.steps=30\n"), 1);
    digests.insert(state(dir));
  }
  EXPECT_EQ(digests.size(), 1u);
  expect_done(train(1, "unchanged"));
  EXPECT_NE(state("unchanged"), state("whole"));
}

TEST_F(ScheduleChange, AFinishedCosineRunGoesOnWithALongerHorizonOnly) {
  expect_done(train(2, "run"));
  const std::string before = config_of("run"), weights = state("run");
  const ProcessResult refused = resume(2, "run", {"--train.epochs", "6"});
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "--schedule.steps 18"), 1) << refused.err;
  EXPECT_EQ(config_of("run"), before);
  EXPECT_EQ(state("run"), weights);
  expect_done(resume(2, "run", {"--train.epochs", "6", "--schedule.steps", "18"}));
  EXPECT_NE(state("run"), weights);
  double lr = 0;
  for (const auto& line : json_lines(folder / "run/metrics.jsonl"))
    if (line["kind"] == "train" && line["step"] == 14) lr = line["lr"];
  EXPECT_GT(lr, 0);
  // Zero: what the epochs give.
  expect_done(resume(2, "run", {"--train.epochs", "7", "--schedule.steps", "0"}));
  EXPECT_EQ(count(config_of("run"), "18: schedule.steps=21"), 1) << config_of("run");
  EXPECT_EQ(resume(1, "run", {"--schedule.steps", "0"}).exit_code, 0) << "that holds already";
}

TEST_F(ScheduleChange, AnotherNameIsPossibleAndIdleValuesAreRefused) {
  expect_done(train(1, "run", {"--train.steps", "6", "--schedule.min_lr", "0.001"}));
  for (const std::vector<std::string>& idle :
       {std::vector<std::string>{"--train.steps", "9", "--schedule.gamma", "0.5"},
        {"--train.steps", "9", "--optimizer.lr", "0.0001"},  // below schedule.min_lr
        {"--optimizer.lr", "0.02"}}) {                       // nothing is left to train
    const ProcessResult refused = resume(2, "run", idle);
    EXPECT_EQ(refused.exit_code, 2) << refused.describe();
    EXPECT_EQ(count(refused.err, "lockstep: error"), 1) << refused.describe();
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "run/checkpoints"), {}), 1)
      << "a refused start claims nothing";
  expect_done(resume(2, "run", {"--train.steps", "9", "--schedule.name", "constant"}));
  for (const auto& line : json_lines(folder / "run/metrics.jsonl"))
    if (line["kind"] == "train" && line["step"].get<int>() > 6) {
      EXPECT_EQ(line["lr"], 0.01) << line;
    }
}

TEST_F(ScheduleChange, ALongerWarmUpIsTakenWhereNoCosineHasAHorizon) {
  expect_done(train(1, "run", {"--schedule.name", "constant", "--train.epochs", "1"}));
  expect_done(train(1, "left", {"--train.steps", "6"}));
  expect_done(resume(1, "left", {"--train.steps", "7", "--schedule.name", "constant"}));
  for (const std::string dir : {"run", "left"}) {
    const ProcessResult longer =
        resume(2, dir, {"--train.epochs", "5", "--train.steps", "0", "--schedule.warmup_steps", "20"});
    expect_done(longer);
    EXPECT_EQ(count(config_of(dir), ": schedule.warmup_steps=20\n"), 1) << config_of(dir);
    // And the run goes on from there, by a new start with the same flags or with others.
    expect_done(resume(1, dir, {"--train.epochs", "6", "--schedule.warmup_steps", "20"}));
    expect_done(resume(1, dir, {"--train.epochs", "7", "--schedule.steps", "0"}));
    expect_done(resume(2, dir, {"--train.epochs", "8", "--optimizer.lr", "0.003"}));
  }
}

TEST_F(ScheduleChange, AHorizonThatNoScheduleHasIsToldOfAndChangesNothing) {
  expect_done(train(1, "run", {"--schedule.name", "constant", "--train.epochs", "1"}));
  expect_done(train(1, "plain", {"--schedule.name", "constant", "--train.epochs", "1"}));
  // Shorter than the warm-up, too, which it does not bind.
  for (const auto& [epochs, steps] : {std::pair("2", "50"), {"3", "2"}, {"3", "2"}}) {
    const ProcessResult idle = resume(2, "run", {"--train.epochs", epochs, "--schedule.steps", steps});
    expect_done(idle);
    EXPECT_EQ(count(idle.err, "--schedule.steps " + std::string(steps) + " has no effect"), 1) << idle.err;
    EXPECT_EQ(count(idle.err, "schedule.name is constant"), 1) << idle.err;
  }
  EXPECT_EQ(count(config_of("run"), "changes = \n") + count(config_of("run"), "changes =\n"), 1)
      << config_of("run");
  expect_done(resume(1, "plain", {"--train.epochs", "3"}));
  EXPECT_EQ(state("run"), state("plain"));
  // With another value it is left out, and that one is taken.
  const ProcessResult both =
      resume(1, "run", {"--train.epochs", "4", "--schedule.steps", "9", "--optimizer.lr", "0.003"});
  expect_done(both);
  EXPECT_EQ(count(both.err, "--schedule.steps 9 has no effect"), 1) << both.err;
  EXPECT_EQ(count(config_of("run"), ": optimizer.lr=0.003\n"), 1) << config_of("run");
}

TEST_F(ScheduleChange, AFileChangesNoRun) {
  expect_done(train(1, "run", {"--train.steps", "4"}));
  std::string text = small_config();
  text.replace(text.find("lr = 0.01"), 9, "lr = 0.05");
  write_file_bytes(folder / "other.ini", text);
  const ProcessResult refused = lockstep(1, {"train", "--resume", "--config", folder / "other.ini",
                                             "--run.dir", folder / "run", "--train.steps", "6"});
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "--optimizer.lr 0.05"), 1) << refused.err;
  // Nor does the file that it began with take a change back.
  expect_done(resume(1, "run", {"--train.steps", "5", "--optimizer.lr", "0.02"}));
  expect_done(lockstep(1, {"train", "--resume", "--config", folder / "small.ini", "--run.dir", folder / "run",
                           "--train.steps", "6"}));
  EXPECT_EQ(count(config_of("run"), "changes = 4: optimizer.lr=0.02\n"), 1) << config_of("run");
}

TEST_F(ScheduleChange, AnEndThatLiesBehindTrainsNothingAndRewritesNothing) {
  expect_done(train(2, "run"));
  const std::string before = config_of("run"), weights = state("run");
  const ProcessResult shorter = resume(2, "run", {"--train.epochs", "3"});
  expect_done(shorter);
  EXPECT_EQ(count(shorter.err, "nothing is trained"), 1) << shorter.err;
  EXPECT_EQ(count(shorter.out, "trained "), 0) << shorter.out;
  EXPECT_EQ(count(shorter.out, "no step was left to train"), 1) << shorter.out;
  EXPECT_EQ(config_of("run"), before);
  EXPECT_EQ(state("run"), weights);
  const ProcessResult same = resume(2, "run");
  expect_done(same);
  EXPECT_EQ(count(same.err, "nothing is left to train"), 1) << same.err;
  // A bound that is not the one that ends the run does not help, and the one that does is named.
  const ProcessResult bound = resume(2, "run", {"--train.steps", "50"});
  expect_done(bound);
  EXPECT_EQ(count(bound.err, "train.epochs, now 4, must be higher"), 1) << bound.err;
}

TEST_F(ScheduleChange, AWarmUpBeyondTheEndIsToldOfForEverySchedule) {
  for (const std::string name : {"constant", "cosine", "step"}) {
    std::vector<std::string> more = {"--train.steps",           "2",  "--train.epochs",  "0",
                                     "--schedule.warmup_steps", "50", "--schedule.name", name};
    if (name == "step") more.insert(more.end(), {"--schedule.milestones", "60"});
    const ProcessResult result = train(2, name, more);
    expect_done(result);
    EXPECT_EQ(count(result.err, "within the warm-up of 50 steps (schedule.warmup_steps)"), 1) << result.err;
    // And the run can be read and goes on.
    const ProcessResult evaluated = lockstep(1, {"evaluate", "--run", folder / name});
    EXPECT_EQ(evaluated.exit_code, 0) << evaluated.describe();
    const ProcessResult further = resume(1, name, {"--train.steps", "3"});
    EXPECT_EQ(further.exit_code, 0) << further.describe();
    EXPECT_EQ(count(further.out, "trained 1 step in"), 1) << further.out;
    EXPECT_EQ(count(further.out, ", 3 in all"), 1) << further.out;
  }
}

TEST_F(ScheduleChange, AnEditedListOfChangesIsRefused) {
  expect_done(train(1, "run", {"--train.steps", "4"}));
  expect_done(resume(1, "run", {"--train.steps", "8", "--optimizer.lr", "0.02"}));
  std::string text = config_of("run");
  text.replace(text.find("4: optimizer.lr=0.02"), 20, "6: optimizer.lr=0.02");
  write_file_bytes(folder / "run/config.resolved.ini", text);
  const ProcessResult refused = resume(2, "run", {"--train.steps", "10"});
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "schedule.changes is \"6: optimizer.lr=0.02\""), 1) << refused.err;
}

}  // namespace
}  // namespace lockstep::test
