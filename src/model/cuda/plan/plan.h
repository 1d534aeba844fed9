#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/range.h"
#include "model/cuda/kernels/numbers.h"
#include "model/cuda/kernels/work_elementwise.h"
#include "model/cuda/kernels/work_loss.h"
#include "model/cuda/kernels/work_pool.h"
#include "model/cuda/plan/own_op.h"
#include "model/graph/flat_layout.h"
#include "model/graph/graph.h"
#include "model/plan/memory_plan.h"

// What a GPU does for one slice, as data: commands over one arena, made once from shapes, read by tests and
// carried out by model/cuda/library/runner.h. Needs no CUDA.

namespace lockstep::cuda {

inline constexpr std::size_t nowhere = static_cast<std::size_t>(-1);  ///< no place in the arena
inline constexpr std::int64_t no_parameter = -1;

/// A convolution, channels-last. Weights are stored (out channels, kernel h, kernel w, in channels / groups).
struct ConvShape {
  std::int64_t rows, in_channels, in_h, in_w, out_channels, out_h, out_w;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, groups;
  std::int64_t weights() const { return out_channels * kernel_h * kernel_w * (in_channels / groups); }
  friend bool operator==(const ConvShape&, const ConvShape&) = default;
};
struct DenseShape {
  std::int64_t rows, in, out;
  friend bool operator==(const DenseShape&, const DenseShape&) = default;
};

/// Numbers a channel in float32, as libraries take them: each of them a row that begins where tensors may.
struct ChannelRows {
  static constexpr std::int64_t stride(std::int64_t channels) { return (channels + 15) / 16 * 16; }
  static constexpr std::size_t bytes(std::int64_t channels, int rows) {
    return static_cast<std::size_t>(rows * stride(channels)) * sizeof(float);
  }
};

// ---- Commands. Places are bytes in the arena; parameters and statistics are elements of the flat buffers.
// ----

struct ConvForward {
  ConvShape shape;
  std::size_t x, y;
  std::int64_t weight, bias;
  bool relu;
  std::size_t sums = nowhere;  ///< ChannelRows: sums of y and of its squares, where the library gives them
};
/// The norm and ReLU whose result a convolution takes: a library may mask dx with the ReLU's sign, which it
/// computes again from the norm's input, and sum it for the norm's parameters.
struct NormInFront {
  static constexpr int results = 5;  ///< gradients of gamma and beta; three more that cuDNN gives, not used
  std::size_t x = nowhere, saved = nowhere;
  std::size_t sums = nowhere;  ///< ChannelRows; nowhere: there is no such norm
  std::int64_t gamma = no_parameter, beta = no_parameter;
};
struct ConvBackwardData {
  ConvShape shape;
  std::size_t dy, dx;
  std::int64_t weight;
  NormInFront norm = {};
};
struct ConvBackwardWeights {
  ConvShape shape;
  std::size_t x, dy;
  std::int64_t weight;
  std::size_t work;  ///< weights() elements of two bytes, where the library gives 16-bit gradients
};
struct DenseForward {
  DenseShape shape;
  std::size_t x, y;
  std::int64_t weight, bias;
  bool relu;
  /// Where a library may put GELU(y) with the product; y itself where nobody needs y any more. nowhere: no
  /// GELU follows.
  std::size_t gelu = nowhere;
};
struct DenseBackwardData {
  DenseShape shape;
  std::size_t dy, dx;
  std::int64_t weight;
  std::size_t gelu = nowhere;  ///< input of the GELU that gave x: a library may multiply dx by its slope
};
struct DenseBackwardWeights {
  DenseShape shape;
  std::size_t x, dy;
  std::int64_t weight;
  std::int64_t bias = no_parameter;  ///< whose gradient a library may sum with the product
};
struct BiasGradient {
  std::size_t dy, work;
  std::int64_t bias, rows, channels, pixels;
  int given_by = -1;  ///< the DenseBackwardWeights of Plan::backward that may give it
};
struct NormForward {
  std::size_t x, residual, y, saved, work;  ///< saved: ChannelRows of mean and 1 / deviation
  std::int64_t gamma, beta, mean, variance;
  std::int64_t rows, channels, pixels;
  double epsilon;
  bool relu, training;
  std::size_t sums = nowhere;  ///< as ConvForward::sums
  int sums_from = -1;          ///< the command of Plan::forward that may have written them
};
struct NormBackwardCommand {
  std::size_t x, dy, dx, dresidual, saved, work;
  std::int64_t gamma, beta;
  std::int64_t rows, channels, pixels;
  int sums_from = -1;  ///< the ConvBackwardData of Plan::backward that may have masked dy and summed it
  bool relu = false;   ///< without a residual: its sign is computed again from x
  /// Of a norm with residual and ReLU: the sign of y counts, dy becomes the residual's gradient, and what is
  /// to be added to it first, if anything.
  std::size_t y = nowhere, more = nowhere;
};
/// A convolution and the norm behind it with running statistics, as one: inference.
struct ConvNormForward {
  ConvShape shape;
  std::size_t x, residual, y,
      factors;  ///< factors: ChannelRows of scale and shift, or of mean and 1 / deviation
  std::int64_t weight, bias, gamma, beta, mean, variance;
  double epsilon;
  bool relu;
};
/// The convolution in it, for libraries that have no plan for the whole; the norm then works in place.
constexpr ConvForward product_of(const ConvNormForward& c) {
  return {c.shape, c.x, c.y, c.weight, c.bias, false, nowhere};
}
struct PoolForward {
  std::size_t x, y, taken;  ///< taken: (outputs) places, see PoolShape::byte_places; maximum only
  PoolShape shape;
  std::int64_t rows;
  bool maximum;
};
struct PoolBackward {
  std::size_t dy, dx, taken;
  PoolShape shape;
  std::int64_t rows;
  bool maximum;
};
struct ReluForward {
  std::size_t x, y;
  std::int64_t elements;
};
struct ReluMask {
  std::size_t y, dy, dx;  ///< dx may be dy
  std::int64_t elements;
};
struct GeluForward {
  std::size_t x, y;  ///< y may be x
  std::int64_t elements;
  int given_by = -1;  ///< the DenseForward of Plan::forward that may have given y
};
struct GeluBackward {
  std::size_t x, dy, dx;  ///< dx may be dy
  std::int64_t elements;
  int given_by = -1;  ///< the DenseBackwardData of Plan::backward that may have given dx, which is dy
};
struct AddForward {
  std::size_t a, b, y;
  std::int64_t elements;
};
struct CopyValue {
  std::size_t from, to;
  std::int64_t elements;
};
struct Accumulate {
  std::size_t into, from;  ///< into += from
  std::int64_t elements;
};
struct DropoutCommand {
  std::size_t x, y;
  std::uint32_t node, threshold;
  float scale;
  std::int64_t rows, channels, pixels;
};
struct FlattenForward {
  std::size_t x, y;
  std::int64_t rows, channels, pixels;
};
struct FlattenBackward {
  std::size_t dy, dx;
  std::int64_t rows, channels, pixels;
};
struct SoftmaxForward {
  std::size_t x, y;
  VectorShape shape;
  std::int64_t vectors;
};
struct SoftmaxBackwardCommand {
  std::size_t y, dy, dx;
  VectorShape shape;
  std::int64_t vectors;
};
/// The gradient of a parameter, computed at the scale of the loss, at its own scale again (float16 only).
struct UnscaleGradient {
  Range flat;
};
/// Zeros at positions beyond the rows' lengths.
struct ClearPaddingCommand {
  std::size_t value;
  int lengths;  ///< place in Graph::lengths
  std::int64_t rows, extent, features;
};
/// The gradient of a parameter that is not trained, nor is what it needs to be computed.
struct ZeroGradient {
  Range flat;
};

/// An op with kernels of Lockstep's own (own_op.h), in one direction. Parameters are elements of the flat
/// buffers.
struct OwnPlaces {
  const OwnOp* op = nullptr;
  int node = -1;  ///< of the graph
  std::array<std::size_t, own_inputs> x;
  std::size_t y = nowhere, saved = nowhere, work = nowhere;
  std::array<std::int64_t, own_parameters> parameters;
  OwnPlaces() {
    x.fill(nowhere);
    parameters.fill(no_parameter);
  }
};
struct OwnForward {
  OwnPlaces at;
};
struct OwnBackward {
  OwnPlaces at;
  std::size_t dy = nowhere;
  std::array<std::size_t, own_inputs> dx;
};

using Command =
    std::variant<ConvForward, ConvBackwardData, ConvBackwardWeights, DenseForward, DenseBackwardData,
                 DenseBackwardWeights, BiasGradient, NormForward, ConvNormForward, NormBackwardCommand,
                 PoolForward, PoolBackward, ReluForward, ReluMask, GeluForward, GeluBackward, AddForward,
                 CopyValue, Accumulate, DropoutCommand, FlattenForward, FlattenBackward, SoftmaxForward,
                 SoftmaxBackwardCommand, UnscaleGradient, ZeroGradient, ClearPaddingCommand, OwnForward,
                 OwnBackward>;

/// A fused op, for reports and for those who look at what each computes.
struct PlannedOp {
  struct Place {
    std::size_t at = nowhere;
    std::int64_t row_elements = 0;
  };
  std::vector<int> nodes;  ///< of the graph, in order
  std::string name;        ///< of the first of them, for messages
  ValueId output = -1;
  int first_command = 0;                      ///< of Plan::forward; up to that of the next op
  Place value;                                ///< its output
  int backward_first = 0, backward_last = 0;  ///< of Plan::backward; equal where it has none
  std::vector<Place> diff_inputs;             ///< those that it computes
  Range flat;                                 ///< of its parameters and statistics; training only
};

/// Part of the backward pass: commands [first, last) of Plan::backward, after which `flat` is final.
struct Segment {
  int first = 0, last = 0;
  Range flat;
};

/// Where the graph's input, its output and the loss lie.
struct LossPlan {
  const OwnOp* op = nullptr;
  std::int64_t rows = 0, width = 0;  ///< outputs of a row
  std::int64_t channels = 1, pixels = 1;
  std::size_t output = nowhere;       ///< channels-last, as computed
  std::size_t diff_output = nowhere;  ///< its gradient; training only
  std::size_t plain = nowhere;        ///< (rows, width) float32
  std::size_t diff_plain = nowhere;   ///< training only
  std::size_t row_sums = nowhere, work = nowhere;
};

/// A field that the graph takes in.
struct PlannedInput {
  std::size_t field = 0;  ///< place in Graph::fields
  DType type = DType::f32;
  std::int64_t channels = 1, pixels = 1, width = 1;
  std::size_t place = nowhere;  ///< f32: channels-last in the plan's precision; i32: as it came
};

struct Plan {
  const lockstep::Graph* graph = nullptr;  ///< borrowed; what own ops look at
  Precision precision = Precision::fp32;
  std::int64_t rows = 0;
  bool training = true;
  std::vector<PlannedInput> inputs;  ///< in the order of Graph::inputs
  std::vector<PlannedOp> ops;
  std::vector<Command> forward;
  LossPlan loss;
  std::vector<Command> backward;
  std::vector<Segment> segments;  ///< tile `backward` and, in order, the flat gradient
  std::vector<MemoryRequest> memory;
  std::size_t arena_bytes = 0;
  FlatLayout layout;
};

/// Compiles `graph` for slices of `rows` rows. Segments end where at least `segment_elements` of the flat
/// gradient have become final. The layout depends on the graph alone. `fuse`: with fusions across batch norm
/// and GELU, and of bias gradients.
Plan make_plan(const lockstep::Graph& graph, std::int64_t rows, bool training, Precision precision,
               std::int64_t segment_elements, bool fuse = true);

/// The name of the op that a command belongs to: of Plan::forward, or with `backward` of Plan::backward.
std::string layer_of(const Plan& plan, std::size_t command, bool backward);

/// A convolution's weights between plain (out, in / groups, kh, kw) and stored (out, kh, kw, in / groups).
void weights_to_stored(const Shape& plain_shape, std::span<const float> plain, std::span<float> stored);
void weights_to_plain(const Shape& plain_shape, std::span<const float> stored, std::span<float> plain);

}  // namespace lockstep::cuda
