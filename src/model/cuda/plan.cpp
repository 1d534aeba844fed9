#include "model/cuda/plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "core/error.h"
#include "device/memory.h"
#include "model/cuda/gelu_fusion.h"
#include "model/cuda/norm_fusion.h"
#include "model/cuda/work_reduce.h"
#include "model/fusion.h"

namespace lockstep::cuda {
namespace {

std::size_t at(int i) {
  return static_cast<std::size_t>(i);
}

struct Extent {
  std::int64_t channels = 1, height = 1, width = 1;
  std::int64_t pixels() const { return height * width; }
  std::int64_t elements() const { return channels * height * width; }
};
Extent extent_of(const Shape& shape) {
  if (shape.rank() == 3) return {shape[0], shape[1], shape[2]};
  return {shape.elements(), 1, 1};
}

constexpr std::int64_t segment_alignment = 16;  // floats: kernels and libraries see aligned tensors

/// Bytes of work of the sums over rows: chunk sums and products in float32, groups in float64 before them.
std::size_t reduction_bytes(std::int64_t rows, std::int64_t channels) {
  const ChunkPlan plan = chunk_plan(rows);
  return static_cast<std::size_t>(channels) * (static_cast<std::size_t>(plan.groups) * 2 * sizeof(double) +
                                               static_cast<std::size_t>(plan.chunks) * 2 * sizeof(float));
}

/// Builds the plan. Times: op i runs forward at i, the loss at `count`, its backward at 2 count - i. Commands
/// hold numbers of memory requests until the arena is laid out.
class Builder {
 public:
  Builder(const lockstep::Graph& graph, Plan& plan, bool fuse)
      : graph_(graph), plan_(plan), fuse_(fuse), fused_(fuse_ops(graph)) {
    count_ = static_cast<int>(fused_.size());
    norms_ = fuse ? fuse_norms(graph, fused_, plan.training, plan.precision) : NormFusion(fused_.size());
    gelus_ = fuse ? fuse_gelus(graph, fused_, plan.precision) : GeluFusion(fused_.size());
    with_gradient_ = values_with_gradient(graph);
    lay_out_flat();
  }

  void run(std::int64_t segment_elements) {
    values_.assign(graph_.values.size(), nowhere);
    const ValueId input = graph_.inputs.at(0);
    values_[at(input)] = request("input", value_bytes(input), 0, 0);
    plan_.input = values_[at(input)];
    const Extent in = extent_of(graph_.shape_of(input));
    plan_.in_channels = in.channels;
    plan_.in_pixels = in.pixels();
    plan_.in_width = in.width;
    for (int i = 0; i < count_; ++i) forward(i);
    loss();
    if (plan_.training) {
      for (int i = count_ - 1; i >= 0; --i) backward(i);
      cut_segments(segment_elements);
    }
    plan_.arena_bytes = plan_memory(plan_.memory);
    resolve();
  }

 private:
  // ---- memory ----
  std::size_t request(std::string name, std::size_t bytes, int first, int last) {
    plan_.memory.push_back({std::move(name), std::max<std::size_t>(bytes, 1), first, last, 0});
    return plan_.memory.size() - 1;
  }
  void extend(std::size_t i, int last) { plan_.memory[i].last = std::max(plan_.memory[i].last, last); }
  std::size_t value_bytes(ValueId v) const {
    return static_cast<std::size_t>(plan_.rows * graph_.shape_of(v).elements()) * bytes_of(plan_.precision);
  }
  std::int64_t elements(ValueId v) const { return plan_.rows * graph_.shape_of(v).elements(); }
  int backward_time(int i) const { return 2 * count_ - i; }
  bool has_backward(int i) const { return plan_.training && with_gradient_[at(fused_[at(i)].output)]; }
  const OpNode& node_of(int i) const { return graph_.nodes[at(fused_[at(i)].nodes.front())]; }
  template <class Attrs>
  const Attrs* attrs(int i) const {
    return std::get_if<Attrs>(&node_of(i).attrs);
  }

  // ---- the flat layout: last op first ----
  void lay_out_flat() {
    std::int64_t next = 0;
    first_parameter_.assign(at(count_), {});
    flat_.assign(at(count_), {});
    for (int i = count_ - 1; i >= 0; --i) {
      const OpNode& node = node_of(i);
      const std::int64_t begin = next;
      const auto add = [&](FlatSegment segment) {
        first_parameter_[at(i)].push_back(next);
        segment.storage = {next, next + segment.shape.elements()};
        next = (segment.storage.end + segment_alignment - 1) / segment_alignment * segment_alignment;
        plan_.layout.segments.push_back(std::move(segment));
      };
      for (const int p : node.parameters) {
        const Parameter& parameter = graph_.parameters[at(p)];
        add({FlatSegment::Kind::parameter, p, parameter.name, parameter.shape, {}, 0});
      }
      for (const int s : node.statistics) {
        const Statistic& statistic = graph_.statistics[at(s)];
        add({FlatSegment::Kind::statistic, s, statistic.name, statistic.shape, {}, statistic.momentum});
      }
      flat_[at(i)] = {begin, next};
    }
    plan_.layout.elements = std::max(next, segment_alignment);
  }
  std::int64_t parameter(int i, std::size_t k) const {
    const auto& list = first_parameter_[at(i)];
    return k < list.size() ? list[k] : no_parameter;
  }

  // ---- shapes ----
  ConvShape conv_shape(int i) const {
    const Conv2dAttrs& a = *attrs<Conv2dAttrs>(i);
    const Extent in = extent_of(graph_.shape_of(fused_[at(i)].inputs[0]));
    const Extent out = extent_of(graph_.shape_of(fused_[at(i)].output));
    return {plan_.rows, in.channels, in.height,  in.width,   out.channels, out.height, out.width,
            a.kernel_h, a.kernel_w,  a.stride_h, a.stride_w, a.pad_h,      a.pad_w,    a.groups};
  }
  DenseShape dense_shape(int i) const {
    return {plan_.rows, graph_.shape_of(fused_[at(i)].inputs[0]).elements(),
            graph_.shape_of(fused_[at(i)].output).elements()};
  }
  /// The pool that node i is, if it is one; a global average has one window.
  std::optional<PoolShape> pool_shape(int i) const {
    const Extent in = extent_of(graph_.shape_of(fused_[at(i)].inputs[0]));
    const Extent out = extent_of(graph_.shape_of(fused_[at(i)].output));
    const auto with = [&](const auto& a) {
      return PoolShape{in.channels, in.height,  in.width,   out.height, out.width, a.kernel_h,
                       a.kernel_w,  a.stride_h, a.stride_w, a.pad_h,    a.pad_w};
    };
    if (const auto* a = attrs<MaxPoolAttrs>(i)) return with(*a);
    if (const auto* a = attrs<AvgPoolAttrs>(i)) return with(*a);
    if (attrs<GlobalAvgPoolAttrs>(i) != nullptr) {
      return PoolShape{in.channels, in.height, in.width, 1, 1, in.height, in.width, 1, 1, 0, 0};
    }
    return std::nullopt;
  }
  /// Vectors along the last axis of the plain shape; of an image that is its width.
  std::pair<VectorShape, std::int64_t> vectors(ValueId v) const {
    const Shape& shape = graph_.shape_of(v);
    const std::int64_t total = plan_.rows * shape.elements();
    if (shape.rank() == 3) {
      const std::int64_t c = shape[0], w = shape[2];
      return {VectorShape{w, c, c, c * w}, total / w};
    }
    const std::int64_t last = shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
    return {VectorShape{last, 1, 1, last}, total / last};
  }

  // ---- the forward pass ----
  void forward(int i) {
    if (norms_.joins[at(i)] >= 0) {
      // Nobody may take the place of its input until the norm, which may stand a few ops behind.
      extend(values_[at(fused_[at(i)].inputs[0])], norms_.joins[at(i)]);
      return;
    }
    if (const int conv = joined(i); conv >= 0) {
      forward_joined(conv, i);
      return;
    }
    const FusedOp& op = fused_[at(i)];
    const OpNode& node = node_of(i);
    const bool keep = has_backward(i);
    const int later = backward_time(i);
    PlannedOp planned;
    planned.nodes = op.nodes;
    planned.output = op.output;
    planned.first_command = static_cast<int>(plan_.forward.size());
    planned.flat = flat_[at(i)];
    const std::size_t x = values_[at(op.inputs[0])];
    for (const ValueId v : op.inputs) extend(values_[at(v)], i);
    const bool given = gelus_.given_by[at(i)] >= 0;
    const std::size_t y = given ? gelu_place_.at(i) : request(node.name, value_bytes(op.output), i, i);
    extend(y, i);
    values_[at(op.output)] = y;
    planned.value = {y, graph_.shape_of(op.output).elements()};
    const Extent in = extent_of(graph_.shape_of(op.inputs[0]));
    Saved& saved = saved_.emplace(i, Saved{}).first->second;
    const auto keep_input = [&] {
      if (keep) extend(x, later);
    };
    const auto keep_output = [&] {
      if (keep) extend(y, later);
    };
    auto& out = plan_.forward;
    if (attrs<Conv2dAttrs>(i) != nullptr) {
      keep_input();
      if (op.relu) keep_output();
      const std::size_t sums = sums_of(i);
      conv_command_[i] = {static_cast<int>(out.size()), sums};
      out.push_back(ConvForward{conv_shape(i), x, y, parameter(i, 0), bias(i), op.relu, sums});
    } else if (attrs<DenseAttrs>(i) != nullptr) {
      keep_input();
      if (op.relu) keep_output();
      dense_command_[i] = static_cast<int>(out.size());
      out.push_back(DenseForward{dense_shape(i), x, y, parameter(i, 0), bias(i), op.relu, gelu_of(i, y)});
    } else if (const auto* norm = attrs<BatchNormAttrs>(i)) {
      keep_input();
      if (op.relu && op.residual) keep_output();
      saved.place = request(node.name + ".saved", ChannelRows::bytes(in.channels, 2), i, keep ? later : i);
      const std::size_t work =
          request(node.name + ".sums", reduction_bytes(plan_.rows * in.pixels(), in.channels), i, i);
      const std::size_t residual = op.residual ? values_[at(op.inputs[1])] : nowhere;
      const int from = norms_.sums_from[at(i)];
      const auto [command, sums] = from < 0 ? std::pair(-1, nowhere) : conv_command_.at(from);
      out.push_back(NormForward{x, residual, y, saved.place, work, parameter(i, 0), parameter(i, 1),
                                parameter(i, 2), parameter(i, 3), plan_.rows, in.channels, in.pixels(),
                                norm->epsilon, op.relu, plan_.training, sums, command});
    } else if (const auto pool = pool_shape(i)) {
      const bool maximum = attrs<MaxPoolAttrs>(i) != nullptr;
      const std::size_t place_bytes = pool->byte_places() ? sizeof(std::uint8_t) : sizeof(std::int32_t);
      if (maximum && keep)
        saved.place = request(node.name + ".taken",
                              static_cast<std::size_t>(elements(op.output)) * place_bytes, i, later);
      out.push_back(PoolForward{x, y, saved.place, *pool, plan_.rows, maximum});
    } else if (attrs<ReluAttrs>(i) != nullptr) {
      keep_output();
      out.push_back(ReluForward{x, y, elements(op.output)});
    } else if (attrs<GeluAttrs>(i) != nullptr) {
      keep_input();
      out.push_back(
          GeluForward{x, y, elements(op.output), given ? dense_command_.at(gelus_.given_by[at(i)]) : -1});
    } else if (attrs<AddAttrs>(i) != nullptr) {
      out.push_back(AddForward{x, values_[at(op.inputs[1])], y, elements(op.output)});
    } else if (attrs<FlattenAttrs>(i) != nullptr) {
      out.push_back(FlattenForward{x, y, plan_.rows, in.channels, in.pixels()});
    } else if (const auto* dropout = attrs<DropoutAttrs>(i)) {
      if (plan_.training)
        out.push_back(dropout_command(i, *dropout, x, y));
      else
        out.push_back(CopyValue{x, y, elements(op.output)});
    } else if (attrs<SoftmaxAttrs>(i) != nullptr) {
      keep_output();
      const auto [shape, vectors_count] = vectors(op.output);
      out.push_back(SoftmaxForward{x, y, shape, vectors_count});
    } else {
      throw InternalError("the CUDA plan does not know the op of layer " + node.name);
    }
    plan_.ops.push_back(std::move(planned));
  }
  /// Where dense layer i, with its result in `y`, may put what the GELU behind it gives. In inference nobody
  /// reads its own result, so both are one.
  std::size_t gelu_of(int i, std::size_t y) {
    const auto found = std::find(gelus_.given_by.begin(), gelus_.given_by.end(), i);
    if (found == gelus_.given_by.end()) return nowhere;
    const int gelu = static_cast<int>(found - gelus_.given_by.begin());
    const ValueId output = fused_[at(gelu)].output;
    const std::size_t place = plan_.training ? request(node_of(gelu).name, value_bytes(output), i, i) : y;
    gelu_place_[gelu] = place;
    return place;
  }
  /// The convolution that norm i takes whole, or -1.
  int joined(int i) const {
    const auto found = std::find(norms_.joins.begin(), norms_.joins.end(), i);
    return found == norms_.joins.end() ? -1 : static_cast<int>(found - norms_.joins.begin());
  }
  /// Where convolution i puts what it sums for the norms behind it, if any takes that.
  std::size_t sums_of(int i) {
    int last = -1;
    for (int j = 0; j < count_; ++j)
      if (norms_.sums_from[at(j)] == i) last = j;
    if (last < 0) return nowhere;
    return request(node_of(i).name + ".sums", ChannelRows::bytes(conv_shape(i).out_channels, 2), i, last);
  }
  /// Convolution `conv` and norm i, in inference, at the place of the norm: there the residual exists.
  void forward_joined(int conv, int i) {
    const FusedOp& op = fused_[at(i)];
    const ConvShape shape = conv_shape(conv);
    PlannedOp planned;
    planned.nodes = fused_[at(conv)].nodes;
    planned.nodes.insert(planned.nodes.end(), op.nodes.begin(), op.nodes.end());
    planned.output = op.output;
    planned.first_command = static_cast<int>(plan_.forward.size());
    const std::size_t x = values_[at(fused_[at(conv)].inputs[0])];
    const std::size_t residual = op.residual ? values_[at(op.inputs[1])] : nowhere;
    if (residual != nowhere) extend(residual, i);
    const std::size_t y = request(node_of(i).name, value_bytes(op.output), i, i);
    values_[at(op.output)] = y;
    planned.value = {y, graph_.shape_of(op.output).elements()};
    const std::size_t factors =
        request(node_of(i).name + ".factors", ChannelRows::bytes(shape.out_channels, 2), i, i);
    plan_.forward.push_back(ConvNormForward{shape, x, residual, y, factors, parameter(conv, 0), bias(conv),
                                            parameter(i, 0), parameter(i, 1), parameter(i, 2),
                                            parameter(i, 3), attrs<BatchNormAttrs>(i)->epsilon, op.relu});
    plan_.ops.push_back(std::move(planned));
  }
  std::int64_t bias(int i) const { return node_of(i).parameters.size() > 1 ? parameter(i, 1) : no_parameter; }
  DropoutCommand dropout_command(int i, const DropoutAttrs& a, std::size_t from, std::size_t to) const {
    const Extent in = extent_of(graph_.shape_of(fused_[at(i)].inputs[0]));
    return {from,
            to,
            static_cast<std::uint32_t>(fused_[at(i)].nodes.front()),
            static_cast<std::uint32_t>(std::ceil(a.rate * 16777216.0)),
            static_cast<float>(1.0 / (1.0 - a.rate)),
            plan_.rows,
            in.channels,
            in.pixels()};
  }

  void loss() {
    const Extent out = extent_of(graph_.shape_of(graph_.output));
    LossPlan& l = plan_.loss;
    l.kind = graph_.loss;
    l.rows = plan_.rows;
    l.width = out.elements();
    l.channels = out.channels;
    l.pixels = out.pixels();
    const auto rows = static_cast<std::size_t>(l.rows), width = static_cast<std::size_t>(l.width);
    l.output = values_[at(graph_.output)];
    extend(l.output, count_);
    const auto here = [&](const char* name, std::size_t bytes) {
      return request(name, bytes, count_, count_);
    };
    l.plain = here("loss.output", rows * width * sizeof(float));
    l.row_sums = here("loss.rows", rows * sizeof(LossSums));
    l.sums = here("loss.sums", rows * loss_parts * sizeof(double));
    l.places = here("loss.places", rows * loss_parts * sizeof(std::int64_t));
    l.largest = here("loss.largest", rows * loss_parts * sizeof(float));
    if (!plan_.training) return;
    l.diff_plain = here("loss.diff.plain", rows * width * sizeof(float));
    l.diff_output = request("loss.diff", value_bytes(graph_.output), count_, count_);
    diffs_.assign(graph_.values.size(), nowhere);
    diffs_[at(graph_.output)] = l.diff_output;
    more_.assign(graph_.values.size(), nowhere);
    parts_.assign(graph_.values.size(), 0);
    producer_.assign(graph_.values.size(), -1);
    for (int i = 0; i < count_; ++i) {
      producer_[at(fused_[at(i)].output)] = i;
      if (!has_backward(i)) continue;
      for (const ValueId v : fused_[at(i)].inputs) parts_[at(v)] += with_gradient_[at(v)] ? 1 : 0;
    }
  }

  // ---- the backward pass ----
  void backward(int i) {
    if (!has_backward(i)) return;
    const FusedOp& op = fused_[at(i)];
    const OpNode& node = node_of(i);
    const int now = backward_time(i);
    const std::size_t dy = diffs_[at(op.output)];
    extend(dy, now);
    auto& out = plan_.backward;
    PlannedOp& planned = plan_.ops[at(i)];
    planned.backward_first = static_cast<int>(out.size());
    // Gradients of values: the first consumer in backward order (the loss before all) writes, others add.
    std::vector<std::size_t> dx(op.inputs.size(), nowhere);
    std::vector<Command> sums;
    for (std::size_t k = 0; k < op.inputs.size(); ++k) {
      const ValueId v = op.inputs[k];
      if (!with_gradient_[at(v)]) continue;
      // The residual's gradient is the norm's, masked where it lies. A data gradient that was multiplied by
      // the slope of this GELU is that of its input already.
      if ((k == 1 && masks_in_place(i)) || gelus_.slope_by[at(i)] >= 0)
        dx[k] = dy;
      else
        dx[k] = request(node.name + ".diff" + std::to_string(k), value_bytes(v), now, now);
      std::size_t& whole = diffs_[at(v)];
      --parts_[at(v)];
      if (whole == nowhere) {
        whole = dx[k];
        continue;
      }
      extend(whole, now);
      const int from = producer_[at(v)];
      if (parts_[at(v)] == 0 && from >= 0 && masks_in_place(from)) {
        more_[at(v)] = dx[k];  // added by the one who masks it
        extend(dx[k], backward_time(from));
        continue;
      }
      sums.push_back(Accumulate{whole, dx[k], elements(v)});
    }
    const std::size_t x = values_[at(op.inputs[0])], y = values_[at(op.output)];
    const Extent in = extent_of(graph_.shape_of(op.inputs[0]));
    const Extent result = extent_of(graph_.shape_of(op.output));
    const Saved& saved = saved_.at(i);
    const bool linear = attrs<Conv2dAttrs>(i) != nullptr || attrs<DenseAttrs>(i) != nullptr;
    if (linear && op.relu) out.push_back(ReluMask{y, dy, dy, elements(op.output)});
    if (linear && bias(i) != no_parameter) {
      const std::size_t work = request(
          node.name + ".sums", reduction_bytes(plan_.rows * result.pixels(), result.channels), now, now);
      // A dense layer's weights follow at once.
      const int weights = attrs<DenseAttrs>(i) != nullptr && fuse_ ? static_cast<int>(out.size()) + 1 : -1;
      out.push_back(BiasGradient{dy, work, bias(i), plan_.rows, result.channels, result.pixels(), weights});
    }
    if (attrs<Conv2dAttrs>(i) != nullptr) {
      const ConvShape shape = conv_shape(i);
      const std::size_t work =
          request(node.name + ".weights", static_cast<std::size_t>(shape.weights()) * 2, now, now);
      out.push_back(ConvBackwardWeights{shape, x, dy, parameter(i, 0), work});
      if (dx[0] != nowhere) {
        data_command_[i] = static_cast<int>(out.size());
        out.push_back(ConvBackwardData{shape, dy, dx[0], parameter(i, 0), norm_in_front(i, now)});
      }
    } else if (attrs<DenseAttrs>(i) != nullptr) {
      out.push_back(
          DenseBackwardWeights{dense_shape(i), x, dy, parameter(i, 0), fuse_ ? bias(i) : no_parameter});
      if (dx[0] != nowhere) {
        data_command_[i] = static_cast<int>(out.size());
        out.push_back(DenseBackwardData{dense_shape(i), dy, dx[0], parameter(i, 0), gelu_in_front(i, now)});
      }
    } else if (attrs<BatchNormAttrs>(i) != nullptr) {
      const std::size_t work =
          request(node.name + ".sums", reduction_bytes(plan_.rows * in.pixels(), in.channels), now, now);
      const int masked_by = norms_.masked_by[at(i)];
      const bool in_place = masks_in_place(i);
      out.push_back(NormBackwardCommand{x, dy, dx[0], op.residual && !in_place ? dx[1] : nowhere, saved.place,
                                        work, parameter(i, 0), parameter(i, 1), plan_.rows, in.channels,
                                        in.pixels(), masked_by < 0 ? -1 : data_command_.at(masked_by),
                                        op.relu && !op.residual, in_place ? y : nowhere,
                                        in_place ? more_[at(op.output)] : nowhere});
    } else if (dx[0] == nowhere && (dx.size() < 2 || dx[1] == nowhere)) {
      throw InternalError("the CUDA plan has a gradient that nobody takes at layer " + node.name);
    } else if (const auto pool = pool_shape(i)) {
      out.push_back(
          PoolBackward{dy, dx[0], saved.place, *pool, plan_.rows, attrs<MaxPoolAttrs>(i) != nullptr});
    } else if (attrs<ReluAttrs>(i) != nullptr) {
      out.push_back(ReluMask{y, dy, dx[0], elements(op.output)});
    } else if (attrs<GeluAttrs>(i) != nullptr) {
      const int by = gelus_.slope_by[at(i)];
      out.push_back(GeluBackward{x, dy, dx[0], elements(op.output), by < 0 ? -1 : data_command_.at(by)});
    } else if (attrs<AddAttrs>(i) != nullptr) {
      for (const std::size_t to : dx)
        if (to != nowhere) out.push_back(CopyValue{dy, to, elements(op.output)});
    } else if (attrs<FlattenAttrs>(i) != nullptr) {
      out.push_back(FlattenBackward{dy, dx[0], plan_.rows, in.channels, in.pixels()});
    } else if (const auto* dropout = attrs<DropoutAttrs>(i)) {
      out.push_back(dropout_command(i, *dropout, dy, dx[0]));
    } else if (attrs<SoftmaxAttrs>(i) != nullptr) {
      const auto [shape, vectors_count] = vectors(op.output);
      out.push_back(SoftmaxBackwardCommand{y, dy, dx[0], shape, vectors_count});
    } else {
      throw InternalError("the CUDA plan does not know the op of layer " + node.name);
    }
    for (std::size_t k = 0; k < dx.size(); ++k)
      if (dx[k] != nowhere) planned.diff_inputs.push_back({dx[k], graph_.shape_of(op.inputs[k]).elements()});
    out.insert(out.end(), sums.begin(), sums.end());
    if (plan_.precision == Precision::fp16) {
      for (std::size_t k = 0; k < node.parameters.size(); ++k) {
        const std::int64_t begin = parameter(i, k);
        out.push_back(
            UnscaleGradient{{begin, begin + graph_.parameters[at(node.parameters[k])].shape.elements()}});
      }
    }
    planned.backward_last = static_cast<int>(out.size());
    ends_.emplace_back(static_cast<int>(out.size()), flat_[at(i)]);
  }

  /// The input of the GELU by whose slope dense layer i may multiply its data gradient.
  std::size_t gelu_in_front(int i, int now) {
    const auto found = std::find(gelus_.slope_by.begin(), gelus_.slope_by.end(), i);
    if (found == gelus_.slope_by.end()) return nowhere;
    const std::size_t x =
        values_[at(fused_[at(static_cast<int>(found - gelus_.slope_by.begin()))].inputs[0])];
    extend(x, now);
    return x;
  }

  /// Whether op i is a norm with residual and ReLU, which masks its gradient where it lies.
  bool masks_in_place(int i) const {
    return attrs<BatchNormAttrs>(i) != nullptr && fused_[at(i)].residual && fused_[at(i)].relu;
  }

  /// What convolution i may do for the norm whose result it takes.
  NormInFront norm_in_front(int i, int now) {
    const auto found = std::find(norms_.masked_by.begin(), norms_.masked_by.end(), i);
    if (found == norms_.masked_by.end()) return {};
    const int norm = static_cast<int>(found - norms_.masked_by.begin());
    const std::size_t sums = request(node_of(norm).name + ".diff.sums",
                                     ChannelRows::bytes(conv_shape(i).in_channels, NormInFront::results), now,
                                     backward_time(norm));
    return {values_[at(fused_[at(norm)].inputs[0])], saved_.at(norm).place, sums, parameter(norm, 0),
            parameter(norm, 1)};
  }

  void cut_segments(std::int64_t wanted) {
    Segment segment;
    for (const auto& [end, flat] : ends_) {
      segment.last = end;
      if (flat.size() > 0) segment.flat.end = flat.end;
      if (segment.flat.size() < std::max<std::int64_t>(wanted, 1)) continue;
      plan_.segments.push_back(segment);
      segment = {end, end, {segment.flat.end, segment.flat.end}};
    }
    if (segment.flat.size() > 0 || segment.last > segment.first) plan_.segments.push_back(segment);
    require(!plan_.segments.empty(), "a graph to train has a backward pass");
    // Ops without a backward pass cannot hold parameters, so the ranges reach the end of the layout.
    plan_.segments.back().flat.end = plan_.layout.elements;
  }

  // ---- numbers of requests become places ----
  void place(std::size_t& p) const {
    if (p != nowhere) p = plan_.memory[p].offset;
  }
  struct Resolver {
    const Builder& b;
    void operator()(ConvForward& c) const { b.all(c.x, c.y, c.sums); }
    void operator()(ConvNormForward& c) const { b.all(c.x, c.residual, c.y, c.factors); }
    void operator()(ConvBackwardData& c) const { b.all(c.dy, c.dx, c.norm.x, c.norm.saved, c.norm.sums); }
    void operator()(ConvBackwardWeights& c) const { b.all(c.x, c.dy, c.work); }
    void operator()(DenseForward& c) const { b.all(c.x, c.y, c.gelu); }
    void operator()(DenseBackwardData& c) const { b.all(c.dy, c.dx, c.gelu); }
    void operator()(DenseBackwardWeights& c) const { b.all(c.x, c.dy); }
    void operator()(BiasGradient& c) const { b.all(c.dy, c.work); }
    void operator()(NormForward& c) const { b.all(c.x, c.residual, c.y, c.saved, c.work, c.sums); }
    void operator()(NormBackwardCommand& c) const {
      b.all(c.x, c.dy, c.dx, c.dresidual, c.saved, c.work, c.y, c.more);
    }
    void operator()(PoolForward& c) const { b.all(c.x, c.y, c.taken); }
    void operator()(PoolBackward& c) const { b.all(c.dy, c.dx, c.taken); }
    void operator()(ReluForward& c) const { b.all(c.x, c.y); }
    void operator()(ReluMask& c) const { b.all(c.y, c.dy, c.dx); }
    void operator()(GeluForward& c) const { b.all(c.x, c.y); }
    void operator()(GeluBackward& c) const { b.all(c.x, c.dy, c.dx); }
    void operator()(AddForward& c) const { b.all(c.a, c.b, c.y); }
    void operator()(CopyValue& c) const { b.all(c.from, c.to); }
    void operator()(Accumulate& c) const { b.all(c.into, c.from); }
    void operator()(DropoutCommand& c) const { b.all(c.x, c.y); }
    void operator()(FlattenForward& c) const { b.all(c.x, c.y); }
    void operator()(FlattenBackward& c) const { b.all(c.dy, c.dx); }
    void operator()(SoftmaxForward& c) const { b.all(c.x, c.y); }
    void operator()(SoftmaxBackwardCommand& c) const { b.all(c.y, c.dy, c.dx); }
    void operator()(UnscaleGradient&) const {}
  };
  template <class... Places>
  void all(Places&... places) const {
    (place(places), ...);
  }
  void resolve() {
    for (Command& command : plan_.forward) std::visit(Resolver{*this}, command);
    for (Command& command : plan_.backward) std::visit(Resolver{*this}, command);
    for (PlannedOp& op : plan_.ops) {
      place(op.value.at);
      for (PlannedOp::Place& diff : op.diff_inputs) place(diff.at);
    }
    LossPlan& l = plan_.loss;
    all(plan_.input, l.output, l.diff_output, l.plain, l.diff_plain, l.row_sums, l.sums, l.places, l.largest);
  }

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

}  // namespace

Plan make_plan(const lockstep::Graph& graph, std::int64_t rows, bool training, Precision precision,
               std::int64_t segment_elements, bool fuse) {
  require(rows >= 1, "make_plan: a slice has rows");
  require(graph.inputs.size() == 1, "make_plan: graphs have one input");
  Plan plan;
  plan.precision = precision;
  plan.rows = rows;
  plan.training = training;
  Builder(graph, plan, fuse).run(segment_elements);
  return plan;
}

namespace {

template <class Move>
void for_weights(const Shape& shape, Move move) {
  require(shape.rank() == 4, "a convolution's weights have four dimensions");
  const std::int64_t in = shape[1], taps = shape[2] * shape[3];
  for (std::int64_t o = 0; o < shape[0]; ++o)
    for (std::int64_t c = 0; c < in; ++c)
      for (std::int64_t t = 0; t < taps; ++t)
        move(static_cast<std::size_t>((o * in + c) * taps + t),
             static_cast<std::size_t>((o * taps + t) * in + c));
}

}  // namespace

void weights_to_stored(const Shape& shape, std::span<const float> plain, std::span<float> stored) {
  for_weights(shape, [&](std::size_t p, std::size_t s) { stored[s] = plain[p]; });
}
void weights_to_plain(const Shape& shape, std::span<const float> stored, std::span<float> plain) {
  for_weights(shape, [&](std::size_t p, std::size_t s) { plain[p] = stored[s]; });
}

}  // namespace lockstep::cuda
