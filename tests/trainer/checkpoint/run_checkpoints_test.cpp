// Saves by several ranks: parts, snapshots, agreement, going back. Ranks are threads here; tests/cli has
// processes, and disks that fail.

#include "trainer/checkpoint/run_checkpoints.h"

#include <cmath>
#include <fcntl.h>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "comm/threads/thread_communicator.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "device/lane_pool.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/test_support.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using test::read_file_bytes;
using test::TempDir;
using test::write_file_bytes;
using ::testing::HasSubstr;

constexpr std::int64_t slices = 6;

/// A rank with a model whose every value is a function of its place, so that any mix-up shows.
struct Rank {
  Graph graph = build_layers("conv:12x3,pad=1 bn relu conv:9x3 relu flatten dense:40 relu dense:4", {3, 8, 8},
                             4, CrossEntropyAttrs{});
  LanePool lanes{2};
  std::unique_ptr<TrainStep> made_step;
  TrainStep& step;

  Rank(Communicator& comm, bool sharded, const std::string& optimizer = "adam")
      : made_step(make_train_step(graph, options(sharded, optimizer), comm, lanes)), step(*made_step) {
    comm.barrier();
  }
  static TrainStepOptions options(bool sharded, const std::string& optimizer) {
    TrainStepOptions o;
    o.slice_rows = 2;
    o.optimizer.name = optimizer;
    o.sync.slices = slices;
    o.sync.sharded = sharded;
    o.sync.bucket_elements = 4096;
    return o;
  }
  static float value(std::int64_t element, std::int64_t slot, std::int64_t step) {
    return static_cast<float>(std::sin(static_cast<double>(element * 7 + slot * 13 + step)));
  }
  void fill(std::int64_t at_step) {
    const std::span<float> parameters = step.writable_parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i)
      parameters[i] = value(static_cast<std::int64_t>(i), -1, at_step);
    Optimizer& optimizer = step.writable_optimizer();
    for (std::size_t slot = 0; slot < optimizer.state_names().size(); ++slot)
      for (const Range& range : optimizer.shard()) {
        const std::span<float> state = optimizer.state(slot, range);
        for (std::size_t i = 0; i < state.size(); ++i)
          state[i] =
              value(range.begin + static_cast<std::int64_t>(i), static_cast<std::int64_t>(slot), at_step);
      }
  }
};

RunState state_at(std::int64_t step) {
  RunState s = checkpoint_test::state_at(step);
  s.slices = slices;
  s.fingerprint = "plan: a\nbinary: b\n";
  s.epoch_sums = {0.5, 3, 4};
  return s;
}
const RestoreOptions fitting{slices, "plan: a\nbinary: b\n", false, false};

std::string digest_of(const Checkpoint& c) {
  TensorDigest digest;
  c.model.add_to(digest);
  if (c.optimizer) c.optimizer->add_to(digest);
  return digest.hex();
}

class SavesOfRanks : public testing::Test {
 protected:
  SavesOfRanks() : fd_(::open((dir_ / "log").c_str(), O_RDWR | O_CREAT | O_APPEND, 0600)) {}
  ~SavesOfRanks() override { ::close(fd_); }
  /// A job that has taken the run over.
  struct Claimed : RunCheckpoints {
    Claimed(Communicator& comm, const Log& log, TrainStep& step, LanePool& lanes, const std::string& run,
            RunCheckpointsOptions options)
        : RunCheckpoints(comm, log, step, lanes, run, std::move(options)) {
      claim();
    }
  };
  Claimed checkpoints(Communicator& comm, Rank& rank, bool async = true, std::int64_t keep = 2) {
    return Claimed(comm, log_, rank.step, rank.lanes, run_, {async, keep, {}});
  }
  std::string log() const { return read_file_bytes(dir_ / "log"); }
  /// A checkpoint of step 10 by so many ranks; its path.
  std::string saved_by(int ranks, bool sharded, const std::string& optimizer = "adam") {
    fs::remove_all(run_);
    fs::create_directories(run_);
    run_ranks(ranks, {}, [&](Communicator& comm) {
      Rank rank(comm, sharded, optimizer);
      rank.fill(10);
      auto c = checkpoints(comm, rank);
      EXPECT_TRUE(c.save(state_at(10), true));
      EXPECT_EQ(c.saved_step(), 10);
    });
    return run_ + "/checkpoints/gen-000001/step-000000010";
  }

  TempDir dir_;
  const std::string run_ = dir_ / "run";
  int fd_;
  Log log_{LogLevel::info, fd_};
};

TEST_F(SavesOfRanks, HoldTheSameTensorsAtAnyRankCount) {
  std::set<std::string> digests;
  for (const bool sharded : {true, false})
    for (const int ranks : {1, 2, 3, 5}) {
      const std::string path = saved_by(ranks, sharded);
      const Checkpoint c = load_checkpoint(path);
      digests.insert(digest_of(c));
      EXPECT_EQ(c.model.tensors().size(), 12u);
      EXPECT_EQ(c.optimizer->tensors().size(), 20u);
      EXPECT_EQ(c.version, checkpoint_version);
      EXPECT_EQ(c.state.epoch_sums, (EpochSums{0.5, 3, 4}));
      const CheckpointManifest manifest = check_checkpoint(path);
      if (ranks == 1) {
        EXPECT_EQ(manifest.files.size(), 2u);
        EXPECT_EQ(manifest.files[0].name, "model.safetensors");
      } else {
        // Every rank has a share: no file holds much more than its part of the whole.
        EXPECT_GT(manifest.files.size(), static_cast<std::size_t>(ranks));
        std::uint64_t all = 0, largest = 0;
        for (const ManifestFile& f : manifest.files) {
          all += f.bytes;
          largest = std::max(largest, f.bytes);
        }
        EXPECT_LT(static_cast<double>(largest), 0.9 * static_cast<double>(all));
      }
    }
  EXPECT_EQ(digests.size(), 1u);
}

TEST_F(SavesOfRanks, AreReadByAnyRankCount) {
  for (const int writers : {1, 3})
    for (const int readers : {2, 1, 4}) {
      const std::string want = digest_of(load_checkpoint(saved_by(writers, true)));
      run_ranks(readers, {}, [&](Communicator& comm) {
        Rank rank(comm, readers != 2);
        rank.fill(77);
        auto c = checkpoints(comm, rank);
        const auto state = c.restore(fitting);
        ASSERT_TRUE(state.has_value());
        EXPECT_EQ(state->step, 10);
        EXPECT_EQ(state->position, 320);
        EXPECT_EQ(state->epoch_sums, (EpochSums{0.5, 3, 4}));
        EXPECT_EQ(c.saved_step(), 10);
        RunState next = *state;
        next.step = 11;
        EXPECT_TRUE(c.save(next, true));
        if (comm.rank() == 0) {
          std::vector<std::string> passed_over;
          EXPECT_EQ(digest_of(*c.store().load_newest(passed_over)), want);
        }
        comm.barrier();
      });
    }
}

TEST_F(SavesOfRanks, HoldWhatWasThereWhenTheyBegan) {
  fs::create_directories(run_);
  run_ranks(3, {}, [&](Communicator& comm) {
    Rank rank(comm, true);
    auto c = checkpoints(comm, rank, true, 10);
    for (std::int64_t step = 1; step <= 4; ++step) {
      rank.fill(step);
      EXPECT_TRUE(c.save(state_at(step)));
      c.save_best(state_at(step));
      rank.fill(1000 + step);  // the training goes on at once
      for (int i = 0; i < 3; ++i) c.poll();
    }
    EXPECT_TRUE(c.wait());
    EXPECT_EQ(c.saved_step(), 4);
    comm.barrier();
  });
  const std::string want = digest_of(load_checkpoint(run_ + "/checkpoints/gen-000001/step-000000003"));
  std::string single;
  fs::create_directories(dir_ / "single");
  run_ranks(1, {}, [&](Communicator& comm) {
    Rank rank(comm, true);
    rank.fill(3);
    RunCheckpoints c(comm, log_, rank.step, rank.lanes, dir_ / "single", {false, 2, {}});
    c.save(state_at(3));
  });
  EXPECT_EQ(digest_of(load_checkpoint(dir_ / "single/checkpoints/gen-000001/step-000000003")), want);
  const Checkpoint best = load_checkpoint(run_ + "/checkpoints/gen-000001/best-000000004");
  EXPECT_FALSE(best.optimizer.has_value());
  TensorDigest weights, best_weights;
  load_checkpoint(run_ + "/checkpoints/gen-000001/step-000000004").model.add_to(weights);
  best.model.add_to(best_weights);
  EXPECT_EQ(weights.hex(), best_weights.hex());
  EXPECT_EQ(log(), "");
}

TEST_F(SavesOfRanks, AnOptimizerWithoutStateAndRanksWithNothingToWrite) {
  for (const int ranks : {1, 4}) {
    const Checkpoint c = load_checkpoint(saved_by(ranks, true, "sgd"));
    ASSERT_TRUE(c.optimizer.has_value()) << ranks;
    EXPECT_TRUE(c.optimizer->tensors().empty());
  }
  // Two of five ranks see the directory.
  fs::create_directories(dir_ / "two/checkpoints/gen-000001");
  run_ranks(5, {}, [&](Communicator& comm) {
    Rank rank(comm, true);
    rank.fill(10);
    CheckpointStore store(dir_ / "two");
    CheckpointWriter writer(comm, store, rank.step, rank.lanes, {0, 3}, {}, 2);
    PendingCheckpoint pending;
    if (comm.rank() == 0)
      pending = store.begin(1, CheckpointKind::checkpoint, 10, writer.bytes(CheckpointKind::checkpoint));
    pending.directory = comm.broadcast_text(pending.directory, 0);
    writer.start(CheckpointKind::checkpoint, pending, state_at(10));
    while (!writer.idle()) writer.poll();
    const auto outcome = writer.take_outcome();
    EXPECT_EQ(outcome.has_value(), comm.rank() == 0);
    if (outcome) {
      EXPECT_EQ(outcome->failure, "");
    }
    comm.barrier();
  });
  EXPECT_EQ(digest_of(load_checkpoint(dir_ / "two/checkpoints/gen-000001/step-000000010")),
            digest_of(load_checkpoint(saved_by(1, true))));
}

TEST_F(SavesOfRanks, AFailureIsReportedOnceAndTheNextSaveSucceeds) {
  signal(SIGXFSZ, SIG_IGN);
  fs::create_directories(run_);
  run_ranks(3, {}, [&](Communicator& comm) {
    Rank rank(comm, true);
    rank.fill(10);
    auto c = checkpoints(comm, rank);
    EXPECT_TRUE(c.save(state_at(10), true));
    // No file of this process may grow past 4 KiB: a disk that is full for everybody's part.
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    comm.barrier();
    if (comm.rank() == 0) {
      const rlimit small{4096, before.rlim_max};
      setrlimit(RLIMIT_FSIZE, &small);
    }
    comm.barrier();
    const bool begun = c.save(state_at(20));
    const bool whole = c.wait();
    comm.barrier();
    if (comm.rank() == 0) setrlimit(RLIMIT_FSIZE, &before);
    comm.barrier();
    EXPECT_TRUE(begun);
    EXPECT_FALSE(whole);
    EXPECT_EQ(c.saved_step(), 10);
    EXPECT_TRUE(c.save(state_at(20), true)) << "a second attempt at the same step";
    EXPECT_EQ(c.saved_step(), 20);
  });
  EXPECT_THAT(log(),
              HasSubstr("step 20: the checkpoint could not be saved, the training goes on: rank 0 on "));
  EXPECT_THAT(log(), HasSubstr("File too large"));
  EXPECT_THAT(log(), HasSubstr("(and 2 more ranks)"));
  const std::string text = log();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_EQ(checkpoint_test::names_in(run_ + "/checkpoints/gen-000001"),
            (std::set<std::string>{"step-000000010", "step-000000020"}));
}

TEST_F(SavesOfRanks, EndWhenAnotherJobHasTakenTheRunOver) {
  fs::create_directories(run_);
  std::mutex mutex;
  std::map<int, std::string> ends;
  run_ranks(2, {}, [&](Communicator& comm) {
    Rank rank(comm, true);
    rank.fill(10);
    auto c = checkpoints(comm, rank);
    c.check_not_superseded();
    EXPECT_TRUE(c.save(state_at(10), true));
    if (comm.rank() == 0) {
      EXPECT_EQ(CheckpointStore(run_).claim_generation(), 2);
    }
    comm.barrier();
    for (int i = 0; i < 2; ++i) {
      try {
        if (i == 0)
          c.save(state_at(20));
        else
          c.check_not_superseded();
        ADD_FAILURE() << "a superseded job went on";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ExitCode::input);
        EXPECT_TRUE(e.agreed());
        const std::lock_guard lock(mutex);
        ends[comm.rank()] = e.what();
      }
    }
  });
  EXPECT_THAT(ends[0], HasSubstr("it holds generation 2 and this job generation 1"));
  EXPECT_THAT(ends[1], HasSubstr("a peer has reported"));
  EXPECT_EQ(checkpoint_test::names_in(run_ + "/checkpoints/gen-000001"),
            std::set<std::string>{"step-000000010"});
}

TEST_F(SavesOfRanks, ARestoreThatDoesNotFitChangesNothing) {
  saved_by(2, true);
  run_ranks(2, {}, [&](Communicator& comm) {
    Rank rank(comm, true);
    rank.fill(5);
    auto c = checkpoints(comm, rank);
    const auto refused = [&](RestoreOptions options, const std::string& reason) {
      try {
        c.restore(options);
        ADD_FAILURE() << reason;
      } catch (const SilentError&) {
        EXPECT_EQ(comm.rank(), 1);
      } catch (const ConfigError& e) {
        EXPECT_EQ(comm.rank(), 0);
        EXPECT_THAT(e.what(), HasSubstr(reason));
      }
    };
    refused({3, fitting.fingerprint, false, false}, "--allow-slices-change");
    refused({slices, "plan: a\nbinary: c\n", false, false}, "was \"binary: b\", is \"binary: c\"");
    refused({slices, "plan: c\nbinary: b\n", false, false}, "--allow-numeric-change");
    refused({3, "plan: c\nbinary: c\n", false, true}, "binary");
    EXPECT_EQ(rank.step.parameters()[3], Rank::value(3, -1, 5));
    EXPECT_TRUE(c.restore({3, "plan: c\nbinary: b\n", false, true}).has_value());
    EXPECT_TRUE(c.restore({slices, "plan: c\nbinary: c\n", true, false}).has_value());
  });
  EXPECT_THAT(log(), HasSubstr("train.slices changes from 6 to 3 with step 11"));
}

TEST_F(SavesOfRanks, WithoutAnyCheckpointNothingIsRestored) {
  fs::create_directories(run_);
  run_ranks(2, {}, [&](Communicator& comm) {
    Rank rank(comm, true);
    auto c = checkpoints(comm, rank);
    EXPECT_FALSE(c.restore(fitting).has_value());
    EXPECT_EQ(c.saved_step(), -1);
    EXPECT_TRUE(c.wait());
  });
}

}  // namespace
}  // namespace lockstep
