#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/numerics/philox.h"
#include "model/graph/graph.h"

namespace lockstep {

/// What an op's reference sees of one slice. All tensors are plain row-major with the batch in front.
struct ReferenceContext {
  std::int64_t rows = 0;                  ///< of the slice
  std::int64_t valid = 0;                 ///< the first `valid` rows carry weight 1, the others 0
  std::span<const std::int64_t> samples;  ///< global index of each row's sample (dropout)
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint32_t node = 0;  ///< index of the node in the graph
  bool training = true;
};

using Tensor64 = std::vector<double>;

/// One row of the explicit table of ops: everything device-neutral about an op. The float64 references are
/// plain loops written from the definition: the oracle of every kernel.
struct OpEntry {
  const char* name;  ///< as in model.layers
  /// Output shape from input shapes. Throws ConfigError that names `layer` and the shapes.
  Shape (*infer)(const OpAttrs&, const std::vector<Shape>& inputs, const std::string& layer);
  /// Multiply-adds counted as two, forward, one sample.
  std::int64_t (*flops)(const OpAttrs&, const std::vector<Shape>& inputs, const Shape& output);
  /// outputs[0] = op(inputs, parameters). `statistics`: running mean and variance, read when not training;
  /// when training, batch mean and unbiased variance of this slice are written to `batch_statistics`. The op
  /// sizes what it writes.
  void (*forward)(const OpNode&, const Graph&, const ReferenceContext&,
                  const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
                  const std::vector<const Tensor64*>& statistics, Tensor64& output,
                  std::vector<Tensor64>& batch_statistics);
  /// Adds to diff_inputs and diff_parameters (sized and zeroed by the caller). A diff_input that nobody needs
  /// may be null. Rows beyond `valid` need diff_output 0, which every op then passes on.
  void (*backward)(const OpNode&, const Graph&, const ReferenceContext&,
                   const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
                   const Tensor64& output, const Tensor64& diff_output,
                   const std::vector<Tensor64*>& diff_inputs, const std::vector<Tensor64*>& diff_parameters);
};

/// The entry of the op that `attrs` holds.
const OpEntry& op_entry(const OpAttrs& attrs);
/// The whole table, in the order of OpAttrs.
std::span<const OpEntry> op_table();

}  // namespace lockstep
