#include "data/epoch_order.h"

#include <algorithm>
#include <fmt/format.h>
#include <mutex>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace lockstep {

EpochOrder::EpochOrder(std::int64_t samples, std::int64_t global_batch, std::int64_t slices,
                       std::optional<std::uint64_t> seed)
    : samples_(samples),
      global_batch_(global_batch),
      slices_(slices),
      batches_(global_batch < 1 ? 0 : (samples + global_batch - 1) / global_batch),
      seed_(seed) {
  if (samples < 1)
    throw InputError("the data set holds no samples: there is nothing to train or evaluate on");
  if (global_batch < 1)
    throw ConfigError(fmt::format("a global batch of {} samples holds none", global_batch));
  if (slices < 1 || global_batch % slices != 0) {
    throw ConfigError(
        fmt::format("train.slices = {} does not divide the global batch of {} samples: change one of them",
                    slices, global_batch));
  }
}

struct EpochOrder::Cache {
  std::mutex mutex;
  std::int64_t number = -1;
  std::shared_ptr<const ClassedEpoch> epoch;
  std::shared_ptr<const ShardedEpoch> sharded;
};

EpochOrder::EpochOrder(LengthClasses classes, std::int64_t global_batch, std::int64_t slices,
                       std::optional<std::uint64_t> seed)
    : EpochOrder(static_cast<std::int64_t>(classes.of_sample.size()), global_batch, slices, seed) {
  batches_ = batches_of(classes, global_batch);
  classes_ = std::make_shared<const LengthClasses>(std::move(classes));
  cache_ = std::make_shared<Cache>();
}

EpochOrder::EpochOrder(ShardWindows shards, std::int64_t global_batch, std::int64_t slices,
                       std::uint64_t seed)
    : EpochOrder(std::accumulate(shards.sizes.begin(), shards.sizes.end(), std::int64_t{0}), global_batch,
                 slices, seed) {
  shards_ = std::make_shared<const ShardWindows>(std::move(shards));
  cache_ = std::make_shared<Cache>();
}

std::shared_ptr<const ShardedEpoch> EpochOrder::sharded(std::int64_t number) const {
  const std::lock_guard lock(cache_->mutex);
  if (cache_->number != number) {
    cache_->sharded = std::make_shared<const ShardedEpoch>(*shards_, *seed_, number);
    cache_->number = number;
  }
  return cache_->sharded;
}

std::shared_ptr<const ClassedEpoch> EpochOrder::classed(std::int64_t number) const {
  const std::lock_guard lock(cache_->mutex);
  if (cache_->number == number) return cache_->epoch;
  const PhiloxKey key =
      random_key(seed_.value_or(0), Purpose::shuffle, static_cast<std::uint64_t>(number), 0);
  const Permutation order(key, static_cast<std::uint64_t>(samples_));
  const bool shuffled = seed_.has_value();
  cache_->epoch = std::make_shared<const ClassedEpoch>(
      classed_epoch(*classes_, global_batch_, [&](std::int64_t position) {
        return shuffled ? static_cast<std::int64_t>(order(static_cast<std::uint64_t>(position))) : position;
      }));
  cache_->number = number;
  return cache_->epoch;
}

BatchRange EpochOrder::batch_at(std::int64_t position) const {
  require(position >= 0, "a data position is negative");
  BatchRange batch;
  batch.position = position;
  batch.epoch = position / samples_;
  batch.first = position % samples_;
  if (classes_ == nullptr) {
    batch.count = std::min(global_batch_, samples_ - batch.first);
    return batch;
  }
  const auto epoch = classed(batch.epoch);
  const auto run =
      std::lower_bound(epoch->batches.begin(), epoch->batches.end(), batch.first,
                       [](const ClassedEpoch::Run& r, std::int64_t first) { return r.first < first; });
  require(run != epoch->batches.end() && run->first == batch.first,
          "a data position is not the beginning of a batch");
  batch.count = run->count;
  batch.length_class = run->length_class;
  return batch;
}

SliceRows EpochOrder::rows_of(const BatchRange& batch, std::int64_t slice) const {
  require(slice >= 0 && slice < slices_, "a slice outside the batch");
  SliceRows rows;
  rows.slice = slice;
  rows.capacity = rows_per_slice();
  rows.first = batch.count * slice / slices_;
  rows.valid = batch.count * (slice + 1) / slices_ - rows.first;
  return rows;
}

EpochOrder::Epoch EpochOrder::epoch(std::int64_t number) const {
  const PhiloxKey key =
      random_key(seed_.value_or(0), Purpose::shuffle, static_cast<std::uint64_t>(number), 0);
  Epoch epoch(Permutation(key, static_cast<std::uint64_t>(samples_)), seed_.has_value());
  if (classes_ != nullptr) epoch.classed_ = classed(number);
  if (shards_ != nullptr) epoch.sharded_ = sharded(number);
  return epoch;
}

}  // namespace lockstep
