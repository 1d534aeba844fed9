#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/graph/graph.h"

namespace lockstep {

/// (all) The sequential model that a line of layers describes: "conv:32x3 relu maxpool:2 flatten dense:10".
///
///   conv:OUTxK or conv:OUTxKHxKW   then ,stride=S ,pad=P ,groups=G ,bias=0 in any order
///   dense:N                        then ,bias=0
///   maxpool:K or maxpool:KHxKW     then ,stride=S (default: K) ,pad=P; avgpool alike, padding not counted
///   gap                            global average pool: (C, H, W) -> (C, 1, 1); put flatten after it
///   bn                             or bn:eps=1e-3,momentum=0.01
///   dropout:RATE                   relu   gelu   flatten   softmax
///
/// S and P are one number, or HxW. Layers are separated by blanks; there are none inside a layer. Layers are
/// named after their op and its ordinal: conv1, conv2, dense1. Weights and biases start as PyTorch's do
/// (InitKind::torch_linear), so that a model here begins like the same model there.
///
/// `outputs_expected`: how many outputs the data needs (classes, or targets); 0 where unknown.
/// Throws ConfigError whose text holds the line and, under it, a caret under the character that is wrong: for
/// an unknown layer or option (with the nearest known one), a number that is missing, too large or of the
/// wrong form, a shape that does not fit (with the layer and both shapes), a wrong count of outputs, a line
/// without any weights. Where the line is long, the text holds the part around the caret. A character of the
/// caret line is a Unicode code point.
Graph build_layers(const std::string& line, const Shape& input, std::int64_t outputs_expected,
                   const OpAttrs& loss);

/// The options of each kind of layer, by its name in the line. docs/layers.md describes them all.
std::map<std::string, std::vector<std::string>> layer_options();

/// One example of each layer, for help texts: "conv:32x3,stride=2,pad=1,groups=1,bias=0", ...
std::vector<std::string> layer_examples();

}  // namespace lockstep
