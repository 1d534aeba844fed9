#include "model/cpu/slice_loss.h"

#include "core/error.h"
#include "model/graph/op_table.h"

namespace lockstep::cpu {

SliceResult slice_loss(const Plan& plan, const Graph& graph, const TaskContext& ctx) {
  const Batch& batch = *ctx.batch;
  SliceResult result;
  if (batch.field(static_cast<std::size_t>(graph.loss.fields.at(0))).empty()) {
    require(!plan.training, "train: a slice lacks the field that the loss takes");
    result.weight = static_cast<double>(batch.valid);
    return result;
  }
  plan.loss.kernel->forward(0, 0, plan.loss.at, ctx);
  const auto* rows = reinterpret_cast<const LossSums*>(ctx.arena + plan.loss.at.saved);
  for (std::int64_t r = 0; r < batch.valid; ++r) {
    result.loss += rows[r].loss;
    result.correct += rows[r].correct;
    result.weight += rows[r].weight;
    result.counted += rows[r].counted;
  }
  return result;
}

}  // namespace lockstep::cpu
