#include "model/plan/init.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/numerics/philox.h"
#include "model/ops/activation/relu.h"
#include "model/ops/norm/batch_norm.h"

namespace lockstep {

namespace {

template <class Op>
const OpNode* consumer_of(const Graph& graph, ValueId value) {
  for (const OpNode& node : graph.nodes) {
    const bool takes = std::find(node.inputs.begin(), node.inputs.end(), value) != node.inputs.end();
    if (takes && node.attrs.is<Op>()) return &node;
  }
  return nullptr;
}

bool before_relu(const Graph& graph, std::size_t parameter) {
  for (const OpNode& node : graph.nodes) {
    if (std::find(node.parameters.begin(), node.parameters.end(), static_cast<int>(parameter)) ==
        node.parameters.end()) {
      continue;
    }
    if (consumer_of<ReluAttrs>(graph, node.output) != nullptr) return true;
    const OpNode* norm = consumer_of<BatchNormAttrs>(graph, node.output);
    return norm != nullptr && consumer_of<ReluAttrs>(graph, norm->output) != nullptr;
  }
  return false;
}

void draw_uniform(PhiloxKey key, double bound, std::span<float> out) {
  PhiloxBlock block{};
  for (std::size_t e = 0; e < out.size(); ++e) {
    if (e % 4 == 0) block = random_block(key, 0, e / 4);
    out[e] = static_cast<float>((2.0 * uniform_open(block.v[e % 4]) - 1.0) * bound);
  }
}

void draw_normal(PhiloxKey key, double deviation, std::span<float> out) {
  PhiloxBlock block{};
  for (std::size_t e = 0; e < out.size(); ++e) {
    if (e % 2 == 0) block = random_block(key, 0, e / 2);
    const double u = uniform_open(block.v[e % 2 * 2]);
    const double v = uniform_open(block.v[e % 2 * 2 + 1]);
    out[e] =
        static_cast<float>(deviation * std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
  }
}

}  // namespace

void initialise_plain(const Graph& graph, std::size_t parameter, std::uint64_t seed, std::span<float> out) {
  require(parameter < graph.parameters.size(), "initialise_plain: no such parameter");
  const Parameter& p = graph.parameters[parameter];
  require(static_cast<std::int64_t>(out.size()) == p.shape.elements(),
          "initialise_plain: the buffer has another size");
  const PhiloxKey key = random_key(seed, Purpose::init, 0, static_cast<std::uint32_t>(parameter));
  const auto fan_in = static_cast<double>(p.fan_in);
  switch (p.init) {
    case InitKind::zeros:
      std::fill(out.begin(), out.end(), 0.0f);
      return;
    case InitKind::ones:
      std::fill(out.begin(), out.end(), 1.0f);
      return;
    case InitKind::kaiming_uniform: {
      const double gain = before_relu(graph, parameter) ? std::sqrt(2.0) : 1.0;
      draw_uniform(key, gain * std::sqrt(3.0 / fan_in), out);
      return;
    }
    case InitKind::kaiming_normal_fan_out:
      draw_normal(key, std::sqrt(2.0 / static_cast<double>(p.fan_out)), out);
      return;
    case InitKind::torch_linear:
      draw_uniform(key, 1.0 / std::sqrt(fan_in), out);
      return;
  }
  throw InternalError("initialise_plain: unknown kind of initial values");
}

}  // namespace lockstep
