#include "model/cpu/kernels/linear/conv2d_choice.h"

#include <algorithm>
#include <array>
#include <variant>

#include "model/cpu/onednn/onednn_api.h"
#include "model/ops/linear/conv2d.h"

namespace lockstep::cpu {

using dnnl::memory;
using Tag = memory::format_tag;

namespace {

Tag tag_of(const ValueLayout& layout) {
  if (layout.block == 1) return Tag::nchw;
  if (layout.block == 16) return Tag::nChw16c;
  if (layout.block == 8) return Tag::nChw8c;
  if (layout.block == 4) return Tag::nChw4c;
  require(layout.block == layout.channels, "conv2d: a channel block that oneDNN has no name for");
  return Tag::nhwc;
}

memory::desc values(std::int64_t rows, std::int64_t channels, std::int64_t h, std::int64_t w, Tag tag,
                    NumberFormat format) {
  return {{rows, channels, h, w}, onednn_type(format), tag};
}

/// A primitive descriptor of one of three types, and what the choice looks at.
struct Candidate {
  std::variant<std::monostate, dnnl::convolution_forward::primitive_desc,
               dnnl::convolution_backward_data::primitive_desc,
               dnnl::convolution_backward_weights::primitive_desc>
      primitive;
  int grade = -1;  ///< -1: there is none
  std::string name;
  memory::desc input, weights, output, pad;
};

/// What `describe` gives, or a later implementation of the same layouts where that one takes memory each time
/// it runs and the later one is vectorized too.
template <class Describe>
auto first_steady(const Describe& describe, bool data_gradient) {
  auto chosen = describe();
  while (chosen && allocates_when_run(chosen.impl_info_str(), data_gradient))
    if (!chosen.next_impl() || implementation_grade(chosen.impl_info_str()) < 2) return describe();
  return chosen;
}

Candidate try_layouts(const OnednnContext& context, const ConvShape& shape, ConvDirection direction,
                      std::int64_t rows, Tag input_tag, Tag output_tag, const memory::desc& weights) {
  Candidate out;
  out.input = shape.input(direction, rows, input_tag);
  out.output = shape.output(direction, rows, output_tag);
  const ConvTensors tensors{.input = out.input,
                            .weights = weights,
                            .bias = shape.bias ? shape.bias_desc() : memory::desc(),
                            .output = out.output,
                            .strides = shape.strides,
                            .padding = shape.padding};
  const auto forward = [&](const ConvTensors& of) {
    return describe_conv_forward(context.engine(), of,
                                 shape.relu ? user_scratchpad_with_relu() : user_scratchpad(), IfNone::empty);
  };
  try {
    if (direction == ConvDirection::forward) {
      const auto chosen = first_steady([&] { return forward(tensors); }, false);
      if (!chosen) return out;
      out.input = chosen.src_desc();
      out.weights = chosen.weights_desc();
      out.output = chosen.dst_desc();
      out.pad = chosen.scratchpad_desc();
      out.name = chosen.impl_info_str();
      out.primitive = chosen;
    } else {
      // The hint: backward passes ask for the forward pass they belong to.
      ConvTensors hinted = tensors;
      hinted.input = shape.input(ConvDirection::forward, rows, input_tag);
      hinted.weights = shape.weights(ConvDirection::forward, Tag::any);
      hinted.output = shape.output(ConvDirection::weights, rows, output_tag);
      const auto hint = forward(hinted);
      if (!hint) return out;
      if (direction == ConvDirection::data) {
        const auto chosen = first_steady(
            [&] {
              return describe_conv_data(context.engine(), tensors, user_scratchpad(), hint, IfNone::empty);
            },
            true);
        if (!chosen) return out;
        out.input = chosen.diff_src_desc();
        out.weights = chosen.weights_desc();
        out.output = chosen.diff_dst_desc();
        out.pad = chosen.scratchpad_desc();
        out.name = chosen.impl_info_str();
        out.primitive = chosen;
      } else {
        const auto chosen = first_steady(
            [&] {
              return describe_conv_weights(context.engine(), tensors, user_scratchpad(), hint, IfNone::empty);
            },
            false);
        if (!chosen) return out;
        out.input = chosen.src_desc();
        out.weights = chosen.diff_weights_desc();
        out.output = chosen.diff_dst_desc();
        out.pad = chosen.scratchpad_desc();
        out.name = chosen.impl_info_str();
        out.primitive = chosen;
      }
    }
  } catch (const dnnl::error&) {
    return out;  // refused already as a description
  }
  out.grade = implementation_grade(out.name);
  // Another layout may have one that takes no memory, and is as fast on average.
  if (allocates_when_run(out.name, direction == ConvDirection::data)) out.grade = std::min(out.grade, 1);
  return out;
}

/// The first of the plan's layouts, channels-last and the library's own choice that has a fast
/// implementation; else the best there is.
Candidate choose(const OnednnContext& context, const ConvShape& shape, ConvDirection direction,
                 std::int64_t rows, const memory::desc& weights) {
  const std::array<std::array<Tag, 2>, 3> layouts{
      {{shape.input_layout, shape.output_layout}, {Tag::nhwc, Tag::nhwc}, {Tag::any, Tag::any}}};
  ConvShape asked = shape;
  asked.relu = shape.relu && direction == ConvDirection::forward;
  Candidate best;
  for (const auto& tags : layouts) {
    Candidate next = try_layouts(context, asked, direction, rows, tags[0], tags[1], weights);
    if (next.grade > best.grade) best = std::move(next);
    if (best.grade == 2) break;
  }
  return best;
}

}  // namespace

ConvShape::ConvShape(const KernelSpec& spec) {
  const OpNode& node = spec.graph->nodes.at(static_cast<std::size_t>(spec.node));
  const auto& attrs = node.attrs.as<Conv2dAttrs>();
  const ValueLayout& in = spec.inputs.at(0);
  const ValueLayout& out = spec.output;
  groups = attrs.groups;
  in_channels = in.channels;
  out_channels = out.channels;
  in_h = in.height;
  in_w = in.width;
  out_h = out.height;
  out_w = out.width;
  kernel_h = attrs.kernel_h;
  kernel_w = attrs.kernel_w;
  strides = {attrs.stride_h, attrs.stride_w};
  padding = {attrs.pad_h, attrs.pad_w};
  bias = attrs.bias;
  relu = spec.relu;
  input_layout = tag_of(in);
  output_layout = tag_of(out);
  factors = spec.precision == Precision::bf16 ? NumberFormat::bf16 : NumberFormat::fp32;
  input_format = in.format;
  output_format = out.format;
}

double ConvShape::flops(std::int64_t rows) const {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(weight_elements()) *
         static_cast<double>(out_h * out_w);
}

memory::desc ConvShape::input(ConvDirection direction, std::int64_t rows, Tag tag) const {
  return values(rows, in_channels, in_h, in_w, tag,
                direction == ConvDirection::data ? input_format : factors);
}
memory::desc ConvShape::output(ConvDirection direction, std::int64_t rows, Tag tag) const {
  return values(rows, out_channels, out_h, out_w, tag,
                direction == ConvDirection::forward ? output_format : factors);
}
memory::desc ConvShape::weights(ConvDirection direction, Tag tag) const {
  const auto type = onednn_type(direction == ConvDirection::weights ? NumberFormat::fp32 : factors);
  if (groups == 1) return {{out_channels, in_channels, kernel_h, kernel_w}, type, tag};
  return {{groups, out_channels / groups, in_channels / groups, kernel_h, kernel_w}, type, tag};
}
memory::desc ConvShape::plain_weights() const {
  return weights(ConvDirection::weights, groups == 1 ? Tag::oihw : Tag::goihw);
}
memory::desc ConvShape::bias_desc() const {
  return {{out_channels}, memory::data_type::f32, Tag::a};
}
ConvShape ConvShape::with_outputs(std::int64_t channels) const {
  require(groups == 1, "conv2d: outputs of one group can be taken apart");
  ConvShape part = *this;
  part.out_channels = channels;
  return part;
}

ConvCall::ConvCall(const OnednnContext& context, const ConvShape& shape, ConvDirection direction,
                   std::int64_t rows, const memory::desc& weights)
    : direction_(direction) {
  Candidate chosen = choose(context, shape, direction, rows, weights);
  if (direction == ConvDirection::weights && chosen.grade < 2) {
    Candidate free = choose(context, shape, direction, rows, shape.weights(direction, Tag::any));
    if (free.grade > chosen.grade) chosen = std::move(free);
  }
  if (chosen.grade < 0) return;
  std::size_t reorder_bytes = 0;
  const memory::desc input = shape.input(direction, rows, shape.input_layout);
  const memory::desc output = shape.output(direction, rows, shape.output_layout);
  auto reorder = [&](OnednnReorder& slot, const memory::desc& from, const memory::desc& to) {
    slot = OnednnReorder(context, from, to);
    reorder_bytes = std::max(reorder_bytes, slot.scratch_bytes());
  };
  if (chosen.input != input) {
    input_bytes_ = chosen.input.get_size();
    if (direction == ConvDirection::data)
      reorder(from_input_, chosen.input, input);
    else
      reorder(to_input_, input, chosen.input);
  }
  if (chosen.output != output) {
    output_bytes_ = chosen.output.get_size();
    if (direction == ConvDirection::forward)
      reorder(from_output_, chosen.output, output);
    else
      reorder(to_output_, output, chosen.output);
  }
  if (direction == ConvDirection::weights && chosen.weights != weights) {
    weights_bytes_ = chosen.weights.get_size();
    reorder(from_weights_, chosen.weights, weights);
  }
  const memory::desc bias = shape.bias ? shape.bias_desc() : memory::desc();
  if (direction == ConvDirection::forward)
    call_ = OnednnCall(
        context,
        dnnl::convolution_forward(std::get<dnnl::convolution_forward::primitive_desc>(chosen.primitive)),
        {{DNNL_ARG_SRC, chosen.input},
         {DNNL_ARG_WEIGHTS, chosen.weights},
         {DNNL_ARG_BIAS, bias},
         {DNNL_ARG_DST, chosen.output},
         {DNNL_ARG_SCRATCHPAD, chosen.pad}});
  else if (direction == ConvDirection::data)
    call_ = OnednnCall(context,
                       dnnl::convolution_backward_data(
                           std::get<dnnl::convolution_backward_data::primitive_desc>(chosen.primitive)),
                       {{DNNL_ARG_DIFF_SRC, chosen.input},
                        {DNNL_ARG_WEIGHTS, chosen.weights},
                        {DNNL_ARG_BIAS, memory::desc()},
                        {DNNL_ARG_DIFF_DST, chosen.output},
                        {DNNL_ARG_SCRATCHPAD, chosen.pad}});
  else
    call_ = OnednnCall(context,
                       dnnl::convolution_backward_weights(
                           std::get<dnnl::convolution_backward_weights::primitive_desc>(chosen.primitive)),
                       {{DNNL_ARG_SRC, chosen.input},
                        {DNNL_ARG_DIFF_WEIGHTS, chosen.weights},
                        {DNNL_ARG_DIFF_BIAS, bias},
                        {DNNL_ARG_DIFF_DST, chosen.output},
                        {DNNL_ARG_SCRATCHPAD, chosen.pad}});
  weights_ = direction == ConvDirection::weights ? weights : chosen.weights;
  implementation_ = chosen.name;
  pad_bytes_ = std::max(chosen.pad.get_size(), reorder_bytes);
  scratch_bytes_ = ScratchCursor::padded(input_bytes_) + ScratchCursor::padded(output_bytes_) +
                   ScratchCursor::padded(weights_bytes_) + ScratchCursor::padded(pad_bytes_);
}

void ConvCall::run(int lane, const void* input, const void* weights, const void* bias, const void* output,
                   std::byte* scratch) const {
  ScratchCursor cursor(scratch);
  std::byte* own_input = cursor.take(input_bytes_);
  std::byte* own_output = cursor.take(output_bytes_);
  std::byte* own_weights = cursor.take(weights_bytes_);
  std::byte* pad = cursor.take(pad_bytes_);
  if (to_input_) to_input_.run(lane, input, own_input, pad);
  if (to_output_) to_output_.run(lane, output, own_output, pad);
  call_.run(lane, {input_bytes_ > 0 ? own_input : input, weights_bytes_ > 0 ? own_weights : weights, bias,
                   output_bytes_ > 0 ? own_output : output, pad});
  // The caller's buffer for what this direction computes is writable.
  if (from_weights_) from_weights_.run(lane, own_weights, const_cast<void*>(weights), pad);
  if (from_input_) from_input_.run(lane, own_input, const_cast<void*>(input), pad);
  if (from_output_) from_output_.run(lane, own_output, const_cast<void*>(output), pad);
}

memory::desc weight_storage(const OnednnContext& context, const ConvShape& shape) {
  // Any count of rows gives a valid layout; one and the same must be asked for by every kernel of the node.
  constexpr std::int64_t canonical_rows = 8;
  const Candidate chosen = choose(context, shape, ConvDirection::weights, canonical_rows,
                                  shape.weights(ConvDirection::weights, Tag::any));
  // Nothing but the elements: no padding, and nothing that the library would keep behind them.
  const bool blocked =
      chosen.grade == 2 && layout_of(chosen.weights).blocked && !has_padding(chosen.weights) &&
      chosen.weights.get_size() == static_cast<std::size_t>(shape.weight_elements()) * sizeof(float);
  return blocked ? chosen.weights : shape.plain_weights();
}

memory::desc storage_of_outputs(const memory::desc& storage, const ConvShape& part) {
  const OnednnLayout whole = layout_of(storage);
  std::int64_t block = 1;
  for (std::size_t i = 0; i < whole.inner_dims.size(); ++i)
    if (whole.inner_dims[i] == 0) block *= whole.inner_blocks[i];
  if (part.groups != 1 || part.out_channels % block != 0) return {};
  // Outputs must be the outermost dimension for a part of them to be one range.
  for (std::size_t d = 1; d < whole.dims.size(); ++d)
    if (whole.dims[d] > 1 && whole.strides[d] > whole.strides[0]) return {};
  memory::dims dims = whole.dims;
  dims[0] = part.out_channels;
  return storage.submemory_desc(dims, memory::dims(dims.size(), 0));
}

}  // namespace lockstep::cpu
