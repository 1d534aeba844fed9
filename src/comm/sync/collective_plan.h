#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/sync/gradient_sync.h"
#include "comm/sync/tree_completion.h"
#include "core/range.h"

// What the GPUs of a job exchange in a step, as data: which collective, of which elements of which buffer, in
// which order. A pure function of sizes; tests read it, and run it on host memory.

namespace lockstep {

/// Buckets for collectives whose parts must be of one size: every bucket is cut into one chunk of equal size
/// per rank, in the order of ranks, on block edges. The flat buffers are padded with zeros for that, by less
/// than one block per rank.
class EvenBuckets {
 public:
  /// `bucket_elements` is rounded up to a block per rank; 0 makes one bucket.
  EvenBuckets(std::int64_t elements, std::int64_t bucket_elements, int ranks);
  std::int64_t elements() const { return elements_; }
  std::int64_t padded_elements() const { return padded_; }
  std::int64_t buckets() const { return buckets_; }
  std::int64_t bucket_of(std::int64_t element) const { return element / bucket_elements_; }
  /// With its padding.
  Range padded(std::int64_t b) const;
  /// Without.
  Range bucket(std::int64_t b) const;
  /// With padding: the same size for every rank.
  Range chunk(std::int64_t b, int rank) const;
  /// All chunks of `rank` in flat order, without padding, joined where they touch.
  std::vector<Range> shard(int rank) const;

 private:
  std::int64_t elements_;
  int ranks_;
  std::int64_t bucket_elements_;
  std::int64_t padded_;
  std::int64_t buckets_;
};

/// One thing that a rank's communication stream does.
struct CollectiveOp {
  enum class Kind : std::uint8_t {
    enter,        ///< from here on the rank is inside collective work of `bucket`
    leave,        ///< and from here on no more
    group_begin,  ///< sends and receives up to group_end go at once
    send,         ///< to `peer`
    receive,      ///< from `peer`
    group_end,
    complete,     ///< the sum of all parts of a range, into slot 0
    mark_finite,  ///< per block, of a range of slot 0, into `marks`
    all_gather,   ///< in place: rank r's part is number r of `count` elements each, from `offset` on
    all_reduce    ///< in place, in the library's own order
  };
  enum class Buffer : std::uint8_t { none, slot, received, parameters, marks, block_values };
  Kind kind = Kind::enter;
  Buffer buffer = Buffer::none;
  std::int32_t slot = 0;  ///< which, for Buffer::slot
  std::int32_t peer = -1;
  std::int64_t bucket = -1;
  std::int64_t offset = 0;  ///< elements from the begin of the buffer (of the slot)
  std::int64_t count = 0;   ///< elements; per rank for all_gather
  friend bool operator==(const CollectiveOp&, const CollectiveOp&) = default;
};

struct CollectivePlanOptions {
  std::int64_t elements = 0;
  int rank = 0;
  int ranks = 1;
  GradientSyncOptions sync;
};

/// A rank's plan. Ranks run the buckets in ascending order, then `finish`, then (sharded) `parameters`,
/// whatever the order in which their gradients became ready: so all issue the same collectives in the same
/// order.
struct CollectivePlan {
  /// Throws InternalError when there are more ranks than slices.
  explicit CollectivePlan(const CollectivePlanOptions& options);

  EvenBuckets buckets;
  std::vector<Node> subtrees;          ///< of this rank; one slot each
  MergeProgram program;                ///< of `complete`
  std::int32_t own_first = 0;          ///< the own parts among all parts of the program
  std::int64_t received_elements = 0;  ///< size of the buffer for foreign parts: those of one chunk at a time
  std::int64_t received_stride = 0;    ///< elements from part to part in it
  std::int64_t marked_blocks = 0;      ///< size of `marks`; 0 when it is not asked for
  std::int64_t value_blocks = 0;       ///< size of the caller's block values; 0 when there are none
  std::vector<std::vector<CollectiveOp>> gradients;  ///< by bucket
  std::vector<CollectiveOp> finish;
  std::vector<CollectiveOp> parameters;
  std::vector<CollectiveOp>
      block_values;  ///< between `finish` and `parameters`, where the caller asks for it

  /// How often a step enters collective work: the `enter`s of all lists.
  std::int64_t entries() const;
  /// Bytes that this rank sends in a step, all-gathers and all-reduces as a ring.
  std::int64_t sent_bytes() const;

 private:
  void plan_ordered(const CollectivePlanOptions& options, std::int64_t bucket);
  void plan_fast(const CollectivePlanOptions& options, std::int64_t bucket);
  void plan_marks(const CollectivePlanOptions& options, std::int64_t bucket);
  void plan_block_values(const CollectivePlanOptions& options);
  void plan_parameters(const CollectivePlanOptions& options);
  int ranks_ = 1;
};

/// Where the buffers of a plan lie: addresses of the device that the backend works on.
struct CollectiveBuffers {
  float* slots = nullptr;
  std::int64_t slot_stride = 0;  ///< elements; at least padded_elements
  float* received = nullptr;
  float* parameters = nullptr;
  double* marks = nullptr;
  double* block_values = nullptr;
};

/// What carries a plan out: NCCL and kernels on a stream, or host memory and a record in tests. Calls
/// enqueue; none waits for the device.
class CollectiveBackend {
 public:
  virtual ~CollectiveBackend() = default;
  virtual void enter(std::int64_t bucket) = 0;
  virtual void leave(std::int64_t bucket) = 0;
  virtual void group_begin() = 0;
  virtual void group_end() = 0;
  virtual void send(const float* data, std::size_t count, int to) = 0;
  virtual void receive(float* data, std::size_t count, int from) = 0;
  /// Rank r's part is data[r * count, (r + 1) * count).
  virtual void all_gather(float* data, std::size_t count) = 0;
  virtual void all_gather(double* data, std::size_t count) = 0;
  virtual void all_reduce_sum(float* data, std::size_t count) = 0;
  virtual void complete(const CompletionOperands& from, const MergeProgram& program, std::int64_t count,
                        float* out) = 0;
  virtual void mark_finite(const float* data, std::int64_t count, double* marks) = 0;
};

/// Issues `ops`, in order.
void run_collectives(const std::vector<CollectiveOp>& ops, const CollectivePlan& plan,
                     const CollectiveBuffers& buffers, CollectiveBackend& backend);

/// "3 send slot 1 [4096, 8192) to 2": for people and for comparison in tests.
std::string text_of(const CollectiveOp& op);

}  // namespace lockstep
