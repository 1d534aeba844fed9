#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/graph/graph.h"
#include "model/graph/op_table.h"
#include "model/plan/executor.h"

namespace lockstep {

/// Plain row-major tensors by name, in float64.
using NamedTensors = std::map<std::string, Tensor64>;

/// A whole graph in float64, one op after the other by the references of the op table: the oracle of the
/// executors. Slow and plain on purpose.
class ReferenceExecutor {
 public:
  struct Result {
    double loss = 0;  ///< sum over the valid rows, not divided
    double correct =
        0;  ///< valid rows whose largest output (the first of equal ones) is the label (cross-entropy)
    double weight = 0;             ///< what the loss is divided by
    Tensor64 output;               ///< (rows, output elements)
    NamedTensors gradients;        ///< of the loss sum, by parameter (train only)
    NamedTensors statistics;       ///< this slice's mean and unbiased variance, by statistic (train only)
    std::vector<Tensor64> values;  ///< by ValueId, (rows, elements)
    std::vector<Tensor64> gradients_of_values;  ///< by ValueId (train only)
    std::vector<std::int32_t> lengths;          ///< (Graph::lengths, rows)
  };

  explicit ReferenceExecutor(Graph graph);

  /// Forward, loss and backward of one slice. `parameters` must hold every parameter of the graph. Throws
  /// InternalError when something is missing or has another size.
  Result train(const Batch& batch, const NamedTensors& parameters, std::uint64_t seed,
               std::uint64_t step) const;
  /// Forward with running statistics and without dropout; the loss too when the batch has labels or targets.
  Result infer(const Batch& batch, const NamedTensors& parameters, const NamedTensors& statistics) const;

 private:
  Graph graph_;
};

/// The initial values of all parameters (initialise_plain) in float64.
NamedTensors initial_parameters(const Graph& graph, std::uint64_t seed);
/// The initial values of all running statistics.
NamedTensors initial_statistics(const Graph& graph);

}  // namespace lockstep
