#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/graph/op_entry.h"
#include "model/graph/op_support.h"
#include "model/graph/strides.h"

// Ops that only move elements: what each does is one BlockCopy for each of its inputs. `Moves` has
//   static std::vector<BlockCopy> of(const OpAttrs&, const std::vector<Shape>& inputs, const Shape& output,
//                                    bool channels_last);
// Elements of an input that no block takes get the gradient 0.

namespace lockstep::ops {

inline std::vector<Shape> input_shapes(const OpNode& node, const Graph& graph) {
  std::vector<Shape> shapes;
  for (const ValueId v : node.inputs) shapes.push_back(graph.shape_of(v));
  return shapes;
}

template <class Moves>
void moves_forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
                   const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
                   const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  const Shape& shape = graph.shape_of(node.output);
  output.assign(at(ctx.rows * shape.elements()), 0.0);
  const auto blocks = Moves::of(node.attrs, input_shapes(node, graph), shape, false);
  for (std::size_t k = 0; k < blocks.size(); ++k)
    for (std::int64_t row = 0; row < ctx.rows; ++row)
      for (std::int64_t i = 0; i < blocks[k].elements(); ++i) {
        std::int64_t from = 0, to = 0;
        blocks[k].places(i, from, to);
        output[at(row * blocks[k].to_row + to)] = (*inputs[k])[at(row * blocks[k].from_row + from)];
      }
}

template <class Moves>
void moves_backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
                    const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, const Tensor64&,
                    const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
                    const std::vector<Tensor64*>&) {
  const auto blocks = Moves::of(node.attrs, input_shapes(node, graph), graph.shape_of(node.output), false);
  for (std::size_t k = 0; k < blocks.size(); ++k)
    for (std::int64_t row = 0; diff_inputs[k] != nullptr && row < ctx.rows; ++row)
      for (std::int64_t i = 0; i < blocks[k].elements(); ++i) {
        std::int64_t from = 0, to = 0;
        blocks[k].places(i, from, to);
        (*diff_inputs[k])[at(row * blocks[k].from_row + from)] +=
            diff_output[at(row * blocks[k].to_row + to)];
      }
}

inline std::int64_t no_flops(const OpAttrs&, const std::vector<Shape>&, const Shape&) {
  return 0;
}

template <class Moves>
OpEntry moves_entry(const char* name) {
  OpEntry entry{.name = name};
  entry.traits.layout = OpTraits::Layout::plain;
  entry.traits.mixes_rows = false;
  entry.traits.zero_rows = OpTraits::ZeroRows::kept;
  entry.traits.independent = true;
  entry.flops = no_flops;
  entry.forward = moves_forward<Moves>;
  entry.backward = moves_backward<Moves>;
  return entry;
}

/// An axis of `shape`, checked; throws ConfigError.
inline void check_axis(std::int64_t axis, const Shape& shape, const std::string& layer) {
  if (shape.rank() > most_axes)
    refuse(layer, "its input " + shape.text() + " has more axes than " + std::to_string(most_axes));
  if (axis < 0 || axis >= static_cast<std::int64_t>(shape.rank()))
    refuse(layer, "there is no axis " + std::to_string(axis) + " in its input " + shape.text() +
                      "; axes count from 0");
}

}  // namespace lockstep::ops
