#include "model/zoo/layers_line.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "model/graph/layer_arguments.h"
#include "model/graph/op_table.h"
#include "model/zoo/graph_builder.h"

namespace lockstep {

namespace {

constexpr std::size_t longest_line = 65536;  // bytes

/// The ops that are layers of the line.
std::vector<const OpEntry*> layers() {
  std::vector<const OpEntry*> found;
  for (const OpEntry* entry : op_table())
    if (entry->layer.read != nullptr) found.push_back(entry);
  return found;
}

const OpEntry& find_layer(const LayersText& line, Piece name) {
  std::vector<std::string> known;
  for (const OpEntry* entry : layers()) {
    if (entry->name == name.text) return *entry;
    known.emplace_back(entry->name);
  }
  line.fail(name.begin, "unknown layer " + quoted_piece(name.text) + spelling_hint(name.text, known));
}

void read_option(const LayersText& line, const OpEntry& op, Piece part, LayerArguments& arguments) {
  const LayerRule& rule = op.layer;
  const std::string example = std::string("; for example ") + rule.example;
  if (part.text.empty())
    line.fail(part.begin, "an option is missing here (no blanks inside a layer)" + example);
  const std::size_t equals = part.text.find('=');
  const Piece key{part.text.substr(0, equals), part.begin};
  if (std::find(rule.options.begin(), rule.options.end(), key.text) == rule.options.end()) {
    if (rule.options.empty()) line.fail(part.begin, "unexpected " + quoted_piece(part.text) + example);
    line.fail(part.begin, std::string(op.name) + " has no option " + quoted_piece(key.text) +
                              spelling_hint(key.text, rule.options));
  }
  if (equals == std::string_view::npos) {
    line.fail(part.end(),
              "option " + quoted_piece(key.text) + " has no value; write " + std::string(key.text) + "=...");
  }
  if (arguments.option(key.text) != nullptr)
    line.fail(part.begin, "option " + quoted_piece(key.text) + " is given twice");
  arguments.add_option(key, Piece{part.text.substr(equals + 1), part.begin + equals + 1});
}

OpAttrs read_layer(const LayersText& line, Piece layer) {
  const std::size_t colon = layer.text.find(':');
  const Piece name{layer.text.substr(0, colon), layer.begin};
  const OpEntry& op = find_layer(line, name);
  LayerArguments arguments(line);
  std::vector<Piece> parts;
  if (colon != std::string_view::npos) {
    parts = split_piece(Piece{layer.text.substr(colon + 1), layer.begin + colon + 1}, ',');
  }
  if (op.layer.numbers) {
    if (parts.empty() || parts[0].text.empty()) {
      line.fail(parts.empty() ? layer.end() : parts[0].begin,
                std::string(op.name) + " needs a number here; for example " + op.layer.example);
    }
    arguments.set_numbers(parts[0]);
    parts.erase(parts.begin());
  }
  for (const Piece& part : parts) read_option(line, op, part, arguments);
  return op.layer.read(arguments);
}

/// Runs `build`; what it refuses is told with the place in the line.
template <class Build>
auto with_place(const LayersText& line, Piece layer, std::size_t ordinal, Build build) {
  try {
    return build();
  } catch (const ConfigError& error) {
    line.fail(layer.begin, std::string(error.what()) + ": layer " + std::to_string(ordinal) +
                               " of the line, " + quoted_piece(layer.text));
  }
}

void check_outputs(const LayersText& line, Piece last, const Graph& graph, std::int64_t expected) {
  const Shape& shape = graph.shape_of(graph.output);
  if (expected != 0 && shape.elements() != expected) {
    line.fail(last.begin, "the model gives " + std::to_string(shape.elements()) + " outputs (" +
                              shape.text() + "), but the data needs " + std::to_string(expected));
  }
}

}  // namespace

Graph build_layers(const std::string& line_text, const Shape& input, std::int64_t outputs_expected,
                   LossKind loss) {
  if (line_text.size() > longest_line) {
    throw ConfigError("model.layers: the line has " + std::to_string(line_text.size()) + " bytes, at most " +
                      std::to_string(longest_line) + " are allowed; build larger models in C++");
  }
  const LayersText line(line_text);
  const std::vector<Piece> layers = line.layers();
  if (layers.empty())
    line.fail(0, "the line is empty; for example conv:32x3 relu maxpool:2 flatten dense:10");
  // The whole line is read before anything is built: a typo at its end is told before a shape at its
  // beginning.
  std::vector<OpAttrs> attrs;
  attrs.reserve(layers.size());
  for (const Piece& layer : layers) attrs.push_back(read_layer(line, layer));
  GraphBuilder builder("layers");
  ValueId x = builder.input(input);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    x = with_place(line, layers[i], i + 1, [&] { return builder.append(attrs[i], {x}); });
  }
  Graph graph = with_place(line, layers.back(), layers.size(), [&] { return builder.finish(x, loss); });
  if (graph.parameters.empty()) {
    line.fail(layers.back().begin, "the line has no conv, dense or bn layer, so there is nothing to train");
  }
  check_outputs(line, layers.back(), graph, outputs_expected);
  return graph;
}

std::map<std::string, std::vector<std::string>> layer_options() {
  std::map<std::string, std::vector<std::string>> options;
  for (const OpEntry* entry : layers()) options[entry->name] = entry->layer.options;
  return options;
}

std::vector<std::string> layer_examples() {
  std::vector<std::string> examples;
  for (const OpEntry* entry : layers()) examples.emplace_back(entry->layer.example);
  return examples;
}

}  // namespace lockstep
