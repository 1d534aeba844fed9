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
#include "model/plan/row_lengths.h"

namespace lockstep::cuda {

/// Where things lie in the one block that holds what a slice brings from the host, so that it is one copy.
class SliceStaging {
 public:
  SliceStaging() = default;
  /// `transforms`: as ExecutorOptions has them. The plan must outlive this.
  SliceStaging(const Plan& plan, const std::vector<FieldTransform>& transforms) : plan_(&plan) {
    const lockstep::Graph& graph = *plan.graph;
    const auto rows = static_cast<std::size_t>(plan.rows);
    const auto place = [&](std::size_t bytes) {
      const std::size_t at = bytes_;
      bytes_ = align_up(bytes_ + bytes, 256);
      return at;
    };
    header_ = place(sizeof(SliceHeader));
    samples_ = place(rows * sizeof(std::int64_t));
    lengths_ = place(graph.lengths.size() * rows * sizeof(std::int32_t));
    require(graph.fields.size() <= most_fields, "a slice has too many fields");
    for (std::size_t f = 0; f < graph.fields.size(); ++f) {
      FieldPlace& field = fields_.emplace_back();
      if (f < transforms.size()) field.transform = transforms[f];
      const FieldTransform& transform = field.transform;
      if (transform.augmentation.any()) {
        field.moves = place(rows * sizeof(ImageMove));
        field.padding = place(transform.padding.size() * sizeof(float));
      }
      field.table = place(transform.table.size() * sizeof(float));
      field.type = transform.table.empty() ? graph.fields[f].type : DType::u8;
      field.bytes = rows * static_cast<std::size_t>(graph.fields[f].elements()) * size_of(field.type);
      field.data = place(field.bytes);
    }
  }

  std::size_t bytes() const { return bytes_; }

  /// Writes the slice into a block in the host's memory.
  void fill(std::byte* to, const SliceHeader& header, const Batch& batch) const {
    std::memcpy(to + header_, &header, sizeof header);
    const auto put = [&](std::size_t at, auto span) {
      if (!span.empty()) std::memcpy(to + at, span.data(), span.size_bytes());
    };
    put(samples_, batch.samples);
    const lockstep::Graph& graph = *plan_->graph;
    fill_row_lengths(graph, batch,
                     {reinterpret_cast<std::int32_t*>(to + lengths_),
                      graph.lengths.size() * static_cast<std::size_t>(batch.rows)});
    for (std::size_t f = 0; f < fields_.size(); ++f) {
      const FieldPlace& field = fields_[f];
      put(field.data, batch.field(f).data);
      put(field.table, std::span(field.transform.table));
      if (!field.transform.augmentation.any()) continue;
      put(field.padding, std::span(field.transform.padding));
      const PhiloxKey key = augmentation_key(field.transform.augmentation, batch.epoch);
      for (std::size_t row = 0; row < batch.samples.size(); ++row) {
        ImageMove move;
        if (batch.samples[row] >= 0) move = image_move(field.transform.augmentation, key, batch.samples[row]);
        std::memcpy(to + field.moves + row * sizeof move, &move, sizeof move);
      }
    }
  }

  /// Whether the inputs of a slice are what the block was made for.
  bool fits(const Batch& batch) const {
    for (const PlannedInput& input : plan_->inputs) {
      const FieldRows rows = batch.field(input.field);
      if (rows.data.size() != fields_[input.field].bytes || rows.type != fields_[input.field].type)
        return false;
    }
    return true;
  }
  /// Whether it has what the loss takes.
  bool answers(const Batch& batch) const {
    return !batch.field(static_cast<std::size_t>(plan_->graph->loss.fields.at(0))).empty();
  }

  /// Sets the addresses of a slice that lies in a block of the device's memory.
  void point_into(const std::byte* block, SliceMemory& memory) const {
    memory.samples = reinterpret_cast<const std::int64_t*>(block + samples_);
    memory.header = reinterpret_cast<const SliceHeader*>(block + header_);
    memory.lengths = reinterpret_cast<const std::int32_t*>(block + lengths_);
    for (std::size_t f = 0; f < fields_.size(); ++f) {
      const FieldPlace& field = fields_[f];
      FieldMemory& to = memory.fields[f];
      to.data = block + field.data;
      if (!field.transform.table.empty()) {
        to.table = reinterpret_cast<const float*>(block + field.table);
        // A row of the table for each channel, or one for all.
        to.table_step = field.transform.table.size() == 256 ? 0 : 256;
      }
      if (!field.transform.augmentation.any()) continue;
      to.moves = reinterpret_cast<const ImageMove*>(block + field.moves);
      to.padding = reinterpret_cast<const float*>(block + field.padding);
    }
  }

 private:
  struct FieldPlace {
    FieldTransform transform;
    DType type = DType::f32;
    std::size_t bytes = 0;  ///< of the data
    std::size_t data = 0, moves = 0, padding = 0, table = 0;
  };
  const Plan* plan_ = nullptr;
  std::vector<FieldPlace> fields_;  // by place in Graph::fields
  std::size_t header_ = 0, samples_ = 0, lengths_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace lockstep::cuda
