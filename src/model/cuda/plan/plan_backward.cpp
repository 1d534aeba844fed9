// The backward pass.

#include <algorithm>

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

namespace lockstep::cuda {

void PlanBuilder::leave_out_backward(int i) {
  if (flat_[at(i)].size() == 0) return;
  const OpNode& node = node_of(i);
  PlannedOp& planned = plan_.ops[at(i)];
  planned.backward_first = static_cast<int>(plan_.backward.size());
  for (std::size_t k = 0; k < node.parameters.size(); ++k) {
    const std::int64_t begin = parameter(i, k);
    const std::int64_t size = graph_.parameters[at(node.parameters[k])].shape.elements();
    plan_.backward.push_back(ZeroGradient{{begin, begin + size}});
  }
  planned.backward_last = static_cast<int>(plan_.backward.size());
  ends_.emplace_back(planned.backward_last, flat_[at(i)]);
}

void PlanBuilder::backward(int i) {
  if (!has_backward(i)) {
    leave_out_backward(i);
    return;
  }
  const FusedOp& op = fused_[at(i)];
  const OpNode& node = node_of(i);
  const int now = backward_time(i);
  const std::size_t dy = diffs_[at(op.output)];
  extend(dy, now);
  auto& out = plan_.backward;
  PlannedOp& planned = plan_.ops[at(i)];
  planned.backward_first = static_cast<int>(out.size());
  clear_padding(i, dy, out);
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
    // The positions of a dense layer are to the sum what the pixels of a convolution are.
    const bool dense = attrs<DenseAttrs>(i) != nullptr;
    const std::int64_t channels = dense ? dense_shape(i).out : result.channels;
    const std::int64_t pixels = dense ? dense_shape(i).rows / plan_.rows : result.pixels();
    const std::size_t work =
        request(node.name + ".sums", reduction_bytes(plan_.rows * pixels, channels), now, now);
    // A dense layer's weights follow at once.
    const int weights = dense && fuse_ ? static_cast<int>(out.size()) + 1 : -1;
    out.push_back(BiasGradient{dy, work, bias(i), plan_.rows, channels, pixels, weights});
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
  } else if (const OwnOp* own = own_op(node.attrs.entry())) {
    const OwnNeeds needs = own->needs(node, graph_, plan_.rows);
    OwnBackward command{own_places(i, *own, y), dy, {}};
    command.dx.fill(nowhere);
    std::copy(dx.begin(), dx.end(), command.dx.begin());
    if (!needs.input) command.at.x.fill(nowhere);
    if (!needs.output) command.at.y = nowhere;
    command.at.saved = saved.place;
    if (needs.work > 0) command.at.work = request(node.name + ".diff.work", needs.work, now, now);
    out.push_back(command);
  } else if (dx[0] == nowhere && (dx.size() < 2 || dx[1] == nowhere)) {
    throw InternalError("the CUDA plan has a gradient that nobody takes at layer " + node.name);
  } else if (const auto pool = pool_shape(i)) {
    out.push_back(PoolBackward{dy, dx[0], saved.place, *pool, plan_.rows, attrs<MaxPoolAttrs>(i) != nullptr});
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

std::size_t PlanBuilder::gelu_in_front(int i, int now) {
  const auto found = std::find(gelus_.slope_by.begin(), gelus_.slope_by.end(), i);
  if (found == gelus_.slope_by.end()) return nowhere;
  const std::size_t x = values_[at(fused_[at(static_cast<int>(found - gelus_.slope_by.begin()))].inputs[0])];
  extend(x, now);
  return x;
}

NormInFront PlanBuilder::norm_in_front(int i, int now) {
  const auto found = std::find(norms_.masked_by.begin(), norms_.masked_by.end(), i);
  if (found == norms_.masked_by.end()) return {};
  const int norm = static_cast<int>(found - norms_.masked_by.begin());
  const std::size_t sums =
      request(node_of(norm).name + ".diff.sums",
              ChannelRows::bytes(conv_shape(i).in_channels, NormInFront::results), now, backward_time(norm));
  return {values_[at(fused_[at(norm)].inputs[0])], saved_.at(norm).place, sums, parameter(norm, 0),
          parameter(norm, 1)};
}

}  // namespace lockstep::cuda
