#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/numerics/tree.h"
#include "core/range.h"

namespace lockstep {

/// The blocks begun in a range that begins with one.
constexpr std::int64_t blocks_of(Range range) {
  return (range.size() + block_elements - 1) / block_elements;
}

/// Who sums, sends and receives which elements: a pure function of sizes and topology, the same on all ranks.
///
/// Bucket b covers [b*E, (b+1)*E). It is cut at block edges into one chunk per rank, as even as blocks allow;
/// the order of the owners is rotated from bucket to bucket, so that the odd blocks of small buckets do not
/// all fall to one rank. A chunk that is owned by another group has one carrier in each group: the rank that
/// computes the group's subtree sums of it, sends them to the owner, and receives what comes back for the
/// whole group.
class BucketPlan {
 public:
  /// `bucket_elements` is rounded up to whole blocks; 0 makes one bucket.
  BucketPlan(std::int64_t elements, std::int64_t bucket_elements, const Topology& topology);

  std::int64_t elements() const { return elements_; }
  std::int64_t buckets() const { return buckets_; }
  std::int64_t blocks() const { return (elements_ + block_elements - 1) / block_elements; }
  /// The buckets that `range` touches are [first, last).
  std::int64_t bucket_of(std::int64_t element) const { return element / bucket_elements_; }
  Range bucket(std::int64_t b) const;
  /// The part of bucket `b` that `owner` sums. May be empty.
  Range chunk(std::int64_t b, int owner) const;
  /// The rank whose chunk stands at place `position` of bucket `b`, in flat order.
  int owner_at(std::int64_t b, int position) const;
  /// The rank of `group` that deals with the chunk of `owner`, a rank of another group.
  int carrier(std::int64_t b, int owner, int group) const;
  /// Who of `group` holds the chunk of `owner`: the owner itself, or the group's carrier.
  int holder(std::int64_t b, int owner, int group) const;
  /// All chunks of `rank` in flat order, joined where they touch.
  std::vector<Range> shard(int rank) const;

 private:
  std::int64_t elements_;
  std::int64_t bucket_elements_;
  std::int64_t buckets_;
  Topology topology_;
};

/// The maximal subtrees of `rank`'s slices, and those of all slices of a group.
std::vector<Node> subtrees_of_rank(std::int64_t slices, int rank, int ranks);
std::vector<Node> subtrees_of_group(std::int64_t slices, const Topology& topology, int group);

}  // namespace lockstep
