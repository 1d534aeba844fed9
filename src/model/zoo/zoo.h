#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/graph/graph.h"

namespace lockstep {

struct ZooOption {
  std::string name;  ///< after "model.", e.g. "hidden"
  std::string default_text;
  std::string help;  ///< one line
};
struct ZooEntry {
  std::string name;  ///< a value of model.name
  std::string help;  ///< one line
  std::vector<ZooOption> options;
};

/// The models that model.name knows, for help texts and for the keys that a config may hold.
std::vector<ZooEntry> zoo_entries();

/// (all) The zoo model `name` for samples of shape `input` and `outputs` outputs (classes or targets, at
/// least 1).
///   mlp       flatten, then per width of `hidden` dense, relu (and dropout), then dense. Layers dense1,
///   relu1, ... lenet     LeNet-5 (LeCun et al. 1998) as it is written today: ReLU, max pool. Layers conv1,
///   conv2, fc1, fc2, fc3. resnet18  He et al. 2016, the form for small images: 3x3 stem with stride 1, no
///   first pool. Names and initial values
///             of convolutions (normal, fan out) as in torchvision: conv1, bn1, layer1.0.conv1, ..., fc.
///   resnet50  the same authors' bottleneck net in its version 1.5 (the 3x3 convolution of a block has the
///             stride), 7x7 stem and first pool, names and initial values as in torchvision; with zero_gamma
///             the last batch norm of each block starts at 0 (Goyal et al. 2017, section 5.1).
/// Options are text by name; those not given take their default. Throws ConfigError for an unknown model or
/// option (with the nearest known one), a value that does not parse or is out of range, and an input that
/// does not fit.
Graph build_model(const std::string& name, const std::map<std::string, std::string>& options,
                  const Shape& input, std::int64_t outputs, const OpAttrs& loss);

}  // namespace lockstep
