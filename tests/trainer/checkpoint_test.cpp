#include "trainer/checkpoint/checkpoint.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "core/error.h"
#include "core/file.h"
#include "support/mount.h"
#include "support/process.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint_test_support.h"

namespace lockstep::checkpoint_test {
namespace {

namespace fs = std::filesystem;
using test::TmpfsMount;
using test::write_file_bytes;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(Checkpoints, KeepEveryBitOfStateAndTensors) {
  EXPECT_EQ(newest(), std::nullopt);
  const int g = store_.claim_generation();
  EXPECT_EQ(g, 1);
  Tensors t(7);
  TrainingState s = state_at(7);
  s.position = (std::int64_t{1} << 53) + 1;  // beyond what a double holds
  s.best_metric = 0.1 + 0.2;
  s.best_step = 5;
  s.reduction = "fast";
  s.any_fast = true;
  s.extra = R"({"class_names":["a","\u00e9"],"mean":[0.1,1e-300]})";
  const std::string path = store_.save(g, s, t.model, t.optimizer);
  EXPECT_EQ(path, gen(1) + "/step-000000007");

  const Checkpoint c = load_checkpoint(path);
  EXPECT_EQ(c.state.generation, 1);
  EXPECT_EQ(c.state.step, 7);
  EXPECT_EQ(c.state.position, s.position);
  EXPECT_EQ(c.state.epoch, 0);
  EXPECT_EQ(c.state.slices, 8);
  EXPECT_EQ(c.state.horizon, 100);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(*c.state.best_metric), std::bit_cast<std::uint64_t>(0.1 + 0.2));
  EXPECT_EQ(c.state.best_step, 5);
  EXPECT_EQ(c.state.config, s.config);
  EXPECT_EQ(c.state.fingerprint, s.fingerprint);
  EXPECT_EQ(c.state.reduction, "fast");
  EXPECT_TRUE(c.state.any_fast);
  EXPECT_EQ(nlohmann::json::parse(c.state.extra), nlohmann::json::parse(s.extra));
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
  TrainingState s = state_at(5);
  s.best_metric = 0.75;
  s.best_step = 5;
  const Tensors t(5);
  store_.save(g, s, t.model, t.optimizer);
  EXPECT_EQ(load_checkpoint(newest()->path).state.best_step, 5);
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
    TrainingState s = state_at(step);
    s.best_metric = 0.5;
    s.best_step = best;
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
    TrainingState s = state_at(step);
    s.best_metric = 0.5;
    s.best_step = best;
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

// Runs `body` in a child process that leaves without unwinding the test program.
pid_t in_child(const std::function<void()>& body) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  try {
    body();
  } catch (...) {
    _exit(1);
  }
  _exit(0);
}

TEST_F(Checkpoints, JobsThatStartAtOnceClaimDifferentGenerations) {
  constexpr int jobs = 4, claims = 25;
  test::detail::Pipe pipe;
  std::vector<pid_t> children;
  for (int j = 0; j < jobs; ++j) {
    children.push_back(in_child([&] {
      for (int i = 0; i < claims; ++i) {
        const int g = CheckpointStore(dir_.path()).claim_generation();
        if (write(pipe.write_end, &g, sizeof g) != sizeof g) _exit(2);
      }
    }));
  }
  pipe.close_write();
  std::vector<int> got;
  for (int g = 0; read(pipe.read_end, &g, sizeof g) == sizeof g;) got.push_back(g);
  for (const pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  std::sort(got.begin(), got.end());
  std::vector<int> expected(jobs * claims);
  std::iota(expected.begin(), expected.end(), 1);
  EXPECT_EQ(got, expected);
}

TEST_F(Checkpoints, AKillAtAnyMomentLosesNothingAcknowledged) {
  std::mt19937 random(7);
  std::int64_t acknowledged = -1;
  int kills_in_a_save = 0;
  for (int round = 0; round < 40; ++round) {
    const std::int64_t from = acknowledged + 1;
    test::detail::Pipe pipe;
    const pid_t child = in_child([&] {
      CheckpointStore store(dir_.path());
      const int g = store.claim_generation();
      for (std::int64_t step = from;; ++step) {
        const Tensors t(step, 20'000);
        store.save(g, state_at(step), t.model, t.optimizer);
        if (write(pipe.write_end, &step, sizeof step) != sizeof step) _exit(2);
        store.prune(g, 2);
      }
    });
    pipe.close_write();
    // From the first acknowledged save on, so that every round reaches the saves.
    std::int64_t step = -1;
    ASSERT_EQ(read(pipe.read_end, &step, sizeof step), ssize_t{sizeof step});
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 12'000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    do {
      acknowledged = step;
    } while (read(pipe.read_end, &step, sizeof step) == ssize_t{sizeof step});

    const auto found = newest();
    ASSERT_TRUE(found.has_value());
    EXPECT_THAT(passed_over_, IsEmpty());  // nothing torn ever has a checkpoint's name
    EXPECT_GE(found->step, acknowledged);
    EXPECT_LE(found->step, acknowledged + 1);
    EXPECT_EQ(first_bias(load_checkpoint(found->path)), -static_cast<float>(found->step));
    for (const std::string& name : names_in(parent_directory(found->path))) {
      kills_in_a_save += name.starts_with(".") ? 1 : 0;
    }
  }
  EXPECT_GT(kills_in_a_save, 0);  // the rounds did hit saves
  // The next job clears away what the killed ones have left.
  const int g = store_.claim_generation();
  save(store_, g, acknowledged + 2);
  store_.prune(g, 1);
  for (int n = 1; n <= g; ++n) {
    char name[32];
    std::snprintf(name, sizeof name, "checkpoints/gen-%06d", n);
    EXPECT_EQ(names_in(dir_ / name).size(), n == g ? 1u : 0u) << name;
  }
}

TEST_F(Checkpoints, AFullDiskIsSeenBeforeAnythingIsWritten) {
  const TmpfsMount disk(dir_.path(), "size=512k");
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  const int g = store_.claim_generation();
  save(store_, g, 10);
  const Tensors large(20, 100'000);
  EXPECT_THAT(
      message_of([&] { store_.save(g, state_at(20), large.model, large.optimizer); }),
      AllOf(HasSubstr("no space for the checkpoint"), HasSubstr("step-000000020"), HasSubstr("are free")));
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000010"});
  EXPECT_EQ(newest()->step, 10);
  save(store_, g, 20);
  EXPECT_EQ(newest()->step, 20);
}

TEST_F(Checkpoints, ADiskThatFillsUpDuringASaveCostsNothingOlder) {
  const TmpfsMount disk(dir_.path(), "size=8m,nr_inodes=40");
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  const int g = store_.claim_generation();
  save(store_, g, 10);
  // Uses up the file system's entries: there is room by bytes, and the save fails at its n-th file.
  std::vector<std::string> fillers;
  try {
    for (int i = 0; i < 100; ++i) {
      write_file_bytes(dir_ / ("filler" + std::to_string(i)), "");
      fillers.push_back(dir_ / ("filler" + std::to_string(i)));
    }
  } catch (const std::runtime_error&) {
  }
  for (int free = 0; free < 4; ++free) {
    EXPECT_THAT(message_of([&] { save(store_, g, 20); }), HasSubstr("No space left on device")) << free;
    EXPECT_EQ(newest()->step, 10);
    EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000010"});
    fs::remove(fillers.back());
    fillers.pop_back();
  }
  save(store_, g, 20);
  EXPECT_EQ(newest()->step, 20);
}

TEST_F(Checkpoints, AWriteThatFailsHalfWayCostsNothingOlder) {
  const int g = store_.claim_generation();
  save(store_, g, 10);
  // The limit is a process's own, so a child takes it. Its report is its exit code.
  const pid_t child = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    const Tensors large(20, 4000);
    const std::string message =
        message_of([&] { store_.save(g, state_at(20), large.model, large.optimizer); });
    _exit(message.find("File too large") != std::string::npos ? 42 : 43);
  });
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 42);
  EXPECT_EQ(newest()->step, 10);
  EXPECT_THAT(passed_over_, IsEmpty());
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000010"});
}

TEST_F(Checkpoints, AStateThatCannotBeWrittenIsRefused) {
  const int g = store_.claim_generation();
  const Tensors t(1);
  TrainingState s = state_at(1);
  s.config = "data.train = \xff";
  EXPECT_THAT(message_of([&] { store_.save(g, s, t.model, t.optimizer); }), HasSubstr("use UTF-8"));
  s = state_at(1);
  s.extra = "[1]";
  EXPECT_THROW(store_.save(g, s, t.model, t.optimizer), InternalError);
  EXPECT_THAT(names_in(gen(1)), IsEmpty());
}

}  // namespace
}  // namespace lockstep::checkpoint_test
