#include "trainer/guard/recompute_check.h"

#include <algorithm>
#include <bit>
#include <fmt/format.h>

#include "comm/sync/gradient_sync.h"
#include "core/block_hash.h"
#include "core/error.h"
#include "trainer/guard/replica_check.h"
#include "trainer/step/flat_position.h"

namespace lockstep {
namespace {

int owner_of(std::int64_t slice, std::int64_t slices, int ranks) {
  for (int r = 0; r < ranks; ++r) {
    const Node mine = slices_of_rank(slices, r, ranks);
    if (slice >= mine.begin && slice < mine.end) return r;
  }
  throw InternalError("a slice without a rank");
}

/// Where two gradients of one rank differ first.
std::string difference_here(const Executor& executor, std::span<const float> step,
                            std::span<const float> check) {
  const auto differ = std::mismatch(step.begin(), step.end(), check.begin(), [](float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
  });
  if (differ.first == step.end()) return "";
  std::vector<float> mark(step.size());
  mark[static_cast<std::size_t>(differ.first - step.begin())] = 1;
  const auto at = find_element(executor, mark, [](float v) { return v == 1; });
  if (!at) return "";
  return fmt::format("; first difference: {} is {} in the step and {} in the check", at->text(),
                     bits_text(*differ.first), bits_text(*differ.second));
}

}  // namespace

RecomputePlan recompute_plan(const EpochOrder& order, const BatchRange& batch, std::int64_t check,
                             int ranks) {
  const std::int64_t slices = order.slices();
  RecomputePlan plan;
  plan.slice = check % slices;
  while (order.rows_of(batch, plan.slice).valid == 0) plan.slice = (plan.slice + 1) % slices;
  plan.owner = owner_of(plan.slice, slices, ranks);
  plan.checker = plan.owner;
  if (ranks > 1) {
    const auto others = static_cast<std::int64_t>(ranks) - 1;
    plan.checker = static_cast<int>((plan.owner + 1 + (check / slices) % others) % ranks);
  }
  return plan;
}

RecomputeFinding judge_recompute(const RecomputeVotes& votes, int owner, int checker) {
  const std::vector<std::uint64_t>& again = votes.again;
  const std::uint64_t owner_again = again[static_cast<std::size_t>(owner)];
  const std::uint64_t checker_again = again[static_cast<std::size_t>(checker)];
  RecomputeFinding finding;
  // What the largest number of ranks say now, where no other result has as many.
  std::uint64_t truth = 0;
  std::ptrdiff_t most = 0;
  bool alone = false;
  for (const std::uint64_t vote : again) {
    const std::ptrdiff_t n = std::count(again.begin(), again.end(), vote);
    if (n > most) {
      truth = vote;
      most = n;
      alone = true;
    } else if (n == most && vote != truth) {
      alone = false;
    }
  }
  finding.decided = alone && most >= 2;
  if (!finding.decided) {
    const bool owner_steady = owner_again == votes.owner, checker_steady = checker_again == votes.checker;
    if (owner == checker) {
      // One rank: it has contradicted itself, and what its last result says decides when that was.
      truth = owner_again;
      finding.decided = true;
    } else if (owner_steady != checker_steady) {
      truth = owner_steady ? votes.owner : votes.checker;
      finding.decided = true;
    }
  }
  if (!finding.decided) {
    finding.culprits = {{owner, true}, {checker, true}};
    finding.reference = checker;
    return finding;
  }
  for (int r = 0; r < static_cast<int>(again.size()); ++r) {
    const bool now = again[static_cast<std::size_t>(r)] != truth;
    const bool before = (r == owner && votes.owner != truth) || (r == checker && votes.checker != truth);
    if (now || before) finding.culprits.push_back({r, now});
  }
  for (int r = 0; r < static_cast<int>(again.size()) && finding.reference < 0; ++r)
    if (again[static_cast<std::size_t>(r)] == truth &&
        (again.size() == 1 || r != finding.culprits.front().rank))
      finding.reference = r;
  return finding;
}

RecomputeCheck::RecomputeCheck(const EpochOrder& order, Options options, Communicator& comm)
    : order_(order), options_(std::move(options)), comm_(comm) {
  require(options_.hosts.size() == static_cast<std::size_t>(comm.size()),
          "RecomputeCheck: one host per rank");
}

std::int64_t RecomputeCheck::slice_of(std::int64_t step, const BatchRange& batch) const {
  if (options_.every <= 0 || (step + 1) % options_.every != 0) return -1;
  return recompute_plan(order_, batch, step / options_.every, comm_.size()).slice;
}

std::uint64_t RecomputeCheck::compute(const Batch& batch, std::span<const float> parameters,
                                      std::int64_t step, SliceProbe& probe) const {
  probe.compute(batch, parameters, options_.seed, step, options_.listener);
  return hash_floats(probe.gradient());
}

std::unique_ptr<Loader> RecomputeCheck::loader_of(std::int64_t slice, const BatchRange& batch) const {
  LoaderOptions loading;
  loading.data = options_.data;
  loading.fields = options_.fields;
  loading.mine = {slice, slice + 1};
  loading.position = batch.position;
  loading.workers = 0;
  return std::make_unique<Loader>(order_, std::move(loading));
}

void RecomputeCheck::run(std::int64_t step, const BatchRange& batch, std::span<const float> parameters,
                         std::span<const float> kept, SliceProbe& probe) {
  const RecomputePlan plan = recompute_plan(order_, batch, step / options_.every, comm_.size());
  struct Hashes {
    std::uint64_t owner = 0, checker = 0;
  } mine;
  if (comm_.rank() == plan.owner) mine.owner = hash_floats(kept);
  if (comm_.rank() == plan.checker) {
    const auto loader = loader_of(plan.slice, batch);
    mine.checker = compute(loader->next().slices[0], parameters, step, probe);
  }
  std::vector<Hashes> all(static_cast<std::size_t>(comm_.size()));
  comm_.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  RecomputeVotes votes;
  votes.owner = all[static_cast<std::size_t>(plan.owner)].owner;
  votes.checker = all[static_cast<std::size_t>(plan.checker)].checker;
  if (votes.owner == votes.checker) return;

  std::vector<float> first;  // what this rank said before all compute the slice again
  if (comm_.rank() == plan.checker) first.assign(probe.gradient().begin(), probe.gradient().end());
  if (comm_.rank() == plan.owner && plan.owner != plan.checker) first.assign(kept.begin(), kept.end());
  const auto loader = loader_of(plan.slice, batch);
  votes.again.resize(options_.hosts.size());
  const std::uint64_t again = compute(loader->next().slices[0], parameters, step, probe);
  comm_.all_gather(std::as_bytes(std::span(&again, 1)), std::as_writable_bytes(std::span(votes.again)));
  const RecomputeFinding finding = judge_recompute(votes, plan.owner, plan.checker);

  std::string where;
  if (plan.owner == plan.checker) {
    where = difference_here(probe.executor(), kept, first);
  } else {
    if (finding.decided && comm_.rank() == finding.reference)
      first.assign(probe.gradient().begin(), probe.gradient().end());
    const int culprit = finding.culprits.front().rank;
    if (const auto at = first_difference(comm_, probe.executor(), culprit, finding.reference, first))
      where = fmt::format("; first difference: {} is {} on rank {} and {} on rank {}", at->text(),
                          bits_text(at->value), culprit, bits_text(at->other), finding.reference);
  }
  throw_on_all(
      comm_, CommError(fmt::format("step {}: silent corruption: the gradient of slice {} that {} put into "
                                   "the step differs from what {} "
                                   "computed from the same samples and parameters; {}{}{}. The step was not "
                                   "applied. Check the processor "
                                   "and memory there, and go on from the last checkpoint with --resume",
                                   step + 1, plan.slice, name(plan.owner),
                                   plan.owner == plan.checker ? "it" : name(plan.checker),
                                   verdict_text(finding), where, memory_text(parameters))));
}

std::string RecomputeCheck::name(int rank) const {
  return fmt::format("rank {} ({})", rank, options_.hosts[static_cast<std::size_t>(rank)]);
}

std::string RecomputeCheck::verdict_text(const RecomputeFinding& finding) const {
  std::string text;
  for (const RecomputeFinding::Culprit& culprit : finding.culprits) {
    if (!text.empty()) text += finding.decided ? "; " : " and ";
    text += name(culprit.rank);
    if (finding.decided)
      text += culprit.again ? " computed it wrongly, and again when it repeated it"
                            : " computed it wrongly, but rightly when it repeated it";
  }
  return finding.decided ? text : text + " disagree, and which of them is wrong two ranks cannot tell";
}

std::string RecomputeCheck::memory_text(std::span<const float> parameters) const {
  const std::uint64_t mine = hash_floats(parameters);
  std::vector<std::uint64_t> all(options_.hosts.size());
  comm_.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  const Dissent dissent = dissent_of(all);
  if (!dissent.any()) return "";
  return fmt::format("; the parameters themselves differ on {}", ranks_text(dissent.ranks, options_.hosts));
}

}  // namespace lockstep
