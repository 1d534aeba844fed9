#include "trainer/evaluate/best.h"

#include <cmath>
#include <fmt/format.h>

namespace lockstep {
namespace {

double value_of(const Evaluation& now, const std::string& metric) {
  return metric == "accuracy" ? now.accuracy : -now.loss;
}

}  // namespace

std::string best_metric_name(const Config& config, bool classes) {
  if (config.train.best != "auto") return config.train.best;
  return classes ? "accuracy" : "loss";
}

bool is_better(const Evaluation& now, const std::string& metric, const BestValidation& best) {
  const double value = value_of(now, metric);
  if (!std::isfinite(value) || !std::isfinite(now.loss)) return false;
  if (!best.metric || value > *best.metric) return true;
  return value == *best.metric && best.loss && now.loss < *best.loss;
}

BestValidation best_of(const Evaluation& now, const std::string& metric, std::int64_t step) {
  return {value_of(now, metric), now.loss, step, metric};
}

std::string best_text(const BestValidation& best, const std::string& metric) {
  if (!best.metric) return "none";
  if (metric == "loss") return fmt::format("loss {:.4f}", -*best.metric);
  return fmt::format("accuracy {:.4f}", *best.metric) +
         (best.loss ? fmt::format(", loss {:.4f}", *best.loss) : "");
}

}  // namespace lockstep
