// Saves of several jobs at once, saves that are killed, and disks that fill up: what was acknowledged stays.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
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
#include "trainer/checkpoint/test_support.h"

namespace lockstep::checkpoint_test {
namespace {

namespace fs = std::filesystem;
using test::TmpfsMount;
using test::write_file_bytes;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  RunState s = state_at(1);
  s.config = "data.train = \xff";
  EXPECT_THAT(message_of([&] { store_.save(g, s, t.model, t.optimizer); }), HasSubstr("use UTF-8"));
  s = state_at(1);
  s.epoch_sums.loss = std::numeric_limits<double>::infinity();
  EXPECT_THROW(store_.save(g, s, t.model, t.optimizer), InternalError);
  EXPECT_THAT(names_in(gen(1)), IsEmpty());
}

}  // namespace
}  // namespace lockstep::checkpoint_test
