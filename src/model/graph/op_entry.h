#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/numerics/philox.h"
#include "model/graph/graph.h"
#include "model/graph/loss_sums.h"

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
  std::span<const std::int32_t> lengths = {};  ///< (rows) of the op's first input, where it is ragged
  /// Positions of a row that count, of `extent`.
  std::int64_t length(std::int64_t row, std::int64_t extent) const {
    return lengths.empty() ? extent : lengths[static_cast<std::size_t>(row)];
  }
};

using Tensor64 = std::vector<double>;

/// What the planner, the kernels and the tests may assume of an op. Each default refuses: an op that says
/// nothing gets no short cut.
struct OpTraits {
  /// Which layouts of its first input a kernel takes, and what layout it gives.
  enum class Layout {
    plain,    ///< row-major in, row-major out
    follows,  ///< any, the same for all inputs; the output has it, too
    any,      ///< any in, row-major out
    chooses   ///< any in; the output has the layout that the device prefers for images
  };
  Layout layout = Layout::plain;
  /// Whether a row of the output may depend on other rows.
  bool mixes_rows = true;
  /// What becomes of rows beyond the valid ones, which hold zeros in the inputs.
  enum class ZeroRows {
    lost,               ///< they may hold anything
    kept,               ///< they are zeros again
    kept_without_bias,  ///< they are zeros again where the op has no second parameter
    made                ///< they are zeros, whatever the inputs held
  };
  ZeroRows zero_rows = ZeroRows::lost;
  /// In inference each element of the output is one fixed chain of operations on its own row: it does not
  /// depend on the number of rows, the row's place, or the lane.
  bool independent = false;
  /// Not so by itself, but its CPU kernel has a form that is (KernelSpec::independent).
  bool has_independent_kernel = false;
  /// Whether the CPU's kernel takes and gives values in bf16. Where not, its values stay float32 in every
  /// precision. GPU kernels take every format.
  bool takes_bf16 = false;
  bool random = false;         ///< draws numbers in training
  bool reads_lengths = false;  ///< its result depends on the lengths of the rows' sequences
  /// Whether positions beyond a row's length, which hold zeros in the inputs, hold zeros in the output, and
  /// no parameter hears of them. Else the plan puts zeros there, in both directions.
  bool keeps_padding = false;
  DType takes = DType::f32;  ///< type of its inputs
};

/// What makes an op a loss. It takes the graph's output and a field of the data, and gives sums over the
/// valid rows; it has no output value.
struct LossRule {
  enum class Answers {
    labels,  ///< the field "label": one class per row; outputs are scores of the classes
    targets  ///< the field "target": as many numbers per row as the op's input has
  };
  Answers answers = Answers::targets;
  std::vector<std::string> options = {};  ///< of LossOptions: those that it takes
  /// Applies the softmax itself, so one in front of it is taken into it.
  bool takes_softmax = false;
  /// The shape of that field for one sample, from the shape of the loss's input. The field of a ragged input
  /// is ragged, and `pad` stands behind its rows.
  Shape (*answer_shape)(const Shape& input) = nullptr;
  double pad = 0;
  /// Of one row of outputs in float64: its sums and, added to `diff`, its gradient. `targets`, or with
  /// Answers::labels `labels`: the row's numbers of that field.
  LossSums (*row)(const OpAttrs&, const Shape& input, const double* x, const float* targets,
                  const std::int32_t* labels, double* diff) = nullptr;
  /// The weight of one row, known from its labels alone. Null: it is 1, whatever they are.
  double (*weight)(const OpAttrs&, const Shape& input, const std::int32_t* labels) = nullptr;
  /// With weight: whether it is another than 1 for any labels.
  bool (*weight_varies)(const OpAttrs&, const Shape& input) = nullptr;
};

/// What a config may say of a loss besides its name; each loss names those that it takes in
/// LossRule::options.
struct LossOptions {
  double label_smoothing = 0;
  std::vector<float> class_weights = {};
  double delta = 1;
};

/// One case that the test of the table tries.
struct OpExample {
  OpAttrs attrs;
  std::vector<Shape> inputs;      ///< of one sample
  std::vector<DType> types = {};  ///< of the inputs; f32 where it is shorter. Whole numbers are tried up to 2
};

/// What a layer of this op learns, and what it remembers.
struct OpParameters {
  std::vector<Parameter> parameters;  ///< names without the layer's: "weight"
  std::vector<Statistic> statistics;
};

class LayerArguments;

/// How the op is written in model.layers: its name, then what this says.
struct LayerRule {
  const char* example = "";          ///< a whole layer, for help and messages; "" for an op that is no layer
  bool numbers = false;              ///< whether something must stand before the options
  std::vector<std::string> options;  ///< names of options
  OpAttrs (*read)(const LayerArguments&) = nullptr;
};

/// Everything device-neutral about an op: one entry. The float64 references are plain loops written from the
/// definition: the oracle of every kernel. The entry of a built-in op is found by its file's name
/// (model/graph/op_table.h); its kernels are in model/cpu/kernels and model/cuda.
struct OpEntry {
  const char* name;  ///< as in model.layers
  OpTraits traits = {};
  /// Output shape from input shapes. Throws ConfigError that names `layer` and the shapes.
  Shape (*infer)(const OpAttrs&, const std::vector<Shape>& inputs, const std::string& layer) = nullptr;
  /// Multiply-adds counted as two, forward, one sample.
  std::int64_t (*flops)(const OpAttrs&, const std::vector<Shape>& inputs, const Shape& output) = nullptr;
  /// outputs[0] = op(inputs, parameters). `statistics`: running mean and variance, read when not training;
  /// when training, batch mean and unbiased variance of this slice are written to `batch_statistics`. The op
  /// sizes what it writes.
  void (*forward)(const OpNode&, const Graph&, const ReferenceContext&,
                  const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
                  const std::vector<const Tensor64*>& statistics, Tensor64& output,
                  std::vector<Tensor64>& batch_statistics) = nullptr;
  /// Adds to diff_inputs and diff_parameters (sized and zeroed by the caller). A diff_input that nobody needs
  /// may be null. Rows beyond `valid` need diff_output 0, which every op then passes on.
  void (*backward)(const OpNode&, const Graph&, const ReferenceContext&,
                   const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>& parameters,
                   const Tensor64& output, const Tensor64& diff_output,
                   const std::vector<Tensor64*>& diff_inputs,
                   const std::vector<Tensor64*>& diff_parameters) = nullptr;
  /// Null for an op without any. `init`: how its weight is drawn where the caller says so. The shapes have
  /// passed infer().
  OpParameters (*parameters)(const OpAttrs&, const std::vector<Shape>& inputs,
                             std::optional<InitKind> init) = nullptr;
  /// Positions of a row of the output, from those of its input, both ragged along extent 0. Null: the op
  /// takes ragged values only if it reads lengths, and its output is not ragged.
  std::int64_t (*length)(const OpAttrs&, std::int64_t input_length) = nullptr;
  LayerRule layer = {};
  /// Of a loss, else null. A loss has a name (as in loss.name), infer (it checks its input and gives the
  /// empty shape), flops and examples, and none of the functions above.
  const LossRule* loss = nullptr;
  /// Of a loss: its attributes as nobody asked for others.
  OpAttrs (*default_attrs)() = nullptr;
  /// Of a loss: its attributes with what a config asks for. Null: it takes no options.
  OpAttrs (*attrs_with)(const LossOptions&) = nullptr;
  /// Cases that show every branch of the kernels, small: the test of the table walks them.
  std::vector<OpExample> (*examples)() = nullptr;
};

}  // namespace lockstep
