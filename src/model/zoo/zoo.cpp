#include "model/zoo/zoo.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/text.h"
#include "model/zoo/graph_builder.h"

namespace lockstep {

namespace {

using Options = std::map<std::string, std::string>;

constexpr std::int64_t widest = std::int64_t{1} << 30;
constexpr std::size_t most_hidden_layers = 1000;

[[noreturn]] void refuse_value(const std::string& option, const std::string& value,
                               const std::string& wanted) {
  throw ConfigError("model." + option + ": '" + value + "' must be " + wanted);
}

std::vector<std::int64_t> widths(const std::string& option, const std::string& value) {
  const std::string wanted = "whole numbers from 1 to 2^30 separated by commas, e.g. 2048,2048";
  std::vector<std::int64_t> found;
  for (const std::string_view field : split(value, ',')) {
    const std::optional<std::int64_t> width = parse_int64(trim(field));
    if (!width || *width < 1 || *width > widest) refuse_value(option, value, wanted);
    found.push_back(*width);
  }
  if (found.size() > most_hidden_layers)
    refuse_value(option, value.substr(0, 40) + "...", "at most 1000 widths");
  return found;
}

Graph build_mlp(const Options& options, const Shape& input, std::int64_t outputs, LossKind loss) {
  const std::vector<std::int64_t> hidden = widths("hidden", options.at("hidden"));
  const DecimalText read = read_decimal(options.at("dropout"));
  if (read.kind == DecimalText::Kind::too_small)
    refuse_value("dropout", options.at("dropout"), "0, or at least 4.9e-324: it is too small for 64 bits");
  const double rate = read.value;
  if (read.kind != DecimalText::Kind::number || rate < 0 || rate >= 1) {
    refuse_value("dropout", options.at("dropout"), "a number of at least 0 and below 1");
  }
  GraphBuilder b("mlp");
  ValueId x = b.input(input);
  if (input.rank() != 1) x = b.flatten(x);
  for (const std::int64_t width : hidden) {
    x = b.relu(b.dense(x, DenseAttrs{width, true}));
    if (rate > 0) x = b.dropout(x, DropoutAttrs{rate});
  }
  return b.finish(b.dense(x, DenseAttrs{outputs, true}), loss);
}

Graph build_lenet(const Options&, const Shape& input, std::int64_t outputs, LossKind loss) {
  GraphBuilder b("lenet");
  ValueId x = b.input(input);
  const MaxPoolAttrs pool{2, 2, 2, 2, 0, 0};
  Conv2dAttrs conv;
  conv.kernel_h = conv.kernel_w = 5;
  conv.out_channels = 6;
  conv.pad_h = conv.pad_w = 2;
  x = b.max_pool(b.relu(b.conv2d(x, conv, "conv1")), pool);
  conv.out_channels = 16;
  conv.pad_h = conv.pad_w = 0;
  x = b.max_pool(b.relu(b.conv2d(x, conv, "conv2")), pool);
  x = b.flatten(x);
  x = b.relu(b.dense(x, DenseAttrs{120, true}, "fc1"));
  x = b.relu(b.dense(x, DenseAttrs{84, true}, "fc2"));
  return b.finish(b.dense(x, DenseAttrs{outputs, true}, "fc3"), loss);
}

/// A square convolution of a ResNet: no bias, since a batch norm follows.
ValueId resnet_conv(GraphBuilder& b, ValueId x, std::int64_t channels, std::int64_t kernel,
                    std::int64_t stride, const std::string& name) {
  Conv2dAttrs attrs;
  attrs.out_channels = channels;
  attrs.kernel_h = attrs.kernel_w = kernel;
  attrs.stride_h = attrs.stride_w = stride;
  attrs.pad_h = attrs.pad_w = kernel / 2;
  attrs.bias = false;
  return b.conv2d(x, attrs, name, InitKind::kaiming_normal_fan_out);
}

/// Two 3x3 convolutions and the shortcut; a 1x1 convolution in the shortcut where the shape changes. The
/// shortcut comes first, so that the second batch norm, the sum and the ReLU stand side by side and can be
/// fused.
ValueId resnet_block(GraphBuilder& b, ValueId x, std::int64_t channels, std::int64_t stride,
                     const std::string& name) {
  ValueId shortcut = x;
  if (stride != 1 || b.shape_of(x)[0] != channels) {
    shortcut = resnet_conv(b, x, channels, 1, stride, name + ".downsample.0");
    shortcut = b.batch_norm(shortcut, {}, name + ".downsample.1");
  }
  ValueId y = resnet_conv(b, x, channels, 3, stride, name + ".conv1");
  y = b.relu(b.batch_norm(y, {}, name + ".bn1"), name + ".relu1");
  y = b.batch_norm(resnet_conv(b, y, channels, 3, 1, name + ".conv2"), {}, name + ".bn2");
  return b.relu(b.add(y, shortcut, name + ".add"), name + ".relu2");
}

std::int64_t resnet_width(const Options& options) {
  const std::optional<std::int64_t> width = parse_int64(options.at("width"));
  if (!width || *width < 1 || *width > 65536) {
    refuse_value("width", options.at("width"), "a whole number from 1 to 65536");
  }
  return *width;
}

Graph build_resnet18(const Options& options, const Shape& input, std::int64_t outputs, LossKind loss) {
  const std::int64_t width = resnet_width(options);
  GraphBuilder b("resnet18");
  ValueId x = resnet_conv(b, b.input(input), width, 3, 1, "conv1");
  x = b.relu(b.batch_norm(x, {}, "bn1"), "relu");
  for (std::int64_t stage = 0; stage < 4; ++stage) {
    const std::string name = "layer" + std::to_string(stage + 1);
    const std::int64_t channels = width << stage;
    x = resnet_block(b, x, channels, stage == 0 ? 1 : 2, name + ".0");
    x = resnet_block(b, x, channels, 1, name + ".1");
  }
  x = b.flatten(b.global_avg_pool(x, "avgpool"), "flatten");
  return b.finish(b.dense(x, DenseAttrs{outputs, true}, "fc"), loss);
}

/// A bottleneck: 1x1 down to `channels`, 3x3 with the stride (that is what version 1.5 means; He et al. 2016
/// have it in the first 1x1), 1x1 up to four times as many, and the shortcut.
ValueId resnet_bottleneck(GraphBuilder& b, ValueId x, std::int64_t channels, std::int64_t stride,
                          InitKind last_gamma, const std::string& name) {
  ValueId shortcut = x;
  if (stride != 1 || b.shape_of(x)[0] != 4 * channels) {
    shortcut = resnet_conv(b, x, 4 * channels, 1, stride, name + ".downsample.0");
    shortcut = b.batch_norm(shortcut, {}, name + ".downsample.1");
  }
  ValueId y = resnet_conv(b, x, channels, 1, 1, name + ".conv1");
  y = b.relu(b.batch_norm(y, {}, name + ".bn1"), name + ".relu1");
  y = resnet_conv(b, y, channels, 3, stride, name + ".conv2");
  y = b.relu(b.batch_norm(y, {}, name + ".bn2"), name + ".relu2");
  y = resnet_conv(b, y, 4 * channels, 1, 1, name + ".conv3");
  y = b.batch_norm(y, {}, name + ".bn3", last_gamma);
  return b.relu(b.add(y, shortcut, name + ".add"), name + ".relu3");
}

Graph build_resnet50(const Options& options, const Shape& input, std::int64_t outputs, LossKind loss) {
  const std::int64_t width = resnet_width(options);
  const std::optional<bool> zero_gamma = parse_bool(options.at("zero_gamma"));
  if (!zero_gamma) refuse_value("zero_gamma", options.at("zero_gamma"), "true or false");
  const InitKind last_gamma = *zero_gamma ? InitKind::zeros : InitKind::ones;
  constexpr std::int64_t blocks[] = {3, 4, 6, 3};
  GraphBuilder b("resnet50");
  ValueId x = resnet_conv(b, b.input(input), width, 7, 2, "conv1");
  x = b.relu(b.batch_norm(x, {}, "bn1"), "relu");
  x = b.max_pool(x, MaxPoolAttrs{3, 3, 2, 2, 1, 1}, "maxpool");
  for (std::int64_t stage = 0; stage < 4; ++stage) {
    for (std::int64_t i = 0; i < blocks[stage]; ++i) {
      const std::string name = "layer" + std::to_string(stage + 1) + "." + std::to_string(i);
      x = resnet_bottleneck(b, x, width << stage, stage > 0 && i == 0 ? 2 : 1, last_gamma, name);
    }
  }
  x = b.flatten(b.global_avg_pool(x, "avgpool"), "flatten");
  return b.finish(b.dense(x, DenseAttrs{outputs, true}, "fc"), loss);
}

struct ZooModel {
  ZooEntry entry;
  Graph (*build)(const Options&, const Shape&, std::int64_t, LossKind);
};

const std::vector<ZooModel>& zoo() {
  static const std::vector<ZooModel> models = {
      {{"mlp",
        "dense layers with ReLU",
        {{"hidden", "2048,2048", "widths of the hidden layers, separated by commas"},
         {"dropout", "0", "rate of dropout after each hidden layer"}}},
       build_mlp},
      {{"lenet", "LeNet-5 with ReLU and max pooling, for images of 28x28 and above", {}}, build_lenet},
      {{"resnet18",
        "ResNet-18 for small images (3x3 stem, no first pool)",
        {{"width", "64", "channels of the first stage"}}},
       build_resnet18},
      {{"resnet50",
        "ResNet-50 v1.5 (7x7 stem, bottlenecks), for images of 224x224 and others",
        {{"width", "64", "channels of the first stage"},
         {"zero_gamma", "true", "the last batch norm of a block starts at 0 (Goyal et al. 2017)"}}},
       build_resnet50}};
  return models;
}

/// ", did you mean 'mlp'?" or "; known: mlp, lenet".
std::string hint(const std::string& word, const std::vector<std::string>& known) {
  if (const auto nearest = nearest_word(word, known)) return ", did you mean '" + *nearest + "'?";
  std::string all;
  for (const std::string& k : known) all += (all.empty() ? "" : ", ") + k;
  return all.empty() ? "; it has none" : "; known: " + all;
}

const ZooModel& find_model(const std::string& name) {
  std::vector<std::string> known;
  for (const ZooModel& model : zoo()) {
    if (model.entry.name == name) return model;
    known.push_back(model.entry.name);
  }
  throw ConfigError("model.name: unknown model '" + name + "'" + hint(name, known));
}

Options with_defaults(const ZooEntry& entry, const Options& given) {
  Options all;
  std::vector<std::string> known;
  for (const ZooOption& option : entry.options) {
    all[option.name] = option.default_text;
    known.push_back(option.name);
  }
  for (const auto& [name, value] : given) {
    const auto found = all.find(name);
    if (found == all.end()) {
      throw ConfigError("model." + name + ": model '" + entry.name + "' has no such option" +
                        hint(name, known));
    }
    found->second = value;
  }
  return all;
}

}  // namespace

std::vector<ZooEntry> zoo_entries() {
  std::vector<ZooEntry> entries;
  for (const ZooModel& model : zoo()) entries.push_back(model.entry);
  return entries;
}

Graph build_model(const std::string& name, const std::map<std::string, std::string>& options,
                  const Shape& input, std::int64_t outputs, LossKind loss) {
  const ZooModel& model = find_model(name);
  const Options all = with_defaults(model.entry, options);
  if (outputs < 1) {
    throw ConfigError("model.name = " + name + ": the model needs at least one output, not " +
                      std::to_string(outputs));
  }
  try {
    return model.build(all, input, outputs, loss);
  } catch (const ConfigError& error) {
    const std::string what = error.what();
    if (what.starts_with("model.")) throw;
    throw ConfigError("model.name = " + name + " does not fit samples of shape " + input.text() + ": " +
                      what);
  }
}

}  // namespace lockstep
