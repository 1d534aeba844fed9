// Proof from a recorded timeline that the work is really shared and that exchange and backward pass overlap.

#include <map>
#include <set>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

struct Recorded {
  std::vector<std::vector<nlohmann::json>> ranks;  // events per rank
};

Recorded record(const TempDir& folder, int ranks, const std::vector<std::string>& more) {
  const std::string dir = folder / ("run" + std::to_string(ranks) + more.back());
  std::vector<std::string> args = {"train",
                                   "--run.dir",
                                   dir,
                                   "--data.format",
                                   "synthetic",
                                   "--data.samples",
                                   "96",
                                   "--data.shape",
                                   "16x16x16",
                                   "--data.classes",
                                   "4",
                                   "--model.layers",
                                   "conv:32x3,pad=1 relu conv:32x3,pad=1 relu conv:32x3,pad=1 relu maxpool:2 "
                                   "flatten dense:64 relu dense:4",
                                   "--train.global_batch",
                                   "48",
                                   "--train.slices",
                                   "12",
                                   "--train.steps",
                                   "4",
                                   "--train.epochs",
                                   "2",
                                   "--log.timeline",
                                   "true",
                                   "--device.threads",
                                   "1"};
  args.insert(args.end(), more.begin(), more.end());
  const ProcessResult result = lockstep(ranks, args);
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  Recorded recorded;
  for (int r = 0; r < ranks; ++r)
    recorded.ranks.push_back(json_lines(dir + "/timeline.rank" + std::to_string(r) + ".jsonl"));
  return recorded;
}

TEST(TimelineOfARun, EverySliceIsComputedByExactlyOneRank) {
  TempDir folder;
  for (const int ranks : {2, 3, 4}) {
    const Recorded recorded = record(folder, ranks, {"--train.bucket_mb", "0.05"});
    std::map<std::pair<std::int64_t, std::int64_t>, int> computed;
    for (const auto& events : recorded.ranks) {
      std::int64_t mine = 0;
      for (const auto& e : events)
        if (e["kind"] == "slice_backward") {
          ++computed[{e["a"], e["b"]}];
          ++mine;
        }
      EXPECT_EQ(mine, 4 * 12 / ranks);
    }
    EXPECT_EQ(computed.size(), 4u * 12u);
    for (const auto& [slice, times] : computed) EXPECT_EQ(times, 1) << slice.first << " " << slice.second;
  }
}

/// In how many of the steps some rank began an exchange before that rank's last backward op of the step
/// ended.
int steps_with_overlap(const Recorded& recorded) {
  std::set<std::int64_t> overlapped;
  for (const auto& events : recorded.ranks) {
    std::map<std::int64_t, std::int64_t> first_exchange, last_backward;
    for (const auto& e : events) {
      const std::int64_t step = e["a"];
      if (e["kind"] == "exchange") {
        auto [it, fresh] = first_exchange.try_emplace(step, e["begin_ns"]);
        if (!fresh) it->second = std::min<std::int64_t>(it->second, e["begin_ns"]);
      } else if (e["kind"] == "slice_backward") {
        last_backward[step] = std::max<std::int64_t>(last_backward[step], e["end_ns"]);
      }
    }
    for (const auto& [step, begin] : first_exchange)
      if (begin < last_backward[step]) overlapped.insert(step);
  }
  return static_cast<int>(overlapped.size());
}

TEST(TimelineOfARun, WithOverlapTheFirstExchangeStartsBeforeTheLastBackwardOpEnds) {
  TempDir folder;
  EXPECT_EQ(steps_with_overlap(record(folder, 2, {"--train.bucket_mb", "0.02"})), 4);
  EXPECT_EQ(steps_with_overlap(record(folder, 2, {"--train.bucket_mb", "0.02", "--train.overlap", "false"})),
            0);
}

TEST(TimelineOfARun, TheNumberOfBucketsFollowsTheirSize) {
  TempDir folder;
  std::map<std::string, std::size_t> buckets;
  for (const char* size : {"0.02", "0.1", "100"}) {
    std::set<std::int64_t> seen;
    const Recorded recorded = record(folder, 2, {"--train.bucket_mb", size});
    for (const auto& e : recorded.ranks[0])
      if (e["kind"] == "exchange") seen.insert(e["b"].get<std::int64_t>());
    buckets[size] = seen.size();
  }
  // 155,748 parameters are 0.59 MiB: buckets of 0.02 MiB (rounded up to 8,192 elements), of 0.1 MiB (28,672),
  // of all.
  EXPECT_EQ(buckets["100"], 1u);
  EXPECT_GT(buckets["0.1"], buckets["100"]);
  EXPECT_GT(buckets["0.02"], 2 * buckets["0.1"]);
}

}  // namespace
}  // namespace lockstep::test
