#include "data/epoch_order.h"

#include <algorithm>
#include <fmt/format.h>

#include "core/error.h"

namespace lockstep {

EpochOrder::EpochOrder(std::int64_t samples, std::int64_t global_batch, std::int64_t slices,
                       std::optional<std::uint64_t> seed)
    : samples_(samples), global_batch_(global_batch), slices_(slices), seed_(seed) {
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

BatchRange EpochOrder::batch_at(std::int64_t position) const {
  require(position >= 0, "a data position is negative");
  BatchRange batch;
  batch.position = position;
  batch.epoch = position / samples_;
  batch.first = position % samples_;
  batch.count = std::min(global_batch_, samples_ - batch.first);
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
  return Epoch(Permutation(key, static_cast<std::uint64_t>(samples_)), seed_.has_value());
}

}  // namespace lockstep
