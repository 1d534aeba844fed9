#include "model/ops/random/dropout.h"

#include "core/error.h"
#include "core/numerics/philox.h"
#include "model/graph/op_support.h"

namespace lockstep::ops {

namespace {

Shape infer(const OpAttrs& attrs, const std::vector<Shape>& inputs, const std::string& layer) {
  require(inputs.size() == 1, "dropout takes one input");
  const double rate = attrs.as<DropoutAttrs>().rate;
  // Written so that NaN fails as well.
  if (!(rate >= 0 && rate < 1)) refuse(layer, "the dropout rate must be at least 0 and below 1");
  return inputs[0];
}

std::int64_t flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return inputs[0].elements();
}

/// Calls fn(element, factor) for every element of the batch: 1 / (1 - rate) where kept, else 0.
template <class Fn>
void for_each_factor(const OpNode& node, const Graph& graph, const ReferenceContext& ctx, Fn fn) {
  const double rate = node.attrs.as<DropoutAttrs>().rate;
  const std::int64_t elements = graph.shape_of(node.output).elements();
  const PhiloxKey key = random_key(ctx.seed, Purpose::dropout, ctx.step, ctx.node);
  require(!ctx.training || ctx.samples.size() == at(ctx.rows), "dropout needs the sample index of every row");
  for (std::int64_t n = 0; n < ctx.rows; ++n) {
    for (std::int64_t e = 0; e < elements; ++e) {
      double factor = 1;
      if (ctx.training) {
        const auto sample = static_cast<std::uint64_t>(ctx.samples[at(n)]);
        const PhiloxBlock block = random_block(key, sample, static_cast<std::uint64_t>(e / 4));
        factor = uniform01(block.v[e % 4]) >= rate ? 1.0 / (1.0 - rate) : 0.0;
      }
      fn(at(n * elements + e), factor);
    }
  }
}

void forward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
             const std::vector<const Tensor64*>& inputs, const std::vector<const Tensor64*>&,
             const std::vector<const Tensor64*>&, Tensor64& output, std::vector<Tensor64>&) {
  output.assign(inputs[0]->size(), 0.0);
  for_each_factor(node, graph, ctx, [&](std::size_t e, double factor) {
    output[e] = factor == 0 ? 0.0 : factor * (*inputs[0])[e];
  });
}

void backward(const OpNode& node, const Graph& graph, const ReferenceContext& ctx,
              const std::vector<const Tensor64*>&, const std::vector<const Tensor64*>&, const Tensor64&,
              const Tensor64& diff_output, const std::vector<Tensor64*>& diff_inputs,
              const std::vector<Tensor64*>&) {
  if (diff_inputs[0] == nullptr) return;
  for_each_factor(node, graph, ctx,
                  [&](std::size_t e, double factor) { (*diff_inputs[0])[e] += factor * diff_output[e]; });
}

OpAttrs read(const LayerArguments& a) {
  return DropoutAttrs{a.real([](double v) { return v >= 0 && v < 1; }, "at least 0 and below 1")};
}

std::vector<OpExample> examples() {
  return {{DropoutAttrs{0.5}, {{33}}}, {DropoutAttrs{0.25}, {{16, 3, 5}}}, {DropoutAttrs{0}, {{5}}}};
}

}  // namespace

const OpEntry& dropout_op() {
  static const OpEntry entry = {.name = "dropout",
                                .traits = {.layout = OpTraits::Layout::follows,
                                           .mixes_rows = false,
                                           .zero_rows = OpTraits::ZeroRows::made,
                                           .independent = true,
                                           .random = true,
                                           .keeps_padding = true},
                                .infer = infer,
                                .flops = flops,
                                .forward = forward,
                                .backward = backward,
                                .length = same_length,
                                .layer = {"dropout:0.5", true, {}, read},
                                .examples = examples};
  return entry;
}

}  // namespace lockstep::ops
