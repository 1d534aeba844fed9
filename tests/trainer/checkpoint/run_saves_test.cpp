// Saves at the ends of epochs, which make nothing wait: a checkpoint and the best weights from one copy, best
// weights of an earlier step. Ranks are threads here.

#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>

#include "comm/threads/thread_communicator.h"
#include "core/digest.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint/run_checkpoints.h"
#include "trainer/checkpoint/test_support.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t slices = 6;

struct Rank {
  Graph graph = build_layers("conv:12x3,pad=1 bn relu flatten dense:40 relu dense:4", {3, 8, 8}, 4,
                             CrossEntropyAttrs{});
  LanePool lanes{1};
  std::unique_ptr<TrainStep> made_step;
  TrainStep& step;
  explicit Rank(Communicator& comm)
      : made_step(make_train_step(graph, options(), comm, lanes)), step(*made_step) {
    comm.barrier();
  }
  static TrainStepOptions options() {
    TrainStepOptions o;
    o.slice_rows = 2;
    o.optimizer.name = "adam";
    o.sync.slices = slices;
    o.sync.bucket_elements = 4096;
    return o;
  }
  void fill(float value) {
    for (float& p : step.writable_parameters()) p = value += 0.001f;
  }
};

RunState state_at(std::int64_t step) {
  RunState s = checkpoint_test::state_at(step);
  s.slices = slices;
  s.best.metric = 0.5;
  s.best.step = step;
  return s;
}

std::string weights_of(const std::string& path) {
  TensorDigest digest;
  load_checkpoint(path).model.add_to(digest);
  return digest.hex();
}

class SavesWithoutWaits : public testing::Test {
 protected:
  SavesWithoutWaits() { fs::create_directories(run_); }
  test::TempDir dir_;
  const std::string run_ = dir_ / "run", generation_ = run_ + "/checkpoints/gen-000001/";
  Log log_{LogLevel::error};
};

TEST_F(SavesWithoutWaits, ACheckpointAndTheBestWeightsAreOneCopy) {
  for (const int ranks : {1, 3}) {
    fs::remove_all(run_);
    fs::create_directories(run_);
    run_ranks(ranks, {}, [&](Communicator& comm) {
      Rank rank(comm);
      RunCheckpoints c(comm, log_, rank.step, rank.lanes, run_, {true, 2, {}});
      c.claim();
      rank.fill(1);
      EXPECT_FALSE(c.busy());
      EXPECT_TRUE(c.save_with_best(state_at(5)));
      rank.fill(2);  // the training goes on
      EXPECT_TRUE(c.wait());
      EXPECT_FALSE(c.busy());
      EXPECT_EQ(c.saved_step(), 5);
      comm.barrier();
    });
    const Checkpoint checkpoint = load_checkpoint(generation_ + "step-000000005");
    const Checkpoint best = load_checkpoint(generation_ + "best-000000005");
    EXPECT_TRUE(checkpoint.optimizer.has_value());
    EXPECT_FALSE(best.optimizer.has_value());
    EXPECT_EQ(weights_of(generation_ + "step-000000005"), weights_of(generation_ + "best-000000005"));
    EXPECT_EQ(std::distance(fs::directory_iterator(generation_), {}), 2) << "nothing half written is left";
  }
}

TEST_F(SavesWithoutWaits, BestWeightsThatWereHeldAreThoseOfTheirStep) {
  run_ranks(3, {}, [&](Communicator& comm) {
    Rank rank(comm);
    RunCheckpoints c(comm, log_, rank.step, rank.lanes, run_, {true, 2, {}});
    c.claim();
    rank.fill(1);
    const std::span<const float> now = rank.step.parameters();
    const std::vector<float> held(now.begin(), now.end());
    EXPECT_TRUE(c.save(state_at(4), true));
    rank.fill(2);
    c.save_best_of(state_at(4), held);
    rank.fill(3);
    EXPECT_TRUE(c.wait());
    comm.barrier();
  });
  EXPECT_EQ(weights_of(generation_ + "best-000000004"), weights_of(generation_ + "step-000000004"));
}

TEST_F(SavesWithoutWaits, ASaveInFlightIsSeenAlikeOnAllRanks) {
  run_ranks(3, {}, [&](Communicator& comm) {
    Rank rank(comm);
    RunCheckpoints c(comm, log_, rank.step, rank.lanes, run_, {true, 2, {}});
    c.claim();
    rank.fill(1);
    EXPECT_TRUE(c.save(state_at(4)));
    int looks = 0;
    while (c.busy()) ++looks;  // a rank that saw another answer would wait for ever
    EXPECT_TRUE(c.wait());
    EXPECT_EQ(c.saved_step(), 4);
  });
}

}  // namespace
}  // namespace lockstep
