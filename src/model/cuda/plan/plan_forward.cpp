// The forward pass and the loss.

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/cuda/plan/plan_builder.h"
#include "model/ops/activation/gelu.h"
#include "model/ops/activation/relu.h"
#include "model/ops/activation/softmax.h"
#include "model/ops/arithmetic/add.h"
#include "model/ops/linear/conv2d.h"
#include "model/ops/linear/dense.h"
#include "model/ops/norm/batch_norm.h"
#include "model/ops/pool/max_pool.h"
#include "model/ops/random/dropout.h"
#include "model/ops/shape/flatten.h"
#include "model/plan/row_lengths.h"

namespace lockstep::cuda {

void PlanBuilder::forward(int i) {
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
  planned.name = graph_.nodes[at(op.nodes.front())].name;
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
      saved.place = request(node.name + ".taken", static_cast<std::size_t>(elements(op.output)) * place_bytes,
                            i, later);
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
  } else if (const OwnOp* own = own_op(node.attrs.entry())) {
    const OwnNeeds needs = own->needs(node, graph_, plan_.rows);
    if (keep && needs.input)
      for (const ValueId v : op.inputs) extend(values_[at(v)], later);
    if (needs.output) keep_output();
    OwnPlaces places = own_places(i, *own, y);
    if (needs.saved > 0) saved.place = request(node.name + ".saved", needs.saved, i, keep ? later : i);
    if (needs.work > 0) places.work = request(node.name + ".work", needs.work, i, i);
    places.saved = saved.place;
    out.push_back(OwnForward{places});
  } else {
    throw InternalError("the CUDA plan does not know the op of layer " + node.name);
  }
  clear_padding(i, y, out);
  plan_.ops.push_back(std::move(planned));
}

OwnPlaces PlanBuilder::own_places(int i, const OwnOp& op, std::size_t y) const {
  const FusedOp& fused = fused_[at(i)];
  const OpNode& node = node_of(i);
  require(fused.inputs.size() <= own_inputs && node.parameters.size() <= own_parameters,
          "an own op has more inputs or parameters than a call holds");
  OwnPlaces places;
  places.op = &op;
  places.node = fused.nodes.front();
  for (std::size_t k = 0; k < fused.inputs.size(); ++k) places.x[k] = values_[at(fused.inputs[k])];
  for (std::size_t k = 0; k < node.parameters.size(); ++k) places.parameters[k] = parameter(i, k);
  places.y = y;
  return places;
}

std::size_t PlanBuilder::gelu_of(int i, std::size_t y) {
  const auto found = std::find(gelus_.given_by.begin(), gelus_.given_by.end(), i);
  if (found == gelus_.given_by.end()) return nowhere;
  const int gelu = static_cast<int>(found - gelus_.given_by.begin());
  const ValueId output = fused_[at(gelu)].output;
  const std::size_t place = plan_.training ? request(node_of(gelu).name, value_bytes(output), i, i) : y;
  gelu_place_[gelu] = place;
  return place;
}

int PlanBuilder::joined(int i) const {
  const auto found = std::find(norms_.joins.begin(), norms_.joins.end(), i);
  return found == norms_.joins.end() ? -1 : static_cast<int>(found - norms_.joins.begin());
}

void PlanBuilder::clear_padding(int i, std::size_t place, std::vector<Command>& commands) const {
  for (const int n : fused_[at(i)].nodes) {
    const PaddingMask mask = padding_mask(graph_, graph_.nodes[at(n)], fused_[at(i)].output);
    if (mask.lengths < 0) continue;
    commands.push_back(ClearPaddingCommand{place, mask.lengths, plan_.rows, mask.extent, mask.features});
    return;
  }
}

std::size_t PlanBuilder::sums_of(int i) {
  int last = -1;
  for (int j = 0; j < count_; ++j)
    if (norms_.sums_from[at(j)] == i) last = j;
  if (last < 0) return nowhere;
  return request(node_of(i).name + ".sums", ChannelRows::bytes(conv_shape(i).out_channels, 2), i, last);
}

void PlanBuilder::forward_joined(int conv, int i) {
  const FusedOp& op = fused_[at(i)];
  const ConvShape shape = conv_shape(conv);
  PlannedOp planned;
  planned.nodes = fused_[at(conv)].nodes;
  planned.name = graph_.nodes[at(planned.nodes.front())].name;
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
                                          parameter(i, 0), parameter(i, 1), parameter(i, 2), parameter(i, 3),
                                          attrs<BatchNormAttrs>(i)->epsilon, op.relu});
  plan_.ops.push_back(std::move(planned));
}

DropoutCommand PlanBuilder::dropout_command(int i, const DropoutAttrs& a, std::size_t from,
                                            std::size_t to) const {
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

void PlanBuilder::loss() {
  const Extent out = extent_of(graph_.shape_of(graph_.output));
  LossPlan& l = plan_.loss;
  l.op = own_op(graph_.loss.attrs.entry());
  require(l.op != nullptr, "the CUDA plan does not know the loss");
  l.rows = plan_.rows;
  l.width = out.elements();
  l.channels = out.channels;
  l.pixels = out.pixels();
  const auto rows = static_cast<std::size_t>(l.rows), width = static_cast<std::size_t>(l.width);
  l.output = values_[at(graph_.output)];
  extend(l.output, count_);
  const auto here = [&](const char* name, std::size_t bytes) { return request(name, bytes, count_, count_); };
  l.plain = here("loss.output", rows * width * sizeof(float));
  l.row_sums = here("loss.rows", rows * sizeof(LossSums));
  const OwnNeeds needs = l.op->needs(graph_.loss, graph_, plan_.rows);
  if (needs.work > 0) l.work = here("loss.work", needs.work);
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

}  // namespace lockstep::cuda
