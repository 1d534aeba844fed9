#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/graph/op_entry.h"
#include "model/graph/op_support.h"

// What the ops that normalise every line along the last axis have in common: layer norm and RMS norm.
// Parameters: weight (last axis) and, where `bias` is, bias (last axis).

namespace lockstep::ops {

template <class Attrs>
Shape infer_line_norm(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "a norm takes one input");
  // Written so that NaN fails as well.
  if (!(attrs.as<Attrs>().epsilon > 0)) refuse(layer, "epsilon must be positive");
  return inputs[0];
}

inline std::int64_t line_norm_flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return saturating_mul(6, inputs[0].elements());
}

/// mean and 1 / deviation of one line.
struct LineStatistics64 {
  double mean = 0, inverse = 0;
  LineStatistics64(const double* x, std::size_t n, bool centred, double epsilon) {
    for (std::size_t i = 0; centred && i < n; ++i) mean += x[i] / static_cast<double>(n);
    double variance = 0;
    for (std::size_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(n);
    inverse = 1.0 / std::sqrt(variance + epsilon);
  }
};

/// `Attrs::centred`: whether the mean is taken away.
template <class Attrs>
void line_norm_forward(const OpNode& node, const Graph& graph, const ReferenceContext&,
                       const std::vector<const Tensor64*>& inputs,
                       const std::vector<const Tensor64*>& parameters, const std::vector<const Tensor64*>&,
                       Tensor64& output, std::vector<Tensor64>&) {
  const std::size_t n = at(graph.shape_of(node.output).dims().back());
  const Tensor64& x = *inputs[0];
  output.resize(x.size());
  for (std::size_t line = 0; line < x.size(); line += n) {
    const LineStatistics64 s(x.data() + line, n, Attrs::centred, node.attrs.as<Attrs>().epsilon);
    for (std::size_t i = 0; i < n; ++i) {
      output[line + i] = (x[line + i] - s.mean) * s.inverse * (*parameters[0])[i];
      if (parameters.size() > 1) output[line + i] += (*parameters[1])[i];
    }
  }
}

template <class Attrs>
void line_norm_backward(const OpNode& node, const Graph& graph, const ReferenceContext&,
                        const std::vector<const Tensor64*>& inputs,
                        const std::vector<const Tensor64*>& parameters, const Tensor64&,
                        const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
                        const std::vector<Tensor64*>& diff_parameters) {
  const std::size_t n = at(graph.shape_of(node.output).dims().back());
  const Tensor64& x = *inputs[0];
  for (std::size_t line = 0; line < x.size(); line += n) {
    const LineStatistics64 s(x.data() + line, n, Attrs::centred, node.attrs.as<Attrs>().epsilon);
    double mean_g = 0, mean_product = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double xhat = (x[line + i] - s.mean) * s.inverse;
      const double g = diff_output[line + i] * (*parameters[0])[i];
      mean_g += Attrs::centred ? g / static_cast<double>(n) : 0.0;
      mean_product += g * xhat / static_cast<double>(n);
      (*diff_parameters[0])[i] += diff_output[line + i] * xhat;
      if (parameters.size() > 1) (*diff_parameters[1])[i] += diff_output[line + i];
    }
    for (std::size_t i = 0; diff_inputs[0] != nullptr && i < n; ++i) {
      const double xhat = (x[line + i] - s.mean) * s.inverse;
      const double g = diff_output[line + i] * (*parameters[0])[i];
      (*diff_inputs[0])[line + i] += s.inverse * (g - mean_g - xhat * mean_product);
    }
  }
}

}  // namespace lockstep::ops
