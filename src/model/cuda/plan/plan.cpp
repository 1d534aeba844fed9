#include "model/cuda/plan/plan.h"

#include <algorithm>

#include "core/error.h"
#include "model/cuda/kernels/work_reduce.h"
#include "model/cuda/plan/plan_builder.h"
#include "model/ops/linear/conv2d.h"
#include "model/ops/pool/avg_pool.h"
#include "model/ops/pool/global_avg_pool.h"
#include "model/ops/pool/max_pool.h"

namespace lockstep::cuda {
namespace {

constexpr std::int64_t segment_alignment = 16;  // floats: kernels and libraries see aligned tensors

}  // namespace

std::size_t reduction_bytes(std::int64_t rows, std::int64_t channels) {
  const ChunkPlan plan = chunk_plan(rows);
  return static_cast<std::size_t>(channels) * (static_cast<std::size_t>(plan.groups) * 2 * sizeof(double) +
                                               static_cast<std::size_t>(plan.chunks) * 2 * sizeof(float));
}

PlanBuilder::PlanBuilder(const lockstep::Graph& graph, Plan& plan, bool fuse)
    : graph_(graph), plan_(plan), fuse_(fuse), fused_(fuse_ops(graph)) {
  count_ = static_cast<int>(fused_.size());
  // Where lengths differ, padding is cleared between an op and the next: they stay apart.
  fuse = fuse && graph.lengths.empty();
  norms_ = fuse ? fuse_norms(graph, fused_, plan.training, plan.precision) : NormFusion(fused_.size());
  gelus_ = fuse ? fuse_gelus(graph, fused_, plan.precision) : GeluFusion(fused_.size());
  with_gradient_ = values_with_gradient(graph);
  lay_out_flat();
}

void PlanBuilder::run(std::int64_t segment_elements) {
  values_.assign(graph_.values.size(), nowhere);
  for (const ValueId input : graph_.inputs) {
    values_[at(input)] = request("input", value_bytes(input), 0, 0);
    const Extent in = extent_of(graph_.shape_of(input));
    plan_.inputs.push_back({at(graph_.values[at(input)].field), graph_.values[at(input)].type, in.channels,
                            in.pixels(), in.width, values_[at(input)]});
  }
  for (int i = 0; i < count_; ++i) forward(i);
  loss();
  if (plan_.training) {
    for (int i = count_ - 1; i >= 0; --i) backward(i);
    cut_segments(segment_elements);
  }
  plan_.arena_bytes = plan_memory(plan_.memory);
  resolve();
}

void PlanBuilder::lay_out_flat() {
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
      add({FlatSegment::Kind::parameter,
           p,
           parameter.name,
           parameter.shape,
           {},
           0,
           parameter.trainable,
           parameter.decays});
    }
    for (const int s : node.statistics) {
      const Statistic& statistic = graph_.statistics[at(s)];
      add({FlatSegment::Kind::statistic, s, statistic.name, statistic.shape, {}, statistic.momentum});
    }
    flat_[at(i)] = {begin, next};
  }
  plan_.layout.elements = std::max(next, segment_alignment);
}

ConvShape PlanBuilder::conv_shape(int i) const {
  const Conv2dAttrs& a = *attrs<Conv2dAttrs>(i);
  const Extent in = extent_of(graph_.shape_of(fused_[at(i)].inputs[0]));
  const Extent out = extent_of(graph_.shape_of(fused_[at(i)].output));
  return {plan_.rows, in.channels, in.height,  in.width,   out.channels, out.height, out.width,
          a.kernel_h, a.kernel_w,  a.stride_h, a.stride_w, a.pad_h,      a.pad_w,    a.groups};
}

DenseShape PlanBuilder::dense_shape(int i) const {
  const Shape& out = graph_.shape_of(node_of(i).output);
  return {plan_.rows * out.elements() / out.dims().back(),
          graph_.shape_of(fused_[at(i)].inputs[0]).dims().back(), out.dims().back()};
}

std::optional<PoolShape> PlanBuilder::pool_shape(int i) const {
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

std::pair<VectorShape, std::int64_t> PlanBuilder::vectors(ValueId v) const {
  const Lines lines = lines_of(graph_.shape_of(v), plan_.rows);
  return {lines.shape, lines.count};
}

void PlanBuilder::cut_segments(std::int64_t wanted) {
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
  // What holds parameters has a part in the backward pass, so the ranges reach the end of the layout.
  plan_.segments.back().flat.end = plan_.layout.elements;
}

// ---- numbers of requests become places ----

struct PlanBuilder::Resolver {
  const PlanBuilder& b;
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
  void operator()(ZeroGradient&) const {}
  void operator()(ClearPaddingCommand& c) const { b.all(c.value); }
  void own(OwnPlaces& at) const {
    b.all(at.y, at.saved, at.work);
    for (std::size_t& x : at.x) b.place(x);
  }
  void operator()(OwnForward& c) const { own(c.at); }
  void operator()(OwnBackward& c) const {
    own(c.at);
    b.place(c.dy);
    for (std::size_t& dx : c.dx) b.place(dx);
  }
};

void PlanBuilder::resolve() {
  for (Command& command : plan_.forward) std::visit(Resolver{*this}, command);
  for (Command& command : plan_.backward) std::visit(Resolver{*this}, command);
  for (PlannedOp& op : plan_.ops) {
    place(op.value.at);
    for (PlannedOp::Place& diff : op.diff_inputs) place(diff.at);
  }
  LossPlan& l = plan_.loss;
  for (PlannedInput& input : plan_.inputs) place(input.place);
  all(l.output, l.diff_output, l.plain, l.diff_plain, l.row_sums, l.work);
}

Plan make_plan(const lockstep::Graph& graph, std::int64_t rows, bool training, Precision precision,
               std::int64_t segment_elements, bool fuse) {
  require(rows >= 1, "make_plan: a slice has rows");
  require(!graph.inputs.empty() && graph.inputs.size() <= most_fields, "make_plan: too many inputs");
  for (const Value& value : graph.values)
    if (value.lengths >= 0 && value.shape.rank() > 2)
      throw ConfigError("model '" + graph.name +
                        "': on a GPU a sequence of different lengths is (positions, " +
                        "features), but one value is " + value.shape.text());
  Plan plan;
  plan.graph = &graph;
  plan.precision = precision;
  plan.rows = rows;
  plan.training = training;
  PlanBuilder(graph, plan, fuse).run(segment_elements);
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

std::string layer_of(const Plan& plan, std::size_t command, bool backward) {
  const auto c = static_cast<int>(command);
  const PlannedOp* of = nullptr;
  for (const PlannedOp& op : plan.ops) {
    if (backward && op.backward_first <= c && c < op.backward_last) return op.name;
    if (!backward && op.first_command <= c) of = &op;  // ascending
  }
  return of != nullptr ? of->name : "the model";
}

void weights_to_stored(const Shape& shape, std::span<const float> plain, std::span<float> stored) {
  for_weights(shape, [&](std::size_t p, std::size_t s) { stored[s] = plain[p]; });
}
void weights_to_plain(const Shape& shape, std::span<const float> stored, std::span<float> plain) {
  for_weights(shape, [&](std::size_t p, std::size_t s) { plain[p] = stored[s]; });
}

}  // namespace lockstep::cuda
