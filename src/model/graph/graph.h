#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/field.h"
#include "core/shape.h"
#include "model/graph/op_attrs.h"

namespace lockstep {

using ValueId = int;  ///< index into Graph::values

struct Value {
  Shape shape;              ///< of one sample
  int producer = -1;        ///< index of the node; -1 for an input
  int field = -1;           ///< of an input: its place in Graph::fields
  DType type = DType::f32;  ///< f32, or i32 of an input
  int lengths = -1;         ///< of a ragged value: its place in Graph::lengths
};

/// How many positions, entries of extent 0, each row of a ragged value has.
struct RowLengths {
  int field = -1;  ///< the field that tells; else
  int from = -1;   ///< they follow from these lengths
  OpAttrs attrs;   ///< by OpEntry::length of this op
};

/// How initial weights are drawn (plain row-major order, element e of parameter p: Philox with
/// random_key(seed, init, 0, p), sample 0, block e/4 (uniform) or e/2 (normal, two words a number)).
enum class InitKind {
  zeros,
  ones,
  kaiming_uniform,  ///< U(-b, b), b = gain * sqrt(3 / fan_in); He et al. 2015, eq. 10; gain sqrt(2) before
                    ///< ReLU
  kaiming_normal_fan_out,  ///< N(0, 2 / fan_out): He et al. 2015, eq. 14
  torch_linear  ///< U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the default of torch.nn.Linear and Conv2d, bias
                ///< included
};

struct Parameter {
  std::string name;  ///< e.g. "layer1.0.conv1.weight"
  Shape shape;       ///< conv: (out, in/groups, kh, kw); dense: (out, in); bias and norms: (channels)
  InitKind init = InitKind::zeros;
  std::int64_t fan_in = 1;
  std::int64_t fan_out = 1;
  bool trainable = true;  ///< false: keeps its initial or loaded values (model.freeze)
  bool decays = true;     ///< false: no weight decay, whatever the optimizer is told
};

/// A running statistic: saved with the model, never touched by the optimizer.
struct Statistic {
  std::string name;  ///< e.g. "bn1.running_mean"
  Shape shape;
  float initial = 0.0f;
  double momentum = 0.1;
};

struct OpNode {
  std::string name;  ///< of the layer, e.g. "layer1.0.conv1"; unique
  OpAttrs attrs;
  std::vector<ValueId> inputs;
  ValueId output = -1;
  std::vector<int> parameters;  ///< indices into Graph::parameters; weight before bias
  std::vector<int> statistics;  ///< indices into Graph::statistics; mean before variance
  std::vector<int> fields;      ///< of a loss: indices into Graph::fields, as LossRule::fields asks for them
};

/// A static DAG. Nodes are in topological order. Built by GraphBuilder, which checks every shape.
struct Graph {
  std::string name;
  std::vector<Field> fields;  ///< what it takes of a batch, in this order
  std::vector<Value> values;
  std::vector<ValueId> inputs;  ///< values that are fields
  std::vector<RowLengths> lengths;
  std::vector<OpNode> nodes;
  std::vector<Parameter> parameters;
  std::vector<Statistic> statistics;
  ValueId output = -1;  ///< the logits or predictions that the loss takes
  OpNode loss;          ///< its input is `output`; it has no output of its own

  const Shape& shape_of(ValueId v) const { return values.at(static_cast<std::size_t>(v)).shape; }
  /// The field that an input is.
  const Field& field_of(ValueId input) const {
    return fields.at(static_cast<std::size_t>(values.at(static_cast<std::size_t>(input)).field));
  }
  std::int64_t parameter_count() const;
  /// Whether some op may let rows of a slice depend on each other: batch norm does.
  bool mixes_rows() const;
};

}  // namespace lockstep
