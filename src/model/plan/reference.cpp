#include "model/plan/reference.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "model/graph/op_support.h"
#include "model/plan/init.h"
#include "model/plan/row_lengths.h"

namespace lockstep {

namespace {

using ops::at;

/// Summed over the valid rows; `diff` gets the gradient.
LossSums loss_of(const Graph& graph, const Tensor64& output, const Batch& batch, Tensor64& diff) {
  const Shape& shape = graph.shape_of(graph.output);
  const std::size_t width = at(shape.elements());
  const LossRule& rule = *graph.loss.attrs.entry().loss;
  const bool labels = rule.answers == LossRule::Answers::labels;
  diff.assign(at(batch.rows) * width, 0.0);
  const FieldRows answers = batch.field(at(graph.loss.fields.at(0)));
  require(answers.data.size() / sizeof(float) >= at(batch.valid) * at(rule.answer_shape(shape).elements()),
          "a batch has fewer labels or targets than valid rows");
  const std::size_t each = at(rule.answer_shape(shape).elements());
  const auto classes = static_cast<std::int32_t>(shape.dims().back());
  LossSums sums;
  for (std::size_t n = 0; n < at(batch.valid); ++n) {
    const std::int32_t* of_row = labels ? answers.as<std::int32_t>().data() + n * each : nullptr;
    for (std::size_t i = 0; labels && i < each; ++i)
      require((of_row[i] >= 0 && of_row[i] < classes) || (rule.weight != nullptr && of_row[i] == rule.pad),
              "a label is outside the classes");
    const LossSums row =
        rule.row(graph.loss.attrs, shape, output.data() + n * width,
                 labels ? nullptr : answers.as<float>().data() + n * each, of_row, diff.data() + n * width);
    sums.loss += row.loss;
    sums.correct += row.correct;
    sums.weight += row.weight;
    sums.counted += row.counted;
  }
  return sums;
}

const Tensor64* find(const NamedTensors& tensors, const std::string& name, const Shape& shape) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw InternalError("the reference was given no '" + name + "'");
  if (found->second.size() != at(shape.elements())) throw InternalError("'" + name + "' has another size");
  return &found->second;
}

std::vector<const Tensor64*> parameters_of(const OpNode& node, const Graph& graph,
                                           const NamedTensors& parameters) {
  std::vector<const Tensor64*> found;
  for (const int p : node.parameters) {
    found.push_back(find(parameters, graph.parameters[at(p)].name, graph.parameters[at(p)].shape));
  }
  return found;
}

std::vector<const Tensor64*> inputs_of(const OpNode& node, const std::vector<Tensor64>& values) {
  std::vector<const Tensor64*> found;
  for (const ValueId v : node.inputs) found.push_back(&values[at(v)]);
  return found;
}

/// The lengths that op `node` goes by, of all lengths of the slice.
std::span<const std::int32_t> lengths_of(const Graph& graph, const OpNode& node,
                                         std::span<const std::int32_t> all, std::int64_t rows) {
  const int lengths = graph.values[at(node.inputs[0])].lengths;
  if (lengths < 0) return {};
  return all.subspan(at(lengths) * at(rows), at(rows));
}

void clear(const Graph& graph, const OpNode& node, std::span<const std::int32_t> all, std::int64_t rows,
           Tensor64& value) {
  const PaddingMask mask = padding_mask(graph, node, node.output);
  if (mask.lengths < 0) return;
  clear_padding(value.data(), all.subspan(at(mask.lengths) * at(rows), at(rows)), mask.extent, mask.features);
}

/// Fills result.values, output and (training) statistics. `running` is null in training.
void run_forward(const Graph& graph, ReferenceContext ctx, const Batch& batch, const NamedTensors& parameters,
                 const NamedTensors* running, ReferenceExecutor::Result& result) {
  result.values.resize(graph.values.size());
  for (const ValueId v : graph.inputs) {
    const FieldRows rows = batch.field(at(graph.values[at(v)].field));
    require(
        rows.type == graph.field_of(v).type && rows.data.size() == at(batch.rows) * graph.field_of(v).bytes(),
        "a field of a batch has another size");
    Tensor64& value = result.values[at(v)];
    if (rows.type == DType::i32)
      value.assign(rows.as<std::int32_t>().begin(), rows.as<std::int32_t>().end());
    else
      value.assign(rows.as<float>().begin(), rows.as<float>().end());
  }
  result.lengths.resize(graph.lengths.size() * at(batch.rows));
  fill_row_lengths(graph, batch, result.lengths);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const OpNode& node = graph.nodes[n];
    ctx.node = static_cast<std::uint32_t>(n);
    ctx.lengths = lengths_of(graph, node, result.lengths, batch.rows);
    std::vector<const Tensor64*> statistics;
    for (const int s : node.statistics) {
      const Statistic& statistic = graph.statistics[at(s)];
      if (running != nullptr) statistics.push_back(find(*running, statistic.name, statistic.shape));
    }
    std::vector<Tensor64> batch_statistics;
    op_entry(node.attrs)
        .forward(node, graph, ctx, inputs_of(node, result.values), parameters_of(node, graph, parameters),
                 statistics, result.values[at(node.output)], batch_statistics);
    clear(graph, node, result.lengths, batch.rows, result.values[at(node.output)]);
    for (std::size_t s = 0; s < batch_statistics.size(); ++s) {
      result.statistics[graph.statistics[at(node.statistics[s])].name] = std::move(batch_statistics[s]);
    }
  }
  result.output = result.values[at(graph.output)];
}

/// Fills result.gradients and gradients_of_values, whose entry of the output holds the gradient of the loss.
/// Every op adds, so a value with several consumers gets the sum.
void run_backward(const Graph& graph, ReferenceContext ctx, const NamedTensors& parameters,
                  ReferenceExecutor::Result& result) {
  auto& diffs = result.gradients_of_values;
  for (std::size_t v = 0; v < diffs.size(); ++v) diffs[v].resize(result.values[v].size(), 0.0);
  for (const Parameter& p : graph.parameters) result.gradients[p.name].assign(at(p.shape.elements()), 0.0);
  for (std::size_t n = graph.nodes.size(); n-- > 0;) {
    const OpNode& node = graph.nodes[n];
    ctx.node = static_cast<std::uint32_t>(n);
    ctx.lengths = lengths_of(graph, node, result.lengths, ctx.rows);
    clear(graph, node, result.lengths, ctx.rows, diffs[at(node.output)]);
    std::vector<Tensor64*> diff_inputs;
    for (const ValueId v : node.inputs) diff_inputs.push_back(&diffs[at(v)]);
    std::vector<Tensor64*> diff_parameters;
    for (const int p : node.parameters)
      diff_parameters.push_back(&result.gradients[graph.parameters[at(p)].name]);
    op_entry(node.attrs)
        .backward(node, graph, ctx, inputs_of(node, result.values), parameters_of(node, graph, parameters),
                  result.values[at(node.output)], diffs[at(node.output)], diff_inputs, diff_parameters);
  }
}

}  // namespace

ReferenceExecutor::ReferenceExecutor(Graph graph) : graph_(std::move(graph)) {}

ReferenceExecutor::Result ReferenceExecutor::train(const Batch& batch, const NamedTensors& parameters,
                                                   std::uint64_t seed, std::uint64_t step) const {
  const ReferenceContext ctx{batch.rows, batch.valid, batch.samples, seed, step, 0, true};
  Result result;
  run_forward(graph_, ctx, batch, parameters, nullptr, result);
  result.gradients_of_values.resize(graph_.values.size());
  const LossSums loss = loss_of(graph_, result.output, batch, result.gradients_of_values[at(graph_.output)]);
  result.loss = loss.loss;
  result.correct = loss.correct;
  result.weight = loss.weight;
  run_backward(graph_, ctx, parameters, result);
  return result;
}

ReferenceExecutor::Result ReferenceExecutor::infer(const Batch& batch, const NamedTensors& parameters,
                                                   const NamedTensors& statistics) const {
  const ReferenceContext ctx{batch.rows, batch.valid, batch.samples, 0, 0, 0, false};
  Result result;
  run_forward(graph_, ctx, batch, parameters, &statistics, result);
  if (!batch.field(at(graph_.loss.fields.at(0))).empty()) {
    Tensor64 unused;
    const LossSums loss = loss_of(graph_, result.output, batch, unused);
    result.loss = loss.loss;
    result.correct = loss.correct;
    result.weight = loss.weight;
  }
  return result;
}

NamedTensors initial_parameters(const Graph& graph, std::uint64_t seed) {
  NamedTensors tensors;
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    std::vector<float> drawn(at(graph.parameters[p].shape.elements()));
    initialise_plain(graph, p, seed, drawn);
    tensors[graph.parameters[p].name].assign(drawn.begin(), drawn.end());
  }
  return tensors;
}

NamedTensors initial_statistics(const Graph& graph) {
  NamedTensors tensors;
  for (const Statistic& s : graph.statistics) tensors[s.name].assign(at(s.shape.elements()), s.initial);
  return tensors;
}

}  // namespace lockstep
