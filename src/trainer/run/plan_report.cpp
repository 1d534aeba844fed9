#include "trainer/run/plan_report.h"

#include <algorithm>
#include <fmt/format.h>

#include "core/counted.h"
#include "core/text.h"

namespace lockstep {

std::string plan_text(const Graph& graph, const Config& config, const Executor& executor,
                      const GradientSync& sync, const Optimizer& optimizer, int ranks,
                      const EpochOrder& order, std::int64_t steps) {
  const PlanReport report = executor.report();
  std::size_t layer = 5, op = 2, shape = 6, kernel = 6;
  std::int64_t parameters = 0, flops = 0;
  for (const OpReport& row : report.ops) {
    layer = std::max(layer, row.layer.size());
    op = std::max(op, row.op.size());
    shape = std::max(shape, row.output.text().size());
    kernel = std::max(kernel, row.kernel.size());
    parameters += row.parameters;
    flops += row.flops;
  }
  std::string text = fmt::format("model {}: input {}, precision {}\n", graph.name,
                                 graph.shape_of(graph.inputs[0]).text(), config.train.precision);
  text += fmt::format("{:<{}}  {:<{}}  {:<{}}  {:>12}  {:>14}  {}\n", "layer", layer, "op", op, "output",
                      shape, "parameters", "FLOPs a sample", "kernel");
  for (const OpReport& row : report.ops)
    text += fmt::format("{:<{}}  {:<{}}  {:<{}}  {:>12}  {:>14}  {}\n", row.layer, layer, row.op, op,
                        row.output.text(), shape, row.parameters, row.flops, row.kernel);
  text += fmt::format("{:<{}}  {:<{}}  {:<{}}  {:>12}  {:>14}\n", "total", layer, "", op, "", shape,
                      parameters, flops);

  const auto bytes = [](std::int64_t n) { return human_bytes(static_cast<std::uint64_t>(n)); };
  const std::int64_t flat = executor.layout().elements * static_cast<std::int64_t>(sizeof(float));
  const auto subtrees = static_cast<std::int64_t>(sync.subtrees().size());
  const std::int64_t state = optimizer.state_elements() * static_cast<std::int64_t>(sizeof(float)) *
                             static_cast<std::int64_t>(optimizer.state_names().size());
  text +=
      fmt::format("batches: {} an epoch, {} a batch, {} of {}; {} an epoch, {} in all\n",
                  counted(order.samples(), "sample"), order.global_batch(), counted(order.slices(), "slice"),
                  order.rows_per_slice(), counted(order.batches_per_epoch(), "step"), steps);
  text += fmt::format(
      "memory of rank 0: parameters {}, gradients {} ({}, and {} of private slots), optimizer "
      "state {}, "
      "activations {} ({} at once), kernels' weights {}\n",
      bytes(flat), bytes(flat * subtrees + static_cast<std::int64_t>(report.gradient_bytes)),
      counted(subtrees, "subtree sum"), human_bytes(report.gradient_bytes), bytes(state),
      human_bytes(report.arena_bytes * static_cast<std::size_t>(report.contexts)),
      counted(report.contexts, "slice"), human_bytes(report.prepared_bytes));
  const GradientSync::Traffic traffic = sync.traffic();
  text += fmt::format("gradient: {} in {} of {} at most, reduction {}, overlap {}, optimizer {}\n",
                      bytes(flat), counted(static_cast<std::int64_t>(sync.buckets()), "bucket"),
                      bytes(sync.bucket(0).size() * static_cast<std::int64_t>(sizeof(float))),
                      config.train.reduction, config.train.overlap ? "on" : "off",
                      config.optimizer.sharded ? "sharded" : "replicated");
  text += fmt::format(
      "a step on {}: rank 0 sends {} to other hosts and reads {} in shared memory; k = {} a rank at most\n",
      counted(ranks, "rank"), bytes(traffic.sent_bytes), bytes(traffic.window_bytes),
      counted(traffic.subtrees, "subtree sum"));
  return text;
}

std::map<std::string, std::string> model_metadata(const Graph& graph, std::int64_t steps, bool any_fast) {
  return {{"format", "pt"},
          {"producer", "lockstep"},
          {"model", graph.name},
          {"steps", std::to_string(steps)},
          {"reduction", any_fast ? "fast" : "ordered"}};
}

}  // namespace lockstep
