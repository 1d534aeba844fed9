#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "core/numerics/permutation.h"
#include "data/length_classes.h"
#include "data/shard_order.h"

namespace lockstep {

/// One global batch. It never crosses the end of an epoch.
struct BatchRange {
  std::int64_t position = 0;  ///< samples consumed since the start of training, before this batch
  std::int64_t epoch = 0;     ///< from 0
  std::int64_t first = 0;     ///< position of its first sample within the epoch
  std::int64_t count =
      0;  ///< r: its samples over all ranks; below the global batch only at the end of an epoch
  int length_class = 0;  ///< of all its samples, where the order has classes
  /// The data position after it.
  std::int64_t next() const noexcept { return position + count; }
  friend bool operator==(const BatchRange&, const BatchRange&) = default;
};

/// The rows of one slice of a batch.
struct SliceRows {
  std::int64_t slice = 0;     ///< global number
  std::int64_t capacity = 0;  ///< B / S rows
  std::int64_t first = 0;     ///< its first sample, counted within the batch
  std::int64_t valid = 0;     ///< its samples; the rows after them are empty
};

/// Which sample stands where: a pure function of (samples, global batch B, slices S, seed) and the data
/// position, which is one integer, the count of samples consumed since the start of training. Neither ranks
/// nor history enter.
class EpochOrder {
 public:
  /// With a seed, epoch e is in the order of the keyed permutation of (seed, Purpose::shuffle, e); without,
  /// in the order of the set, as evaluation does. No samples: InputError. B or S below 1, or S that does not
  /// divide B: ConfigError.
  EpochOrder(std::int64_t samples, std::int64_t global_batch, std::int64_t slices,
             std::optional<std::uint64_t> seed);

  /// The same with batches of one length class each (classed_epoch()). ConfigError, InputError as above.
  EpochOrder(LengthClasses classes, std::int64_t global_batch, std::int64_t slices,
             std::optional<std::uint64_t> seed);

  /// The same of a set of files, epoch e in the order of ShardedEpoch. Errors as above.
  EpochOrder(ShardWindows shards, std::int64_t global_batch, std::int64_t slices, std::uint64_t seed);

  std::int64_t samples() const noexcept { return samples_; }
  std::int64_t global_batch() const noexcept { return global_batch_; }
  std::int64_t slices() const noexcept { return slices_; }
  std::int64_t rows_per_slice() const noexcept { return global_batch_ / slices_; }
  /// ceil(samples / B); with classes, the sum of that over them.
  std::int64_t batches_per_epoch() const noexcept { return batches_; }
  /// Positions of the length class, the last for none; 0 where the order has no classes.
  std::int64_t class_bound(int length_class) const {
    return classes_ == nullptr ? 0 : classes_->bounds.at(static_cast<std::size_t>(length_class));
  }

  /// The batch at a data position >= 0, which with classes must be the beginning of one.
  BatchRange batch_at(std::int64_t position) const;
  /// The rows of slice s of a batch of r samples: of these, floor(r s / S) to floor(r (s + 1) / S).
  SliceRows rows_of(const BatchRange& batch, std::int64_t slice) const;

  /// Sample indices of one epoch.
  class Epoch {
   public:
    /// The sample at a position in [0, samples) of the epoch.
    std::int64_t sample(std::int64_t position) const noexcept {
      if (sharded_ != nullptr) return sharded_->sample(position);
      if (classed_ != nullptr) return classed_->samples[static_cast<std::size_t>(position)];
      return shuffled_ ? static_cast<std::int64_t>(order_(static_cast<std::uint64_t>(position))) : position;
    }

   private:
    friend class EpochOrder;
    Epoch(Permutation order, bool shuffled) : order_(order), shuffled_(shuffled) {}
    Permutation order_;
    bool shuffled_;
    std::shared_ptr<const ClassedEpoch> classed_;
    std::shared_ptr<const ShardedEpoch> sharded_;
  };
  Epoch epoch(std::int64_t number) const;

 private:
  std::shared_ptr<const ClassedEpoch> classed(std::int64_t number) const;
  std::shared_ptr<const ShardedEpoch> sharded(std::int64_t number) const;
  std::int64_t samples_;
  std::int64_t global_batch_;
  std::int64_t slices_;
  std::int64_t batches_;
  std::optional<std::uint64_t> seed_;
  std::shared_ptr<const LengthClasses> classes_;  // null: none
  std::shared_ptr<const ShardWindows> shards_;    // null: one file
  struct Cache;
  std::shared_ptr<Cache> cache_;  // the epoch that was asked for last
};

}  // namespace lockstep
