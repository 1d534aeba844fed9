#include "model/zoo/graph_builder.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "model/graph/op_support.h"
#include "model/graph/op_table.h"

namespace lockstep {

namespace {

/// Which values the output depends on, itself included.
std::vector<bool> reaches_output(const Graph& graph, ValueId output) {
  std::vector<bool> used(graph.values.size(), false);
  used[ops::at(output)] = true;
  for (auto node = graph.nodes.rbegin(); node != graph.nodes.rend(); ++node) {
    if (!used[ops::at(node->output)]) continue;
    for (const ValueId input : node->inputs) used[ops::at(input)] = true;
  }
  return used;
}

void refuse_dead_values(const Graph& graph, ValueId output) {
  const std::vector<bool> used = reaches_output(graph, output);
  for (std::size_t v = 0; v < used.size(); ++v) {
    if (used[v]) continue;
    const int producer = graph.values[v].producer;
    if (producer < 0) {
      throw ConfigError("model '" + graph.name + "': the output does not depend on the input of shape " +
                        graph.values[v].shape.text() + "; use that input or leave it out");
    }
    throw ConfigError("model '" + graph.name + "': what layer '" + graph.nodes[ops::at(producer)].name +
                      "' computes (" + graph.values[v].shape.text() +
                      ") does not reach the output; use it or leave the layer out");
  }
}

bool is_softmax(const Graph& graph, ValueId value) {
  const int producer = graph.values[ops::at(value)].producer;
  return producer >= 0 && graph.nodes[ops::at(producer)].attrs.is<SoftmaxAttrs>();
}

/// Cross-entropy takes logits and applies the softmax itself. Every other node is an ancestor of the output
/// here, so the softmax is the last node and its value the last value: no index moves.
void fuse_final_softmax(Graph& graph) {
  if (!is_softmax(graph, graph.output)) return;
  graph.output = graph.nodes.back().inputs[0];
  graph.nodes.pop_back();
  graph.values.pop_back();
  if (is_softmax(graph, graph.output)) {
    throw ConfigError("model '" + graph.name +
                      "': two softmax layers in a row before cross-entropy; write at most one");
  }
}

void check_loss(const Graph& graph) {
  const OpAttrs& loss = graph.loss.attrs;
  loss.entry().infer(loss, {graph.shape_of(graph.output)}, "model '" + graph.name + "'");
}
}  // namespace

GraphBuilder::GraphBuilder(std::string model_name) {
  graph_.name = std::move(model_name);
}

ValueId GraphBuilder::input(Shape sample_shape) {
  if (sample_shape.rank() == 0)
    throw ConfigError("model '" + graph_.name + "': an input needs at least one extent");
  ops::checked(sample_shape, "input", "its shape");
  return field({graph_.fields.empty() ? "input" : "input" + std::to_string(graph_.fields.size()), DType::f32,
                std::move(sample_shape)});
}

ValueId GraphBuilder::field(Field field) {
  for (const Field& other : graph_.fields)
    if (other.name == field.name)
      throw ConfigError("model '" + graph_.name + "': it takes the field '" + field.name +
                        "' twice; pass the value that the first call returned");
  const auto id = static_cast<ValueId>(graph_.values.size());
  Value value{field.shape, -1, static_cast<int>(graph_.fields.size()), field.type};
  if (field.type != DType::f32 && field.type != DType::i32)
    throw ConfigError("model '" + graph_.name + "': the field '" + field.name + "' is " +
                      name_of(field.type) + ", but a model takes F32 and I32; transform it first");
  if (field.ragged) {
    value.lengths = static_cast<int>(graph_.lengths.size());
    graph_.lengths.push_back({value.field, -1, {}});
  }
  graph_.values.push_back(std::move(value));
  graph_.fields.push_back(std::move(field));
  graph_.inputs.push_back(id);
  return id;
}

std::string GraphBuilder::layer_name(const OpAttrs& attrs, const std::string& name) const {
  const auto taken = [&](const std::string& n) {
    return std::any_of(graph_.nodes.begin(), graph_.nodes.end(),
                       [&](const OpNode& node) { return node.name == n; });
  };
  if (!name.empty()) {
    if (taken(name)) {
      throw ConfigError("model '" + graph_.name + "': two layers are called '" + name +
                        "'; names must be unique");
    }
    return name;
  }
  auto ordinal = 1 + std::count_if(graph_.nodes.begin(), graph_.nodes.end(),
                                   [&](const OpNode& node) { return &node.attrs.entry() == &attrs.entry(); });
  while (taken(op_entry(attrs).name + std::to_string(ordinal))) ++ordinal;
  return op_entry(attrs).name + std::to_string(ordinal);
}

Shape GraphBuilder::infer(const OpAttrs& attrs, const std::vector<ValueId>& inputs,
                          const std::string& layer) const {
  std::vector<Shape> shapes;
  for (const ValueId input : inputs) {
    if (input < 0 || ops::at(input) >= graph_.values.size()) {
      throw ConfigError("layer '" + layer + "': its input is value " + std::to_string(input) +
                        ", but model '" + graph_.name + "' has " + std::to_string(graph_.values.size()) +
                        " values; pass what a method of the same builder returned");
    }
    shapes.push_back(shape_of(input));
  }
  return op_entry(attrs).infer(attrs, shapes, layer);
}

int GraphBuilder::lengths_behind(const OpAttrs& attrs, const std::vector<ValueId>& inputs,
                                 const std::string& layer) {
  const OpEntry& entry = attrs.entry();
  int lengths = -1;
  for (const ValueId input : inputs) {
    const Value& value = graph_.values[ops::at(input)];
    if (value.type != entry.traits.takes)
      ops::refuse(layer, std::string(entry.name) + " takes " + name_of(entry.traits.takes) +
                             " numbers, but its input holds " + name_of(value.type) +
                             (value.type == DType::i32 ? "; put an embedding before it" : ""));
    if (value.lengths < 0) continue;
    if (entry.length == nullptr && !entry.traits.reads_lengths)
      ops::refuse(layer, std::string(entry.name) + " takes no sequences of different lengths; its input " +
                             value.shape.text() + " is one: reduce it first, as sequence_mean does");
    if (value.shape.rank() < 2 && value.type == DType::f32)
      ops::refuse(layer, "a sequence of different lengths is (positions, features), but its input is " +
                             value.shape.text());
    if (lengths >= 0 && lengths != value.lengths)
      ops::refuse(layer,
                  "its inputs have lengths of their own; they must come from one field by the same layers");
    lengths = value.lengths;
  }
  if (lengths < 0 || entry.length == nullptr) return -1;
  for (const ValueId input : inputs)
    if (graph_.values[ops::at(input)].lengths < 0)
      ops::refuse(layer, "one of its inputs is a sequence of different lengths and another is not");
  if (entry.length == ops::same_length) return lengths;
  graph_.lengths.push_back({-1, lengths, attrs});
  return static_cast<int>(graph_.lengths.size()) - 1;
}

ValueId GraphBuilder::append(const OpAttrs& attrs, const std::vector<ValueId>& inputs,
                             const std::string& name, std::optional<InitKind> init) {
  const std::string layer = layer_name(attrs, name);
  const Shape shape = infer(attrs, inputs, layer);
  const int lengths = lengths_behind(attrs, inputs, layer);
  OpNode node{layer, attrs, inputs, static_cast<ValueId>(graph_.values.size()), {}, {}, {}};
  if (attrs.entry().parameters != nullptr) {
    std::vector<Shape> shapes;
    for (const ValueId input : inputs) shapes.push_back(shape_of(input));
    OpParameters learned = attrs.entry().parameters(attrs, shapes, init);
    for (Parameter& parameter : learned.parameters) {
      parameter.name = layer + "." + parameter.name;
      node.parameters.push_back(static_cast<int>(graph_.parameters.size()));
      graph_.parameters.push_back(std::move(parameter));
    }
    for (Statistic& statistic : learned.statistics) {
      statistic.name = layer + "." + statistic.name;
      node.statistics.push_back(static_cast<int>(graph_.statistics.size()));
      graph_.statistics.push_back(std::move(statistic));
    }
  }
  graph_.values.push_back({shape, static_cast<int>(graph_.nodes.size()), -1, DType::f32, lengths});
  graph_.nodes.push_back(std::move(node));
  return graph_.nodes.back().output;
}

Graph GraphBuilder::finish(ValueId output, const OpAttrs& loss) {
  require(loss.entry().loss != nullptr, "a graph ends with a loss");
  if (graph_.inputs.empty()) throw ConfigError("model '" + graph_.name + "' has no input");
  if (output < 0 || ops::at(output) >= graph_.values.size()) {
    throw ConfigError("model '" + graph_.name + "': the output is value " + std::to_string(output) +
                      ", but there are " + std::to_string(graph_.values.size()) +
                      " values; pass what a method of the same builder returned");
  }
  refuse_dead_values(graph_, output);
  Graph graph = graph_;
  graph.output = output;
  graph.loss = OpNode{"loss", loss, {output}, -1, {}, {}, {}};
  if (loss.entry().loss->takes_softmax) fuse_final_softmax(graph);
  graph.loss.inputs = {graph.output};
  check_loss(graph);
  const LossRule& rule = *loss.entry().loss;
  const bool labels = rule.answers == LossRule::Answers::labels;
  const bool ragged = graph.values[ops::at(graph.output)].lengths >= 0;
  if (ragged && rule.weight == nullptr)
    throw ConfigError("model '" + graph.name + "': the loss " + loss.entry().name +
                      " takes no sequences of different lengths, but the output is one");
  graph.loss.fields = {static_cast<int>(graph.fields.size())};
  graph.fields.push_back({labels ? "label" : "target", labels ? DType::i32 : DType::f32,
                          rule.answer_shape(graph.shape_of(graph.output)), ragged, rule.pad});
  return graph;
}

}  // namespace lockstep
