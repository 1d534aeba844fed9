#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "core/error.h"
#include "core/range.h"
#include "model/cpu/kernels/kernel.h"

namespace lockstep::cpu {

/// `count` things split into `tasks` contiguous parts of nearly equal size.
struct TaskSplit {
  std::int64_t count = 0;
  int tasks = 1;
  Range part(int task) const { return {count * task / tasks, count * (task + 1) / tasks}; }
};

/// Split by shapes alone: a task for every 256 KiB that the op touches, at most 8 and at most one per thing.
inline TaskSplit split_work(std::int64_t count, std::int64_t bytes) {
  const std::int64_t wanted = std::clamp<std::int64_t>(bytes / (256 * 1024), 1, 8);
  return {count, static_cast<int>(std::max<std::int64_t>(1, std::min(wanted, count)))};
}

/// Split along the rows of a slice.
inline TaskSplit split_rows(const KernelSpec& spec) {
  const std::int64_t largest = std::max(spec.inputs.at(0).elements(), spec.output.elements());
  return split_work(spec.rows, spec.rows * largest * static_cast<std::int64_t>(sizeof(float)));
}

/// Base of the kernels whose loops are Lockstep's own: one phase in each direction; the backward pass has
/// none where the kernel was made for inference.
class OwnKernel : public Kernel {
 public:
  const Needs& needs() const override { return needs_; }
  std::string implementation() const override { return "lockstep:" + name_; }
  std::span<const Phase> forward_phases() const override { return {&phase_, 1}; }
  std::span<const Phase> backward_phases() const override {
    return training_ ? std::span<const Phase>{&phase_, 1} : std::span<const Phase>{};
  }

 protected:
  OwnKernel(std::string name, const KernelSpec& spec, TaskSplit split)
      : name_(std::move(name)), training_(spec.training), split_(split), phase_{split.tasks} {}

  const TaskSplit& split() const { return split_; }
  bool training() const { return training_; }
  Needs needs_;

 private:
  std::string name_;
  bool training_;
  TaskSplit split_;
  Phase phase_;
};

/// The attributes of the op that the spec names.
template <class Attrs>
const Attrs& attrs_of(const KernelSpec& spec) {
  require(spec.graph != nullptr, "a kernel is made from a node of a graph");
  const auto* attrs = spec.op().attrs.get<Attrs>();
  require(attrs != nullptr, "the kernel does not fit the node's op");
  return *attrs;
}

inline const float* floats(const std::byte* base, std::size_t offset) {
  return reinterpret_cast<const float*>(base + offset);
}
inline float* floats(std::byte* base, std::size_t offset) {
  return reinterpret_cast<float*>(base + offset);
}

/// Positions of a row of input `i` that count; `extent`: where it is not ragged.
inline std::int64_t input_length(const Binding& at, const TaskContext& ctx, std::size_t i, std::int64_t row,
                                 std::int64_t extent) {
  if (i >= at.input_lengths.size() || at.input_lengths[i] == none) return extent;
  return reinterpret_cast<const std::int32_t*>(ctx.arena + at.input_lengths[i])[row];
}

/// The gradient of input `i`, or null where nobody needs it.
inline float* diff_input(const Binding& at, const TaskContext& ctx, std::size_t i) {
  return i < at.diff_inputs.size() && at.diff_inputs[i] != none ? floats(ctx.arena, at.diff_inputs[i])
                                                                : nullptr;
}

}  // namespace lockstep::cpu
