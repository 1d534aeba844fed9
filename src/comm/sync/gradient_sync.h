#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/numerics/tree.h"
#include "core/range.h"
#include "core/timeline.h"

namespace lockstep {

enum class Reduction {
  ordered,  ///< along the canonical tree over slices: the same bits at any placement
  fast      ///< the library's all-reduce: exempt from that guarantee
};

struct GradientSyncOptions {
  Reduction reduction = Reduction::ordered;
  bool overlap = true;               ///< exchange buckets while the backward pass goes on
  bool sharded = true;               ///< each rank keeps only the totals of its own shard
  std::int64_t bucket_elements = 0;  ///< rounded up to a multiple of block_elements; 0: one bucket
  std::int64_t slices = 1;           ///< S
  bool finite_marks = false;         ///< tell of every block of the totals whether it is finite
  bool block_values = false;  ///< keep a number per block for the caller, see GradientSync::block_values()
};

/// The contiguous run of slices that `rank` of `ranks` computes: [rank*S/N, (rank+1)*S/N), rounded down.
Node slices_of_rank(std::int64_t slices, int rank, int ranks);

/// (all) Throws ConfigError, on rank 0, and SilentError on the others when there are more ranks than slices.
void require_enough_slices(const Communicator& comm, std::int64_t slices);

/// Bytes of shared memory that create() takes for every rank of a group: the gradient slots, the parameters
/// and the counters. For the choice between a communicator with shared memory and one without.
std::size_t gradient_sync_shared_bytes(std::int64_t elements, const GradientSyncOptions& options, int ranks);

/// The whole seam between the step and communication: sums the flat gradient of all slices of all ranks.
///
/// Each rank keeps one window slot per maximal subtree of its slices, a flat buffer of `elements` floats in
/// memory that the ranks of its group see. The step leaves the subtree's sum in it and says ready(range).
/// A bucket that is ready on all ranks is cut at block edges into one chunk per rank; its owner completes the
/// canonical tree for its chunk from all ranks' subtree sums (read in place within the group, by messages
/// between groups, each group sending its own maximal subtrees once), and, unless sharded, hands the
/// totals to everybody. Nothing is allocated in a steady step, and no thread is started: whoever calls
/// progress() works.
///
/// A step is: begin_step, ready… and progress… in any interleaving, finish, then the totals are read.
class GradientSync {
 public:
  /// (all) `elements`: of the flat gradient. Throws ConfigError when there are more ranks than slices.
  static std::unique_ptr<GradientSync> create(Communicator& comm, std::int64_t elements,
                                              const GradientSyncOptions& options,
                                              Timeline* timeline = nullptr);
  virtual ~GradientSync() = default;

  /// The maximal subtrees of this rank's slices, in order; slot(i) belongs to subtrees()[i].
  virtual const std::vector<Node>& subtrees() const = 0;
  virtual std::span<float> slot(std::size_t i) = 0;
  virtual std::int64_t buckets() const = 0;
  virtual Range bucket(std::int64_t b) const = 0;

  /// Before the first write to a slot in a step: waits until no peer still reads the last step's totals.
  virtual void begin_step(std::int64_t step) = 0;
  /// The range is final in every slot of this rank. Ranges of one step must tile [0, elements). Any lane.
  virtual void ready(Range range) = 0;
  /// Does what work there is without waiting: reduces chunks whose bucket is ready everywhere, drives
  /// messages. Any lane; when another lane is at it, returns at once. A no-op unless overlap is on.
  virtual void progress() = 0;
  /// Waits until this rank's totals are complete, working on them. One thread, after all ready() calls.
  /// Throws CommError when a peer fails.
  virtual void finish() = 0;

  /// After finish(): the totals this rank must apply: its shard, or (not sharded) everything, in order.
  virtual std::span<const TotalView> totals() const = 0;
  /// After finish(), with options.finite_marks: the finite_mark() of every block of the whole flat gradient,
  /// block i covering elements [4096 i, 4096 (i+1)): the same on every rank.
  virtual std::span<const double> finite_marks() const = 0;
  /// With options.block_values: a number per block of the whole flat gradient, the caller's to write for the
  /// blocks of this rank's shard between finish() and gather_block_values(), after which every rank has all
  /// of them. They lie where the totals lie.
  virtual std::span<double> block_values() = 0;
  /// (all) One thread. A no-op where the shard is everything.
  virtual void gather_block_values() = 0;
  /// The ranges of this rank's shard (all of [0, elements) when not sharded). Constant.
  virtual std::span<const Range> shard() const = 0;

  /// The flat parameters of this rank, `elements` floats, in memory that the group sees.
  virtual std::span<float> parameters() = 0;
  /// After this rank has updated its shard of parameters(): lets the others have it. One thread. (all)
  virtual void publish_parameters() = 0;
  /// After publish_parameters(): fetches the shards of all others into parameters(). Called by every lane
  /// of the rank, each doing its part; complete when all lanes have returned. A no-op when not sharded.
  virtual void gather_parameters(int lane, int lanes) = 0;

  /// After an error, of which `why` tells: ends what waits for peers on a device, so that memory there can be
  /// freed without them. Only the destructor may be called after that.
  virtual void abandon(const std::string& why) noexcept { (void)why; }

  /// Bytes this rank sends to other groups, and reads from peers' windows, per step; for --dry-run.
  struct Traffic {
    std::int64_t sent_bytes = 0;
    std::int64_t window_bytes = 0;
    std::int64_t subtrees = 1;  ///< k: the largest number of subtrees that a rank holds
  };
  virtual Traffic traffic() const = 0;
};

}  // namespace lockstep
