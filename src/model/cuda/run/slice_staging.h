#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "core/batch.h"
#include "core/numerics/field_transform.h"
#include "device/memory.h"
#include "model/cuda/library/runner.h"
#include "model/cuda/plan/plan.h"
#include "model/graph/graph.h"

namespace lockstep::cuda {

/// Where things lie in the one block that holds what a slice brings from the host, so that it is one copy.
class SliceStaging {
 public:
  SliceStaging() = default;
  /// `transforms`: as ExecutorOptions has them.
  SliceStaging(const Plan& plan, const std::vector<FieldTransform>& transforms) {
    const lockstep::Graph& graph = *plan.graph;
    input_field_ = static_cast<std::size_t>(graph.values[static_cast<std::size_t>(graph.inputs[0])].field);
    answer_field_ = static_cast<std::size_t>(graph.loss.fields.at(0));
    if (input_field_ < transforms.size()) transform_ = transforms[input_field_];
    channels_ = plan.in_channels;
    const auto rows = static_cast<std::size_t>(plan.rows);
    const auto place = [&](std::size_t bytes) {
      const std::size_t at = bytes_;
      bytes_ = align_up(bytes_ + bytes, 256);
      return at;
    };
    header_ = place(sizeof(SliceHeader));
    samples_ = place(rows * sizeof(std::int64_t));
    answers_ = place(rows * graph.fields[answer_field_].bytes());
    if (transform_.augmentation.any()) {
      moves_ = place(rows * sizeof(ImageMove));
      padding_ = place(transform_.padding.size() * sizeof(float));
    }
    table_ = place(transform_.table.size() * sizeof(float));
    const std::size_t element = transform_.table.empty() ? sizeof(float) : 1;
    input_bytes_ = rows * static_cast<std::size_t>(plan.in_channels * plan.in_pixels) * element;
    input_ = place(input_bytes_);
  }

  std::size_t bytes() const { return bytes_; }

  /// Writes the slice into a block in the host's memory.
  void fill(std::byte* to, const SliceHeader& header, const Batch& batch) const {
    std::memcpy(to + header_, &header, sizeof header);
    const auto put = [&](std::size_t at, auto span) {
      if (!span.empty()) std::memcpy(to + at, span.data(), span.size_bytes());
    };
    put(samples_, batch.samples);
    put(answers_, batch.field(answer_field_).data);
    if (transform_.augmentation.any()) {
      const PhiloxKey key = augmentation_key(transform_.augmentation, batch.epoch);
      for (std::size_t row = 0; row < batch.samples.size(); ++row) {
        ImageMove move;
        if (batch.samples[row] >= 0) move = image_move(transform_.augmentation, key, batch.samples[row]);
        std::memcpy(to + moves_ + row * sizeof move, &move, sizeof move);
      }
      put(padding_, std::span(transform_.padding));
    }
    put(table_, std::span(transform_.table));
    put(input_, batch.field(input_field_).data);
  }

  /// Whether a slice is what the block was made for.
  bool fits(const Batch& batch) const {
    const FieldRows input = batch.field(input_field_);
    return input.data.size() == input_bytes_ &&
           input.type == (transform_.table.empty() ? DType::f32 : DType::u8);
  }
  /// Whether it has what the loss takes.
  bool answers(const Batch& batch) const { return !batch.field(answer_field_).empty(); }

  /// Sets the addresses of a slice that lies in a block of the device's memory.
  void point_into(const std::byte* block, SliceMemory& memory) const {
    memory.input = block + input_;
    memory.answers = block + answers_;
    memory.samples = reinterpret_cast<const std::int64_t*>(block + samples_);
    memory.header = reinterpret_cast<const SliceHeader*>(block + header_);
    if (!transform_.table.empty()) {
      memory.table = reinterpret_cast<const float*>(block + table_);
      // One row of the table for each channel, or one for all.
      memory.table_step = transform_.table.size() == 256 || channels_ == 1 ? 0 : 256;
    }
    if (!transform_.augmentation.any()) return;
    memory.moves = reinterpret_cast<const ImageMove*>(block + moves_);
    memory.padding = reinterpret_cast<const float*>(block + padding_);
  }

 private:
  std::size_t input_field_ = 0, answer_field_ = 0;  // places in Batch::fields
  FieldTransform transform_;                        // of the input
  std::int64_t channels_ = 1;
  std::size_t input_bytes_ = 0;
  std::size_t header_ = 0, samples_ = 0, answers_ = 0, moves_ = 0, padding_ = 0, table_ = 0, input_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace lockstep::cuda
