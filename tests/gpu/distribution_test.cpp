// The main claim on GPUs: one digest at any number of ranks, with graphs or without, whatever the buckets.
// Real mpirun launches of digest_program; ranks share a GPU where there are fewer GPUs than ranks.

#include <map>
#include <set>

#include "support/digest_lines.h"

#include "gpu/gpu_support.h"

namespace lockstep::test {
namespace {

class GpuPlacement : public testing::TestWithParam<std::string> {};

std::vector<PlacementLine> run(int ranks, const std::vector<std::string>& args) {
  return run_digest_program(DIGEST_PROGRAM, ranks, args, {.timeout_s = 100});
}

TEST_P(GpuPlacement, EndsInOneDigest) {
  LOCKSTEP_NEED_GPU();
  std::set<std::string> digests;
  for (const int ranks : {1, 2, 3, 4}) {
    const auto lines = run(ranks, {GetParam(), "20", "1", "all", "cuda"});
    EXPECT_EQ(lines.size(), 12u);
    std::set<std::int64_t> buckets;
    for (const PlacementLine& line : lines) {
      digests.insert(line.digest);
      EXPECT_EQ(line.digest, *digests.begin())
          << ranks << " ranks, overlap " << line.overlap << ", buckets of " << line.bucket << ", sharded "
          << line.sharded;
      buckets.insert(line.buckets);
    }
    // Buckets of NCCL are whole blocks of every rank, so from 3 ranks on two of the sizes may be one.
    EXPECT_GE(buckets.size(), ranks <= 2 ? 3u : 2u) << ranks << " ranks";
  }
  const auto plain = run(2, {GetParam(), "20", "1", "one", "cuda-plain"});
  ASSERT_EQ(plain.size(), 1u);
  EXPECT_EQ(plain[0].digest, *digests.begin()) << "captured graphs change bits";
}

TEST_P(GpuPlacement, AnotherSeedAndAFlippedSignChangeTheDigest) {
  LOCKSTEP_NEED_GPU();
  std::map<std::string, std::string> digests;
  for (const auto& [seed, what] : {std::pair("1", "one"), {"2", "one"}, {"1", "flip"}}) {
    const auto lines = run(2, {GetParam(), "20", seed, what, "cuda"});
    ASSERT_EQ(lines.size(), 1u);
    digests[lines[0].digest] = what;
  }
  EXPECT_EQ(digests.size(), 3u);
}

INSTANTIATE_TEST_SUITE_P(Models, GpuPlacement, testing::Values("cnn", "augmented", "mlp"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace lockstep::test
