#pragma once

#include <cstddef>
#include <cstring>

#include "core/slice_batch.h"
#include "device/memory.h"
#include "model/cuda/library/runner.h"
#include "model/cuda/plan/plan.h"
#include "model/graph/graph.h"

namespace lockstep::cuda {

/// Where things lie in the one block that holds what a slice brings from the host, so that it is one copy.
class SliceStaging {
 public:
  SliceStaging() = default;
  SliceStaging(const Plan& plan, bool has_targets, bool augments)
      : has_targets_(has_targets), augments_(augments) {
    const auto rows = static_cast<std::size_t>(plan.rows);
    const auto place = [&](std::size_t bytes) {
      const std::size_t at = bytes_;
      bytes_ = align_up(bytes_ + bytes, 256);
      return at;
    };
    header_ = place(sizeof(SliceHeader));
    samples_ = place(rows * sizeof(std::int64_t));
    labels_ = place(rows * sizeof(std::int32_t));
    if (has_targets_) targets_ = place(rows * static_cast<std::size_t>(plan.loss.width) * sizeof(float));
    if (augments_) {
      moves_ = place(rows * sizeof(ImageMove));
      padding_ = place(static_cast<std::size_t>(plan.in_channels) * sizeof(float));
    }
    input_ = place(rows * static_cast<std::size_t>(plan.in_channels * plan.in_pixels) * sizeof(float));
  }

  std::size_t bytes() const { return bytes_; }

  /// Writes the slice into a block in the host's memory.
  void fill(std::byte* to, const SliceHeader& header, const SliceBatch& batch) const {
    std::memcpy(to + header_, &header, sizeof header);
    const auto put = [&](std::size_t at, auto span) {
      if (!span.empty()) std::memcpy(to + at, span.data(), span.size_bytes());
    };
    put(samples_, batch.samples);
    put(labels_, batch.labels);
    if (has_targets_) put(targets_, batch.targets);
    put(moves_, batch.moves);
    put(padding_, batch.padding);
    put(input_, batch.input);
  }

  /// Sets the addresses of a slice that lies in a block of the device's memory.
  void point_into(const std::byte* block, SliceMemory& memory) const {
    memory.input = reinterpret_cast<const float*>(block + input_);
    memory.labels = reinterpret_cast<const std::int32_t*>(block + labels_);
    memory.targets = reinterpret_cast<const float*>(block + targets_);
    memory.samples = reinterpret_cast<const std::int64_t*>(block + samples_);
    memory.header = reinterpret_cast<const SliceHeader*>(block + header_);
    if (!augments_) return;
    memory.moves = reinterpret_cast<const ImageMove*>(block + moves_);
    memory.padding = reinterpret_cast<const float*>(block + padding_);
  }

 private:
  bool has_targets_ = false, augments_ = false;
  std::size_t header_ = 0, samples_ = 0, labels_ = 0, targets_ = 0, moves_ = 0, padding_ = 0, input_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace lockstep::cuda
