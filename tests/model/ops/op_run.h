#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "core/numerics/permutation.h"
#include "core/numerics/philox.h"
#include "model/graph/graph.h"
#include "model/graph/op_support.h"
#include "model/graph/op_table.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/zoo/graph_builder.h"

// One op, run by its float64 reference on values made up for it.

namespace lockstep {

using ops::at;

/// One op applied to values of the given shapes.
struct OpCase {
  std::string name;
  std::vector<Shape> inputs;
  std::function<ValueId(GraphBuilder&, const std::vector<ValueId>&)> build;
  std::int64_t rows = 3;
  std::int64_t valid = 3;
  std::vector<DType> types = {};  ///< of the inputs; f32 where it is shorter
};

inline std::ostream& operator<<(std::ostream& out, const OpCase& c) {
  return out << c.name;
}

inline Graph graph_of(const OpCase& c) {
  GraphBuilder b;
  std::vector<ValueId> inputs;
  for (std::size_t i = 0; i < c.inputs.size(); ++i)
    inputs.push_back(
        b.field({"x" + std::to_string(i), i < c.types.size() ? c.types[i] : DType::f32, c.inputs[i]}));
  const ValueId output = c.build(b, inputs);
  return b.finish(output, MeanSquaredErrorAttrs{});
}

/// n values in (-2, 2), at least 4 / n apart from each other and 2 / n from 0 (or n odd: 0 itself is left out
/// by the half step), in random order: a finite difference never crosses the kink of a ReLU or changes the
/// winner of a max pool.
inline Tensor64 spread_values(std::size_t n, std::uint32_t stream) {
  const Permutation order(random_key(1, Purpose::synthetic, 0, stream), n);
  Tensor64 values(n);
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = 4.0 * (static_cast<double>(order(i)) + 0.25 - std::floor(static_cast<double>(n) / 2)) /
                static_cast<double>(n);
  }
  return values;
}

/// Everything that one op reads.
struct OpRun {
  Graph graph;
  ReferenceContext ctx;
  std::vector<std::int64_t> samples;
  std::vector<Tensor64> inputs, parameters, statistics;
  std::vector<Tensor64> batch_statistics;

  explicit OpRun(const OpCase& c) : graph(graph_of(c)) {
    for (std::int64_t n = 0; n < c.rows; ++n) samples.push_back(n < c.valid ? 100 + 7 * n : -1);
    ctx = ReferenceContext{c.rows, c.valid, samples, 11, 5, 0, true};
    for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
      inputs.push_back(spread_values(at(c.rows * c.inputs[i].elements()), static_cast<std::uint32_t>(i)));
      if (graph.field_of(graph.inputs[i]).type == DType::i32)
        for (std::size_t e = 0; e < inputs.back().size(); ++e)
          inputs.back()[e] = static_cast<double>(e * 7 % 3);
    }
    for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
      parameters.push_back(
          spread_values(at(graph.parameters[p].shape.elements()), static_cast<std::uint32_t>(10 + p)));
    }
    for (const Statistic& s : graph.statistics) statistics.emplace_back(at(s.shape.elements()), s.initial);
  }
  OpRun(const OpRun&) = delete;

  const OpNode& node() const { return graph.nodes.at(0); }

  static std::vector<const Tensor64*> pointers(const std::vector<Tensor64>& tensors) {
    std::vector<const Tensor64*> found;
    found.reserve(tensors.size());
    for (const Tensor64& t : tensors) found.push_back(&t);
    return found;
  }
  std::vector<const Tensor64*> node_inputs() const {
    std::vector<const Tensor64*> found;
    for (const ValueId v : node().inputs) found.push_back(&inputs.at(at(v)));
    return found;
  }
  Tensor64 forward() {
    Tensor64 output;
    op_entry(node().attrs)
        .forward(node(), graph, ctx, node_inputs(), pointers(parameters), pointers(statistics), output,
                 batch_statistics);
    return output;
  }
  struct Gradients {
    std::vector<Tensor64> inputs, parameters;
  };
  Gradients backward(const Tensor64& diff_output) {
    Gradients g;
    for (const Tensor64& x : inputs) g.inputs.emplace_back(x.size(), 0.0);
    for (const Tensor64& p : parameters) g.parameters.emplace_back(p.size(), 0.0);
    std::vector<Tensor64*> diff_inputs, diff_parameters;
    for (const ValueId v : node().inputs) diff_inputs.push_back(&g.inputs.at(at(v)));
    for (Tensor64& p : g.parameters) diff_parameters.push_back(&p);
    op_entry(node().attrs)
        .backward(node(), graph, ctx, node_inputs(), pointers(parameters), forward(), diff_output,
                  diff_inputs, diff_parameters);
    return g;
  }
};

inline Conv2dAttrs conv(std::int64_t out, std::int64_t kh, std::int64_t kw, std::int64_t stride = 1,
                        std::int64_t pad = 0, std::int64_t groups = 1, bool bias = true) {
  return {out, kh, kw, stride, stride, pad, pad, groups, bias};
}

}  // namespace lockstep
