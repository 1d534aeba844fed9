// What is noticed of memory and arithmetic that fail: replicas that differ, slices computed twice, gradients
// that are not finite. Real mpirun launches of fault_program, which is `lockstep train` with a fault.

#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <vector>

#include "support/process.h"
#include "support/temp_dir.h"

namespace lockstep::test {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;

using Flags = std::vector<std::string>;

constexpr const char* config = R"(
[model]
layers = conv:8x3,pad=1 bn relu maxpool:2 flatten dense:24 relu dense:5
[data]
format = synthetic
samples = 150
shape = 2x8x8
classes = 5
[train]
epochs = 3
global_batch = 48
slices = 8
[optimizer]
name = adam
lr = 0.01
[checkpoint]
every_steps = 3
)";

class Corruption : public testing::Test {
 protected:
  Corruption() { std::ofstream(dir_.path() + "/c.ini") << config; }

  ProcessResult train(int ranks, const std::string& fault, const std::string& run, const Flags& flags = {}) {
    std::vector<std::string> argv = {
        FAULT_PROGRAM,          fault, "train", "--config", dir_.path() + "/c.ini", "--run.dir",
        dir_.path() + "/" + run};
    argv.insert(argv.end(), flags.begin(), flags.end());
    return run_mpi(ranks, argv, {.timeout_s = 120});
  }
  std::string digest(const std::string& run) {
    const ProcessResult result =
        run_process({LOCKSTEP_PROGRAM, "digest", dir_.path() + "/" + run, "--state"});
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    return result.out.substr(0, 64);
  }
  std::string undisturbed() {
    const ProcessResult result = train(1, "none", "undisturbed");
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    return digest("undisturbed");
  }
  static int errors(const ProcessResult& result) {
    int n = 0;
    for (std::size_t at = result.err.find("error:"); at != std::string::npos;
         at = result.err.find("error:", at + 1))
      ++n;
    return n;
  }
  TempDir dir_;
};

// ---- Replicas ----

TEST_F(Corruption, AFlippedBitInOneReplicaStopsTheRunAndIsNamed) {
  for (const std::string sharded : {"true", "false"}) {
    const Flags flags = {"--check.replicas_every", "2", "--optimizer.sharded", sharded};
    for (const int ranks : {3, 4}) {
      const ProcessResult result = train(ranks, "memory:1:4:7", "m" + std::to_string(ranks) + sharded, flags);
      EXPECT_EQ(result.exit_code, 4) << result.describe();
      EXPECT_EQ(errors(result), 1) << result.err;
      EXPECT_THAT(result.err, AllOf(HasSubstr("after step 4 the replica on rank 1 ("), HasSubstr("majority"),
                                    HasSubstr("first difference: "), HasSubstr(" on rank 1 and ")));
    }
  }
}

TEST_F(Corruption, WithTwoRanksBothAreNamed) {
  for (const std::string policy : {"stop", "repair"}) {
    const ProcessResult result = train(2, "memory:1:4:11", "two" + policy,
                                       {"--check.replicas_every", "2", "--check.replicas", policy});
    EXPECT_EQ(result.exit_code, 4) << result.describe();
    EXPECT_EQ(errors(result), 1) << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr("the replicas on ranks 0 ("), HasSubstr("and 1 ("),
                                  HasSubstr("no majority"), HasSubstr("first difference: ")));
  }
}

TEST_F(Corruption, RepairFromTheMajorityEndsInTheUndisturbedDigest) {
  const std::string want = undisturbed();
  int seed = 100;
  for (const std::string sharded : {"true", "false"})
    for (const int ranks : {3, 4})
      for (int round = 0; round < 2; ++round) {
        const std::string fault = "memory:" + std::to_string(ranks - 1) + ":4:" + std::to_string(++seed);
        const std::string run = "r" + std::to_string(seed);
        const ProcessResult result = train(
            ranks, fault, run,
            {"--check.replicas_every", "2", "--check.replicas", "repair", "--optimizer.sharded", sharded});
        ASSERT_EQ(result.exit_code, 0) << fault << result.describe();
        EXPECT_THAT(result.err, AllOf(HasSubstr("the replica on rank " + std::to_string(ranks - 1)),
                                      HasSubstr("repaired from rank 0")));
        EXPECT_EQ(digest(run), want) << fault << " sharded " << sharded;
      }
}

TEST_F(Corruption, HealthyReplicasSayNothing) {
  const ProcessResult result =
      train(3, "none", "healthy", {"--check.replicas_every", "1", "--check.recompute_every", "1"});
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(result.err.find("differ"), std::string::npos) << result.err;
  EXPECT_EQ(digest("healthy"), undisturbed());
}

// ---- Slices computed twice ----

TEST_F(Corruption, AMomentaryFaultInTheArithmeticOfOneRankIsFoundAndTheRankNamed) {
  // The check of step 3 (from 1) is of slice 2; of 8 slices that is rank 0's on 1 to 3 ranks, and on 4 rank
  // 1's.
  for (const auto& [ranks, owner] : std::map<int, int>{{1, 0}, {2, 0}, {3, 1}, {4, 1}}) {
    const ProcessResult result = train(ranks, "compute:" + std::to_string(owner) + ":2",
                                       "c" + std::to_string(ranks), {"--check.recompute_every", "1"});
    EXPECT_EQ(result.exit_code, 4) << result.describe();
    EXPECT_EQ(errors(result), 1) << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr("step 3: silent corruption: the gradient of slice 2 that rank " +
                                            std::to_string(owner)),
                                  HasSubstr("computed it wrongly, but rightly when it repeated it"),
                                  HasSubstr("first difference: "), HasSubstr("was not applied")));
    if (ranks > 1) {
      EXPECT_THAT(result.err, HasSubstr("; rank " + std::to_string(owner) + " ("));
    }
  }
}

TEST_F(Corruption, BrokenArithmeticIsFoundAndWithThreeRanksTheRankIsNamed) {
  for (const int ranks : {3, 4})
    for (int broken = 0; broken < ranks; ++broken) {
      const ProcessResult result =
          train(ranks, "broken:" + std::to_string(broken) + ":2",
                "b" + std::to_string(ranks) + std::to_string(broken), {"--check.recompute_every", "1"});
      EXPECT_EQ(result.exit_code, 4) << result.describe();
      EXPECT_EQ(errors(result), 1) << result.err;
      EXPECT_THAT(result.err, HasSubstr("; rank " + std::to_string(broken) + " ("));
      EXPECT_THAT(result.err, HasSubstr("computed it wrongly, and again when it repeated it"));
      for (int other = 0; other < ranks; ++other) {
        if (other == broken) continue;
        EXPECT_THAT(result.err, Not(HasSubstr("; rank " + std::to_string(other) + " (")));
      }
    }
}

TEST_F(Corruption, WithTwoRanksBrokenArithmeticIsFoundAndBothAreNamed) {
  const ProcessResult result = train(2, "broken:1:2", "b2", {"--check.recompute_every", "1"});
  EXPECT_EQ(result.exit_code, 4) << result.describe();
  EXPECT_EQ(errors(result), 1) << result.err;
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("rank 0 ("), HasSubstr("rank 1 ("), HasSubstr("two ranks cannot tell")));
}

// ---- A gradient that is not finite for a moment ----

TEST_F(Corruption, ATransientNanIsLeftOutAlikeAtAnyPlacement) {
  const std::string want = undisturbed();
  std::string left_out;
  for (const std::string policy : {"skip", "rollback"})
    for (const std::string fault : {"sum:4", "slice:4:3"})
      for (const int ranks : {1, 2, 3, 4}) {
        const std::string run = policy + fault.substr(0, 3) + std::to_string(ranks);
        const ProcessResult result =
            train(ranks, fault, run,
                  {"--guard.nonfinite", policy, "--optimizer.sharded", ranks % 2 == 0 ? "true" : "false",
                   "--train.overlap", ranks > 2 ? "true" : "false"});
        ASSERT_EQ(result.exit_code, 0) << result.describe();
        EXPECT_THAT(result.err, HasSubstr("step 5: the gradient of "));
        EXPECT_EQ(result.err.find("went back from step 5 to step 3") != std::string::npos,
                  policy == "rollback")
            << result.err;
        const std::string got = digest(run);
        if (left_out.empty()) left_out = got;
        EXPECT_EQ(got, left_out) << policy << ' ' << fault << " on " << ranks << " ranks";
        EXPECT_NE(got, want);
      }
}

TEST_F(Corruption, ATransientNanStopsTheRunByDefault) {
  const ProcessResult result = train(3, "sum:4", "stop");
  EXPECT_EQ(result.exit_code, 3) << result.describe();
  EXPECT_EQ(errors(result), 1) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("step 5: the gradient of "), HasSubstr("is not finite once summed"),
                                HasSubstr("the last checkpoint is that of step 3")));
  // The checkpoint is good: the run goes on from it, and the fault does not come again.
  const ProcessResult resumed = train(2, "none", "stop", {"--resume"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
  EXPECT_EQ(digest("stop"), undisturbed());
}

TEST_F(Corruption, FastReductionAgreesToo) {
  const ProcessResult result =
      train(3, "sum:4", "fast", {"--guard.nonfinite", "skip", "--train.reduction", "fast"});
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_THAT(result.err, HasSubstr("its batch is left out (1 of at most 10)"));
}

}  // namespace
}  // namespace lockstep::test
