#include "comm/sync/bucket_plan.h"

#include <algorithm>

#include "comm/sync/gradient_sync.h"
#include "core/error.h"

namespace lockstep {

Node slices_of_rank(std::int64_t slices, int rank, int ranks) {
  return {slices * rank / ranks, slices * (rank + 1) / ranks};
}

std::vector<Node> subtrees_of_rank(std::int64_t slices, int rank, int ranks) {
  return maximal_subtrees(slices, slices_of_rank(slices, rank, ranks));
}

std::vector<Node> subtrees_of_group(std::int64_t slices, const Topology& topology, int group) {
  const int first = topology.group_begin[static_cast<std::size_t>(group)];
  const int end = topology.group_begin[static_cast<std::size_t>(group) + 1];
  return maximal_subtrees(slices, {slices_of_rank(slices, first, topology.size).begin,
                                   slices_of_rank(slices, end - 1, topology.size).end});
}

BucketPlan::BucketPlan(std::int64_t elements, std::int64_t bucket_elements, const Topology& topology)
    : elements_(elements), topology_(topology) {
  require(elements >= 0 && bucket_elements >= 0, "BucketPlan: negative sizes");
  const std::int64_t whole = blocks() * block_elements;
  if (bucket_elements == 0 || bucket_elements > whole) bucket_elements = whole;
  bucket_elements_ =
      std::max((bucket_elements + block_elements - 1) / block_elements * block_elements, block_elements);
  buckets_ = (elements + bucket_elements_ - 1) / bucket_elements_;
}

Range BucketPlan::bucket(std::int64_t b) const {
  return {b * bucket_elements_, std::min((b + 1) * bucket_elements_, elements_)};
}

Range BucketPlan::chunk(std::int64_t b, int owner) const {
  const Range whole = bucket(b);
  const std::int64_t count = (whole.size() + block_elements - 1) / block_elements;
  const std::int64_t n = topology_.size;
  const std::int64_t position = ((owner - b) % n + n) % n;
  const auto edge = [&](std::int64_t p) {
    return std::min(whole.begin + (p * count / n) * block_elements, whole.end);
  };
  return {edge(position), edge(position + 1)};
}

int BucketPlan::owner_at(std::int64_t b, int position) const {
  return static_cast<int>((position + b) % topology_.size);
}

int BucketPlan::carrier(std::int64_t b, int owner, int group) const {
  // The foreign chunks of a bucket are dealt out in turn; where the foreign ranks before `group` end, the
  // count goes on.
  const int first = topology_.group_begin[static_cast<std::size_t>(group)];
  const int members = topology_.group_size(group);
  const std::int64_t index = owner < first ? owner : owner - members;
  return first + static_cast<int>((index + b) % members);
}

int BucketPlan::holder(std::int64_t b, int owner, int group) const {
  return topology_.group_of[static_cast<std::size_t>(owner)] == group ? owner : carrier(b, owner, group);
}

std::vector<Range> BucketPlan::shard(int rank) const {
  std::vector<Range> ranges;
  for (std::int64_t b = 0; b < buckets_; ++b) {
    const Range c = chunk(b, rank);
    if (c.size() == 0) continue;
    if (!ranges.empty() && ranges.back().end == c.begin) {
      ranges.back().end = c.end;
    } else {
      ranges.push_back(c);
    }
  }
  return ranges;
}

}  // namespace lockstep
