#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/graph/graph.h"
#include "model/ops/activation/gelu.h"
#include "model/ops/activation/relu.h"
#include "model/ops/activation/softmax.h"
#include "model/ops/arithmetic/add.h"
#include "model/ops/linear/conv2d.h"
#include "model/ops/linear/dense.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/ops/norm/batch_norm.h"
#include "model/ops/pool/avg_pool.h"
#include "model/ops/pool/global_avg_pool.h"
#include "model/ops/pool/max_pool.h"
#include "model/ops/random/dropout.h"
#include "model/ops/shape/flatten.h"

namespace lockstep {

/// Builds a Graph. Layer names default to the op's name
/// and an ordinal ("conv1", "dense2"), parameters are "<layer>.weight", "<layer>.bias". A bias is drawn like
/// its weight under torch_linear and starts at zero under every other kind. Shapes that do not fit,
/// attributes out of range and names given twice throw ConfigError with the layer and both shapes, and leave
/// the builder as it was.
class GraphBuilder {
 public:
  explicit GraphBuilder(std::string model_name = "custom");

  /// The field "input" of float32 numbers.
  ValueId input(Shape sample_shape);
  /// Any field of the data, as a value. Names given twice throw ConfigError.
  ValueId field(Field field);
  /// Appends an op with its inputs in order and returns its output. `init`: how its weight is drawn; by
  /// default as its entry says.
  ValueId append(const OpAttrs& attrs, const std::vector<ValueId>& inputs, const std::string& name = "",
                 std::optional<InitKind> init = std::nullopt);

  // The same for the ops of pictures.
  ValueId conv2d(ValueId x, const Conv2dAttrs& attrs, const std::string& name = "",
                 InitKind init = InitKind::torch_linear) {
    return append(attrs, {x}, name, init);
  }
  ValueId dense(ValueId x, const DenseAttrs& attrs, const std::string& name = "",
                InitKind init = InitKind::torch_linear) {
    return append(attrs, {x}, name, init);
  }
  ValueId max_pool(ValueId x, const MaxPoolAttrs& attrs, const std::string& name = "") {
    return append(attrs, {x}, name);
  }
  ValueId avg_pool(ValueId x, const AvgPoolAttrs& attrs, const std::string& name = "") {
    return append(attrs, {x}, name);
  }
  ValueId global_avg_pool(ValueId x, const std::string& name = "") {
    return append(GlobalAvgPoolAttrs{}, {x}, name);
  }
  ValueId batch_norm(ValueId x, const BatchNormAttrs& attrs = {}, const std::string& name = "",
                     InitKind weight_init = InitKind::ones) {
    return append(attrs, {x}, name, weight_init);
  }
  ValueId relu(ValueId x, const std::string& name = "") { return append(ReluAttrs{}, {x}, name); }
  ValueId gelu(ValueId x, const std::string& name = "") { return append(GeluAttrs{}, {x}, name); }
  ValueId add(ValueId a, ValueId b, const std::string& name = "") { return append(AddAttrs{}, {a, b}, name); }
  ValueId flatten(ValueId x, const std::string& name = "") { return append(FlattenAttrs{}, {x}, name); }
  ValueId dropout(ValueId x, const DropoutAttrs& attrs, const std::string& name = "") {
    return append(attrs, {x}, name);
  }
  ValueId softmax(ValueId x, const std::string& name = "") { return append(SoftmaxAttrs{}, {x}, name); }

  const Shape& shape_of(ValueId v) const { return graph_.shape_of(v); }
  /// Ends the graph. A softmax that is the last op under cross-entropy is fused: the output becomes its
  /// input. Values that do not reach the output, two softmax before cross-entropy, or logits that are not of
  /// rank 1 throw ConfigError. The builder keeps what it has and may go on.
  Graph finish(ValueId output, const OpAttrs& loss);

 private:
  /// The lengths of what an op gives, -1 where it is not ragged; checks types and lengths of its inputs.
  int lengths_behind(const OpAttrs& attrs, const std::vector<ValueId>& inputs, const std::string& layer);
  std::string layer_name(const OpAttrs& attrs, const std::string& name) const;
  Shape infer(const OpAttrs& attrs, const std::vector<ValueId>& inputs, const std::string& layer) const;
  Graph graph_;
};

}  // namespace lockstep
