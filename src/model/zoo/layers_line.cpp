#include "model/zoo/layers_line.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"

namespace lockstep {

namespace {

constexpr std::string_view blanks = " \t\r\n\f\v";
constexpr std::size_t longest_line = 65536;                     // bytes
constexpr std::size_t longest_excerpt = 60;                     // code points on either side of the caret
constexpr std::int64_t largest_number = std::int64_t{1} << 40;  // as many elements as a tensor may have

/// A piece of the line.
struct Piece {
  std::string_view text;
  std::size_t begin = 0;  // byte in the line
  std::size_t end() const { return begin + text.size(); }
};

/// The code point that begins at text[i]: its length in bytes, 0 where the bytes are not UTF-8 or not
/// printable.
std::size_t printable_length(std::string_view text, std::size_t i) {
  const auto lead = static_cast<unsigned char>(text[i]);
  if (lead < 0x80) return lead >= 0x20 && lead != 0x7f ? 1 : 0;
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || i + length > text.size()) return 0;
  for (std::size_t k = 1; k < length; ++k) {
    if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return 0;
  }
  return length;
}

/// The code points of `text`; what cannot be shown becomes '?' or an escape, and any blank a space.
std::vector<std::string> shown(std::string_view text) {
  std::vector<std::string> points;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = printable_length(text, i);
    if (blanks.find(text[i]) != std::string_view::npos) {
      points.emplace_back(" ");
    } else {
      points.push_back(length == 0 ? "?" : printable(text.substr(i, length)));
    }
    i += std::max<std::size_t>(length, 1);
  }
  return points;
}

std::string quoted(std::string_view text) {
  const std::vector<std::string> points = shown(text);
  std::string out = "'";
  for (std::size_t i = 0; i < points.size() && i < longest_excerpt; ++i) out += points[i];
  return out + (points.size() > longest_excerpt ? "...'" : "'");
}

/// The line, for messages.
class Line {
 public:
  explicit Line(std::string_view text) : text_(text) {}

  std::vector<Piece> layers() const {
    std::vector<Piece> found;
    for (std::size_t i = text_.find_first_not_of(blanks); i != std::string_view::npos;) {
      const std::size_t end = std::min(text_.find_first_of(blanks, i), text_.size());
      found.push_back({text_.substr(i, end - i), i});
      i = text_.find_first_not_of(blanks, end);
    }
    return found;
  }

  /// Throws ConfigError: `message`, the line, and a caret under byte `at` (the end of the line is allowed).
  [[noreturn]] void fail(std::size_t at, const std::string& message) const {
    const std::vector<std::string> points = shown(text_);
    const std::size_t caret = shown(text_.substr(0, at)).size();
    const std::size_t first = caret > longest_excerpt ? caret - longest_excerpt : 0;
    const std::size_t last = std::min(points.size(), caret + longest_excerpt);
    std::string excerpt = first > 0 ? "..." : "";
    std::size_t indent = 0;
    for (std::size_t i = first; i < last; ++i) {
      if (i == caret) indent = display_width(excerpt);
      excerpt += points[i];
    }
    if (caret >= last) indent = display_width(excerpt);
    if (last < points.size()) excerpt += "...";
    throw ConfigError("model.layers: " + message + " (character " + std::to_string(caret + 1) + ")\n  " +
                      excerpt + "\n  " + std::string(indent, ' ') + "^");
  }

  /// The code point at byte `at`, quoted.
  std::string character(std::size_t at) const {
    return quoted(text_.substr(at, std::max<std::size_t>(1, printable_length(text_, at))));
  }

 private:
  std::string_view text_;
};

/// The pieces between separators.
std::vector<Piece> split_piece(Piece piece, char separator) {
  std::vector<Piece> parts;
  for (const std::string_view text : split(piece.text, separator)) {
    parts.push_back({text, piece.begin + static_cast<std::size_t>(text.data() - piece.text.data())});
  }
  return parts;
}

std::string joined(std::span<const std::string> words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

/// ", did you mean 'conv'?" or "; known: conv, dense".
std::string hint(std::string_view word, std::span<const std::string> known) {
  if (const auto nearest = nearest_word(word, known)) return ", did you mean '" + *nearest + "'?";
  return "; known: " + joined(known);
}

/// A whole number in [low, largest_number], digits only.
std::int64_t read_number(const Line& line, Piece piece, std::int64_t low) {
  if (piece.text.empty()) line.fail(piece.begin, "a whole number is missing");
  const std::size_t odd = piece.text.find_first_not_of("0123456789");
  if (odd != std::string_view::npos) {
    line.fail(piece.begin + odd,
              "unexpected " + line.character(piece.begin + odd) + " where a whole number is expected");
  }
  const std::optional<std::int64_t> value = parse_int64(piece.text);
  if (!value || *value > largest_number) {
    line.fail(piece.begin, quoted(piece.text) + " is too large; at most " + std::to_string(largest_number));
  }
  if (*value < low) line.fail(piece.begin, quoted(piece.text) + " must be at least " + std::to_string(low));
  return *value;
}

/// Between `fewest` and `most` whole numbers joined by 'x'.
std::vector<std::int64_t> read_numbers(const Line& line, Piece piece, std::int64_t low, std::size_t fewest,
                                       std::size_t most, const std::string& form) {
  const std::vector<Piece> parts = split_piece(piece, 'x');
  std::vector<std::int64_t> numbers;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i == most) line.fail(parts[i].begin, "one number too many; the form is " + form);
    numbers.push_back(read_number(line, parts[i], low));
  }
  if (numbers.size() < fewest) line.fail(piece.end(), "a number is missing; the form is " + form);
  return numbers;
}

double read_real(const Line& line, Piece piece, bool (*allowed)(double), const std::string& range) {
  const DecimalText read = read_decimal(piece.text);
  if (read.kind == DecimalText::Kind::no_number)
    line.fail(piece.begin, quoted(piece.text) + " is not a number");
  if (read.kind == DecimalText::Kind::too_small)
    line.fail(piece.begin, quoted(piece.text) + " is too small for a number of 64 bits");
  if (read.kind == DecimalText::Kind::too_large)
    line.fail(piece.begin, quoted(piece.text) + " is too large for a number of 64 bits");
  if (!allowed(read.value))
    line.fail(piece.begin, quoted(piece.text) + " is out of range; it must be " + range);
  return read.value;
}

/// What follows the colon of one layer, split but not yet read.
struct Arguments {
  const Line* line = nullptr;
  Piece numbers;  // the part before the first option
  std::vector<std::pair<Piece, Piece>> options;

  const Piece* option(std::string_view name) const {
    for (const auto& [key, value] : options) {
      if (key.text == name) return &value;
    }
    return nullptr;
  }
  /// (height, width) from "2" or "2x1".
  std::pair<std::int64_t, std::int64_t> both(std::string_view name, std::int64_t low,
                                             std::pair<std::int64_t, std::int64_t> otherwise) const {
    const Piece* value = option(name);
    if (value == nullptr) return otherwise;
    const auto n =
        read_numbers(*line, *value, low, 1, 2, std::string(name) + "=N or " + std::string(name) + "=HxW");
    return {n.front(), n.back()};
  }
  bool bias() const {
    const Piece* value = option("bias");
    if (value == nullptr) return true;
    if (value->text != "0" && value->text != "1") line->fail(value->begin, "bias must be 0 or 1");
    return value->text == "1";
  }
};

OpAttrs read_conv(const Arguments& a) {
  const auto n = read_numbers(*a.line, a.numbers, 1, 2, 3, "conv:OUTxK or conv:OUTxKHxKW");
  Conv2dAttrs attrs;
  attrs.out_channels = n[0];
  attrs.kernel_h = n[1];
  attrs.kernel_w = n.back();
  std::tie(attrs.stride_h, attrs.stride_w) = a.both("stride", 1, {1, 1});
  std::tie(attrs.pad_h, attrs.pad_w) = a.both("pad", 0, {0, 0});
  if (const Piece* groups = a.option("groups")) attrs.groups = read_number(*a.line, *groups, 1);
  attrs.bias = a.bias();
  return attrs;
}

OpAttrs read_dense(const Arguments& a) {
  return DenseAttrs{read_numbers(*a.line, a.numbers, 1, 1, 1, "dense:N")[0], a.bias()};
}

template <class Attrs>
OpAttrs read_pool(const Arguments& a) {
  const auto n = read_numbers(*a.line, a.numbers, 1, 1, 2, "a pool's K or KHxKW");
  const auto [stride_h, stride_w] = a.both("stride", 1, {n.front(), n.back()});
  const auto [pad_h, pad_w] = a.both("pad", 0, {0, 0});
  return Attrs{n.front(), n.back(), stride_h, stride_w, pad_h, pad_w};
}

OpAttrs read_batch_norm(const Arguments& a) {
  BatchNormAttrs attrs;
  if (const Piece* value = a.option("eps")) {
    attrs.epsilon = read_real(
        *a.line, *value, [](double v) { return v > 0 && v <= 1; }, "above 0 and at most 1");
  }
  if (const Piece* value = a.option("momentum")) {
    attrs.momentum = read_real(
        *a.line, *value, [](double v) { return v >= 0 && v <= 1; }, "between 0 and 1");
  }
  return attrs;
}

OpAttrs read_dropout(const Arguments& a) {
  return DropoutAttrs{read_real(
      *a.line, a.numbers, [](double v) { return v >= 0 && v < 1; }, "at least 0 and below 1")};
}

template <class Attrs>
OpAttrs read_plain(const Arguments&) {
  return Attrs{};
}

/// One kind of layer.
struct Rule {
  std::string name;
  std::string example;
  bool numbers;  // whether something must stand before the options
  std::vector<std::string> options;
  OpAttrs (*read)(const Arguments&);
};

const std::vector<Rule>& rules() {
  static const std::vector<Rule> table = {
      {"conv",
       "conv:32x3,stride=2,pad=1,groups=1,bias=0",
       true,
       {"stride", "pad", "groups", "bias"},
       read_conv},
      {"dense", "dense:10,bias=0", true, {"bias"}, read_dense},
      {"maxpool", "maxpool:2,stride=2,pad=0", true, {"stride", "pad"}, read_pool<MaxPoolAttrs>},
      {"avgpool", "avgpool:2,stride=2,pad=0", true, {"stride", "pad"}, read_pool<AvgPoolAttrs>},
      {"gap", "gap", false, {}, read_plain<GlobalAvgPoolAttrs>},
      {"bn", "bn:eps=1e-5,momentum=0.1", false, {"eps", "momentum"}, read_batch_norm},
      {"relu", "relu", false, {}, read_plain<ReluAttrs>},
      {"gelu", "gelu", false, {}, read_plain<GeluAttrs>},
      {"flatten", "flatten", false, {}, read_plain<FlattenAttrs>},
      {"dropout", "dropout:0.5", true, {}, read_dropout},
      {"softmax", "softmax", false, {}, read_plain<SoftmaxAttrs>}};
  return table;
}

const Rule& find_rule(const Line& line, Piece name) {
  std::vector<std::string> known;
  for (const Rule& rule : rules()) {
    if (rule.name == name.text) return rule;
    known.push_back(rule.name);
  }
  line.fail(name.begin, "unknown layer " + quoted(name.text) + hint(name.text, known));
}

void read_option(const Line& line, const Rule& rule, Piece part, Arguments& arguments) {
  const std::string example = "; for example " + rule.example;
  if (part.text.empty())
    line.fail(part.begin, "an option is missing here (no blanks inside a layer)" + example);
  const std::size_t equals = part.text.find('=');
  const Piece key{part.text.substr(0, equals), part.begin};
  if (std::find(rule.options.begin(), rule.options.end(), key.text) == rule.options.end()) {
    if (rule.options.empty()) line.fail(part.begin, "unexpected " + quoted(part.text) + example);
    line.fail(part.begin, rule.name + " has no option " + quoted(key.text) + hint(key.text, rule.options));
  }
  if (equals == std::string_view::npos) {
    line.fail(part.end(),
              "option " + quoted(key.text) + " has no value; write " + std::string(key.text) + "=...");
  }
  if (arguments.option(key.text) != nullptr)
    line.fail(part.begin, "option " + quoted(key.text) + " is given twice");
  arguments.options.push_back({key, Piece{part.text.substr(equals + 1), part.begin + equals + 1}});
}

OpAttrs read_layer(const Line& line, Piece layer) {
  const std::size_t colon = layer.text.find(':');
  const Piece name{layer.text.substr(0, colon), layer.begin};
  const Rule& rule = find_rule(line, name);
  Arguments arguments{&line, {}, {}};
  std::vector<Piece> parts;
  if (colon != std::string_view::npos) {
    parts = split_piece(Piece{layer.text.substr(colon + 1), layer.begin + colon + 1}, ',');
  }
  if (rule.numbers) {
    if (parts.empty() || parts[0].text.empty()) {
      line.fail(parts.empty() ? layer.end() : parts[0].begin,
                rule.name + " needs a number here; for example " + rule.example);
    }
    arguments.numbers = parts[0];
    parts.erase(parts.begin());
  }
  for (const Piece& part : parts) read_option(line, rule, part, arguments);
  return rule.read(arguments);
}

template <class... Fns>
struct Overloaded : Fns... {
  using Fns::operator()...;
};
template <class... Fns>
Overloaded(Fns...) -> Overloaded<Fns...>;

ValueId append(GraphBuilder& builder, ValueId x, const OpAttrs& attrs) {
  return std::visit(
      Overloaded{[&](const Conv2dAttrs& a) { return builder.conv2d(x, a); },
                 [&](const DenseAttrs& a) { return builder.dense(x, a); },
                 [&](const MaxPoolAttrs& a) { return builder.max_pool(x, a); },
                 [&](const AvgPoolAttrs& a) { return builder.avg_pool(x, a); },
                 [&](const GlobalAvgPoolAttrs&) { return builder.global_avg_pool(x); },
                 [&](const BatchNormAttrs& a) { return builder.batch_norm(x, a); },
                 [&](const ReluAttrs&) { return builder.relu(x); },
                 [&](const GeluAttrs&) { return builder.gelu(x); },
                 [&](const AddAttrs&) -> ValueId { throw InternalError("a line of layers holds no add"); },
                 [&](const FlattenAttrs&) { return builder.flatten(x); },
                 [&](const DropoutAttrs& a) { return builder.dropout(x, a); },
                 [&](const SoftmaxAttrs&) { return builder.softmax(x); }},
      attrs);
}

/// Runs `build`; what it refuses is told with the place in the line.
template <class Build>
auto with_place(const Line& line, Piece layer, std::size_t ordinal, Build build) {
  try {
    return build();
  } catch (const ConfigError& error) {
    line.fail(layer.begin, std::string(error.what()) + ": layer " + std::to_string(ordinal) +
                               " of the line, " + quoted(layer.text));
  }
}

void check_outputs(const Line& line, Piece last, const Graph& graph, std::int64_t expected) {
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
  const Line line(line_text);
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
    x = with_place(line, layers[i], i + 1, [&] { return append(builder, x, attrs[i]); });
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
  for (const Rule& rule : rules()) options[rule.name] = rule.options;
  return options;
}

std::vector<std::string> layer_examples() {
  std::vector<std::string> examples;
  for (const Rule& rule : rules()) examples.push_back(rule.example);
  return examples;
}

}  // namespace lockstep
