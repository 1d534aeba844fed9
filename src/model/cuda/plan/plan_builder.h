#pragma once

// What make_plan() is made of; nobody else includes it. The passes are in plan_forward.cpp and
// plan_backward.cpp.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/index.h"
#include "model/cuda/plan/gelu_fusion.h"
#include "model/cuda/plan/norm_fusion.h"
#include "model/cuda/plan/plan.h"
#include "model/ops/norm/batch_norm.h"
#include "model/ops/random/dropout.h"
#include "model/plan/fusion.h"

namespace lockstep::cuda {

struct Extent {
  std::int64_t channels = 1, height = 1, width = 1;
  std::int64_t pixels() const { return height * width; }
  std::int64_t elements() const { return channels * height * width; }
};
inline Extent extent_of(const Shape& shape) {
  if (shape.rank() == 3) return {shape[0], shape[1], shape[2]};
  return {shape.elements(), 1, 1};
}

/// Bytes of work of the sums over rows: chunk sums and products in float32, groups in float64 before them.
std::size_t reduction_bytes(std::int64_t rows, std::int64_t channels);

/// Builds the plan. Times: op i runs forward at i, the loss at `count`, its backward at 2 count - i. Commands
/// hold numbers of memory requests until the arena is laid out.
class PlanBuilder {
 public:
  PlanBuilder(const lockstep::Graph& graph, Plan& plan, bool fuse);

  void run(std::int64_t segment_elements);

 private:
  // ---- memory ----
  std::size_t request(std::string name, std::size_t bytes, int first, int last) {
    plan_.memory.push_back({std::move(name), std::max<std::size_t>(bytes, 1), first, last, 0});
    return plan_.memory.size() - 1;
  }
  void extend(std::size_t i, int last) { plan_.memory[i].last = std::max(plan_.memory[i].last, last); }
  std::size_t value_bytes(ValueId v) const {
    const bool narrow = graph_.values[at(v)].type == DType::f32;
    return static_cast<std::size_t>(plan_.rows * graph_.shape_of(v).elements()) *
           (narrow ? bytes_of(plan_.precision) : sizeof(std::int32_t));
  }
  std::int64_t elements(ValueId v) const { return plan_.rows * graph_.shape_of(v).elements(); }
  int backward_time(int i) const { return 2 * count_ - i; }
  bool has_backward(int i) const { return plan_.training && with_gradient_[at(fused_[at(i)].output)]; }
  const OpNode& node_of(int i) const { return graph_.nodes[at(fused_[at(i)].nodes.front())]; }
  template <class Attrs>
  const Attrs* attrs(int i) const {
    return node_of(i).attrs.get<Attrs>();
  }

  // ---- the flat layout: last op first ----
  void lay_out_flat();
  std::int64_t parameter(int i, std::size_t k) const {
    const auto& list = first_parameter_[at(i)];
    return k < list.size() ? list[k] : no_parameter;
  }

  // ---- shapes ----
  ConvShape conv_shape(int i) const;
  DenseShape dense_shape(int i) const;
  /// The pool that node i is, if it is one; a global average has one window.
  std::optional<PoolShape> pool_shape(int i) const;
  /// Vectors along the last axis of the plain shape; of an image that is its width.
  std::pair<VectorShape, std::int64_t> vectors(ValueId v) const;

  // ---- the forward pass ----
  void forward(int i);
  /// Clears the padding of op i's output in `commands`, where it has any: `place` is that value or its
  /// gradient.
  void clear_padding(int i, std::size_t place, std::vector<Command>& commands) const;
  /// Where dense layer i, with its result in `y`, may put what the GELU behind it gives. In inference nobody
  /// reads its own result, so both are one.
  std::size_t gelu_of(int i, std::size_t y);
  /// The convolution that norm i takes whole, or -1.
  int joined(int i) const;
  /// Where convolution i puts what it sums for the norms behind it, if any takes that.
  std::size_t sums_of(int i);
  /// Convolution `conv` and norm i, in inference, at the place of the norm: there the residual exists.
  void forward_joined(int conv, int i);
  std::int64_t bias(int i) const { return node_of(i).parameters.size() > 1 ? parameter(i, 1) : no_parameter; }
  DropoutCommand dropout_command(int i, const DropoutAttrs& a, std::size_t from, std::size_t to) const;

  /// What both directions of own op i have in common.
  OwnPlaces own_places(int i, const OwnOp& op, std::size_t y) const;

  void loss();

  // ---- the backward pass ----
  void backward(int i);
  /// Of an op below all that is trained: what it has in the flat gradient is final all the same.
  void leave_out_backward(int i);

  /// The input of the GELU by whose slope dense layer i may multiply its data gradient.
  std::size_t gelu_in_front(int i, int now);

  /// Whether op i is a norm with residual and ReLU, which masks its gradient where it lies.
  bool masks_in_place(int i) const {
    return attrs<BatchNormAttrs>(i) != nullptr && fused_[at(i)].residual && fused_[at(i)].relu;
  }

  /// What convolution i may do for the norm whose result it takes.
  NormInFront norm_in_front(int i, int now);

  void cut_segments(std::int64_t wanted);

  // ---- numbers of requests become places ----
  void place(std::size_t& p) const {
    if (p != nowhere) p = plan_.memory[p].offset;
  }
  struct Resolver;
  template <class... Places>
  void all(Places&... places) const {
    (place(places), ...);
  }
  void resolve();

  struct Saved {
    std::size_t place = nowhere;
  };
  const lockstep::Graph& graph_;
  Plan& plan_;
  bool fuse_;
  std::vector<FusedOp> fused_;
  int count_ = 0;
  std::vector<bool> with_gradient_;
  std::vector<std::vector<std::int64_t>> first_parameter_;  // per op: its parameters, then its statistics
  std::vector<Range> flat_;                                 // per op
  std::vector<std::size_t> values_, diffs_;                 // requests, by value
  std::vector<std::size_t> more_;  // by value: the part of its gradient that its norm adds itself
  std::vector<int> parts_;         // by value: parts of its gradient that are still to come
  std::vector<int> producer_;      // by value: its op
  NormFusion norms_;
  GeluFusion gelus_;
  std::map<int, std::pair<int, std::size_t>> conv_command_;  // by op: its command, and the place of its sums
  std::map<int, int> dense_command_;                         // by op: its DenseForward
  std::map<int, std::size_t> gelu_place_;                    // by op: the place that its dense layer knows
  std::map<int, int> data_command_;  // by op: its ConvBackwardData or DenseBackwardData
  std::map<int, Saved> saved_;
  std::vector<std::pair<int, Range>> ends_;  // of the ops' backward commands
};

}  // namespace lockstep::cuda
