#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "core/shape.h"

namespace lockstep {

// ---- Attributes of the ops. Shapes are those of one sample; images are (channels, height, width). ----

struct Conv2dAttrs {
  std::int64_t out_channels = 0;
  std::int64_t kernel_h = 0, kernel_w = 0;
  std::int64_t stride_h = 1, stride_w = 1;
  std::int64_t pad_h = 0, pad_w = 0;  ///< zeros on both sides
  std::int64_t groups = 1;
  bool bias = true;
};
struct DenseAttrs {
  std::int64_t out_features = 0;
  bool bias = true;
};
struct MaxPoolAttrs {
  std::int64_t kernel_h = 0, kernel_w = 0, stride_h = 0, stride_w = 0, pad_h = 0, pad_w = 0;
};
/// Padding counts as zeros but not in the divisor (count_include_pad = false).
struct AvgPoolAttrs {
  std::int64_t kernel_h = 0, kernel_w = 0, stride_h = 0, stride_w = 0, pad_h = 0, pad_w = 0;
};
struct GlobalAvgPoolAttrs {};  ///< (C, H, W) -> (C, 1, 1)
/// Ioffe and Szegedy 2015, over one slice's valid rows. running = (1 - momentum) * running + momentum *
/// batch, with the unbiased batch variance, as in PyTorch. Rank 3 input: per channel; rank 1: per feature.
struct BatchNormAttrs {
  double epsilon = 1e-5;
  double momentum = 0.1;
};
struct ReluAttrs {};
/// Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2, in the form with tanh that GPT-2 and
/// cuBLASLt's epilogue have: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
struct GeluAttrs {};
struct AddAttrs {};      ///< elementwise sum of two values of one shape
struct FlattenAttrs {};  ///< (C, H, W) -> (C*H*W), row-major
/// Inverted dropout: kept elements are divided by 1 - rate. Element e of sample g at op o in step t is kept
/// when uniform01(random_block(random_key(seed, dropout, t, o), g, e / 4).v[e % 4]) >= rate, e row-major in
/// the plain shape, o the index of the node in the graph.
struct DropoutAttrs {
  double rate = 0.5;
};
struct SoftmaxAttrs {};  ///< over the last axis

using OpAttrs =
    std::variant<Conv2dAttrs, DenseAttrs, MaxPoolAttrs, AvgPoolAttrs, GlobalAvgPoolAttrs, BatchNormAttrs,
                 ReluAttrs, GeluAttrs, AddAttrs, FlattenAttrs, DropoutAttrs, SoftmaxAttrs>;

// ---- The graph ----

using ValueId = int;  ///< index into Graph::values

struct Value {
  Shape shape;        ///< of one sample
  int producer = -1;  ///< index of the node; -1 for an input
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
};

enum class LossKind {
  cross_entropy,      ///< of integer labels on logits: mean over samples of -log softmax(x)[label]
  mean_squared_error  ///< mean over samples and outputs of (x - target)^2
};

/// A static DAG. Nodes are in topological order. Built by GraphBuilder, which checks every shape.
struct Graph {
  std::string name;
  std::vector<Value> values;
  std::vector<ValueId> inputs;
  std::vector<OpNode> nodes;
  std::vector<Parameter> parameters;
  std::vector<Statistic> statistics;
  ValueId output = -1;  ///< the logits or predictions that the loss takes
  LossKind loss = LossKind::cross_entropy;

  const Shape& shape_of(ValueId v) const { return values.at(static_cast<std::size_t>(v)).shape; }
  std::int64_t parameter_count() const;
  bool has_batch_norm() const;
};

/// Builds a Graph. Each method appends one op and returns its output; layer names default to the op's name
/// and an ordinal ("conv1", "dense2"), parameters are "<layer>.weight", "<layer>.bias". A bias is drawn like
/// its weight under torch_linear and starts at zero under every other kind. Shapes that do not fit,
/// attributes out of range and names given twice throw ConfigError with the layer and both shapes, and leave
/// the builder as it was.
class GraphBuilder {
 public:
  explicit GraphBuilder(std::string model_name = "custom");

  ValueId input(Shape sample_shape);
  ValueId conv2d(ValueId x, const Conv2dAttrs& attrs, const std::string& name = "",
                 InitKind init = InitKind::torch_linear);
  ValueId dense(ValueId x, const DenseAttrs& attrs, const std::string& name = "",
                InitKind init = InitKind::torch_linear);
  ValueId max_pool(ValueId x, const MaxPoolAttrs& attrs, const std::string& name = "");
  ValueId avg_pool(ValueId x, const AvgPoolAttrs& attrs, const std::string& name = "");
  ValueId global_avg_pool(ValueId x, const std::string& name = "");
  ValueId batch_norm(ValueId x, const BatchNormAttrs& attrs = {}, const std::string& name = "",
                     InitKind weight_init = InitKind::ones);
  ValueId relu(ValueId x, const std::string& name = "");
  ValueId gelu(ValueId x, const std::string& name = "");
  ValueId add(ValueId a, ValueId b, const std::string& name = "");
  ValueId flatten(ValueId x, const std::string& name = "");
  ValueId dropout(ValueId x, const DropoutAttrs& attrs, const std::string& name = "");
  ValueId softmax(ValueId x, const std::string& name = "");

  const Shape& shape_of(ValueId v) const { return graph_.shape_of(v); }
  /// Ends the graph. A softmax that is the last op under cross-entropy is fused: the output becomes its
  /// input. Values that do not reach the output, two softmax before cross-entropy, or logits that are not of
  /// rank 1 throw ConfigError. The builder keeps what it has and may go on.
  Graph finish(ValueId output, LossKind loss);

 private:
  std::string layer_name(const OpAttrs& attrs, const std::string& name) const;
  Shape infer(const OpAttrs& attrs, const std::vector<ValueId>& inputs, const std::string& layer) const;
  ValueId append(OpAttrs attrs, std::vector<ValueId> inputs, const std::string& layer,
                 std::vector<Parameter> parameters = {}, std::vector<Statistic> statistics = {});
  Graph graph_;
};

}  // namespace lockstep
