#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/graph/op_entry.h"
#include "model/graph/op_support.h"
#include "model/graph/strides.h"

// Sums along one axis of a sample, times a factor: what the sum and the mean over an axis have in common. The
// axis vanishes; of a value with one axis one number is left. An output is one chain of additions in the
// order of the axis.

namespace lockstep::ops {

/// Where the terms of each output lie, in row 0 of the input.
struct AxisSum {
  std::int64_t count = 1;              ///< terms of an output
  std::int64_t step = 0;               ///< from one to the next
  double factor = 1;                   ///< of the sum
  std::int64_t extent[3] = {1, 1, 1};  ///< of the other axes
  std::int64_t in_step[3] = {}, out_step[3] = {};
  std::int64_t in_row = 1, out_row = 1;

  AxisSum(const Shape& input, const Shape& output, std::int64_t axis, bool mean, bool channels_last) {
    const Strides in(input, channels_last), out(output, channels_last);
    count = input[static_cast<std::size_t>(axis)];
    step = in.step[static_cast<std::size_t>(axis)];
    factor = mean ? 1.0 / static_cast<double>(count) : 1.0;
    in_row = in.row;
    out_row = out.row;
    for (std::size_t from = 0, to = 0; from < input.rank(); ++from) {
      if (static_cast<std::int64_t>(from) == axis) continue;
      extent[to] = in.extent[from];
      in_step[to] = in.step[from];
      out_step[to] = out.step[to];
      ++to;
    }
  }
  LOCKSTEP_HOST_DEVICE std::int64_t outputs() const { return extent[0] * extent[1] * extent[2]; }
  /// The first term and the place of output `i` in row-major order.
  LOCKSTEP_HOST_DEVICE void places(std::int64_t i, std::int64_t& first, std::int64_t& to) const {
    first = to = 0;
    for (int axis = 2; axis >= 0; --axis) {
      const std::int64_t k = i % extent[axis];
      i /= extent[axis];
      first += k * in_step[axis];
      to += k * out_step[axis];
    }
  }
};

/// `Attrs` has `axis` and `static constexpr bool mean`.
template <class Attrs>
AxisSum axis_sum_of(const OpNode& node, const Graph& graph, bool channels_last) {
  return {graph.shape_of(node.inputs[0]), graph.shape_of(node.output), node.attrs.as<Attrs>().axis,
          Attrs::mean, channels_last};
}

template <class Attrs>
Shape infer_axis_sum(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "a sum takes one input");
  const std::int64_t axis = attrs.as<Attrs>().axis;
  const Shape& in = inputs[0];
  if (in.rank() > most_axes || axis < 0 || axis >= static_cast<std::int64_t>(in.rank()))
    refuse(layer, "there is no axis " + std::to_string(axis) + " in its input " + in.text() +
                      "; axes count from 0, and there may be " + std::to_string(most_axes));
  std::vector<std::int64_t> dims;
  for (std::size_t d = 0; d < in.rank(); ++d)
    if (static_cast<std::int64_t>(d) != axis) dims.push_back(in[d]);
  if (dims.empty()) dims.push_back(1);
  return Shape(dims);
}

inline std::int64_t axis_sum_flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return inputs[0].elements();
}

template <class Attrs>
void axis_sum_forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
                      const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
                      const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  const AxisSum s = axis_sum_of<Attrs>(node, graph, false);
  output.assign(at(ctx.rows * s.out_row), 0.0);
  for (std::int64_t row = 0; row < ctx.rows; ++row)
    for (std::int64_t i = 0; i < s.outputs(); ++i) {
      std::int64_t first = 0, to = 0;
      s.places(i, first, to);
      double sum = 0;
      for (std::int64_t k = 0; k < s.count; ++k) sum += (*inputs[0])[at(row * s.in_row + first + k * s.step)];
      output[at(row * s.out_row + to)] = sum * s.factor;
    }
}

template <class Attrs>
void axis_sum_backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
                       const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&,
                       const Tensor64&, const Tensor64& diff_output,
                       const std::vector<Tensor64*>& diff_inputs, const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  const AxisSum s = axis_sum_of<Attrs>(node, graph, false);
  for (std::int64_t row = 0; row < ctx.rows; ++row)
    for (std::int64_t i = 0; i < s.outputs(); ++i) {
      std::int64_t first = 0, to = 0;
      s.places(i, first, to);
      for (std::int64_t k = 0; k < s.count; ++k)
        (*diff_inputs[0])[at(row * s.in_row + first + k * s.step)] +=
            diff_output[at(row * s.out_row + to)] * s.factor;
    }
}

template <class Attrs>
OpAttrs read_axis_sum(const LayerArguments& a) {
  return Attrs{a.numbers(0, 1, 1, "an axis, counted from 0")[0]};
}

template <class Attrs>
OpEntry axis_sum_entry(const char* name, const char* example) {
  OpEntry entry{.name = name};
  entry.traits.mixes_rows = false;
  entry.traits.zero_rows = OpTraits::ZeroRows::kept;
  entry.traits.independent = true;
  entry.infer = infer_axis_sum<Attrs>;
  entry.flops = axis_sum_flops;
  entry.forward = axis_sum_forward<Attrs>;
  entry.backward = axis_sum_backward<Attrs>;
  entry.layer = {example, true, {}, read_axis_sum<Attrs>};
  entry.examples = [] {
    return std::vector<OpExample>{{Attrs{0}, {{9}}},
                                  {Attrs{0}, {{4, 7}}},
                                  {Attrs{1}, {{4, 7}}},
                                  {Attrs{1}, {{3, 4, 5}}},
                                  {Attrs{0}, {{3, 4, 5}}}};
  };
  return entry;
}

}  // namespace lockstep::ops
