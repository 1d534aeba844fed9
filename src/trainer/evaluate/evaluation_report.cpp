#include "trainer/evaluate/evaluation_report.h"

#include <cmath>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/counted.h"
#include "core/error.h"
#include "core/printable.h"
#include "trainer/evaluate/classification_report.h"

namespace lockstep {
namespace {

constexpr std::size_t most_targets_told = 60;

/// Four decimals where that is short, else five digits.
std::string loss_text(double loss) {
  return std::abs(loss) < 1e6 ? fmt::format("{:.4f}", loss) : fmt::format("{:.4e}", loss);
}

std::string score_text(const TargetScore& s) {
  return fmt::format("MAE {:.6g}, RMSE {:.6g}, R2 {:.4f}", s.mae, s.rmse, s.r2);
}

std::string regression_text(const Evaluation& evaluation, const DataInfo& info) {
  const std::vector<TargetScore>& targets = evaluation.targets;
  const TargetScore all = mean_of(targets);
  std::string text = ", " + score_text(all) + "\n";
  if (info.normalizer.scales_targets())
    text += "  (the loss is of scaled targets; MAE and RMSE are in the units of the data)\n";
  if (targets.size() > 1) {
    TextTable table({"target", "MAE", "RMSE", "R2"}, 40);
    for (std::size_t k = 0; k < std::min(targets.size(), most_targets_told); ++k)
      table.add({info.target_name(static_cast<std::int64_t>(k)), fmt::format("{:.6g}", targets[k].mae),
                 fmt::format("{:.6g}", targets[k].rmse), fmt::format("{:.4f}", targets[k].r2)});
    text += table.text("  ");
    if (targets.size() > most_targets_told)
      text += fmt::format("  … and {} more\n", targets.size() - most_targets_told);
  }
  if (all.constant)
    text += "  (all targets are equal: R2 counts as 1 where each is met exactly, else as 0)\n";
  return text;
}

}  // namespace

std::string evaluation_text(const Evaluation& evaluation, const DataInfo& info, const std::string& split,
                            const std::string& elsewhere) {
  require(evaluation.finite(), "an evaluation without scores has no report");
  std::string text = fmt::format("{}: {}, loss {}", split, counted(evaluation.samples, "sample"),
                                 loss_text(evaluation.loss));
  if (info.classes <= 0) return text + regression_text(evaluation, info);
  text += fmt::format(", accuracy {:.4f}\n", evaluation.accuracy);
  const ConfusionMatrix matrix(info.classes, evaluation.confusion);
  return text + report_text(matrix, info.class_names, elsewhere) +
         confusion_text(matrix, info.class_names, 20, elsewhere);
}

std::string evaluation_json(const Evaluation& evaluation, const DataInfo& info,
                            const EvaluationSource& source) {
  using Json = nlohmann::ordered_json;
  require(evaluation.finite(), "an evaluation without scores has no report");
  Json out{{"run", source.run},      {"weights", source.weights}, {"weights_digest", source.digest},
           {"split", source.split},  {"data", source.data},       {"samples", evaluation.samples},
           {"loss", evaluation.loss}};
  if (info.classes > 0) {
    const ConfusionMatrix matrix(info.classes, evaluation.confusion);
    out.update(Json::parse(report_json(matrix, info.class_names)));
  } else {
    const TargetScore all = mean_of(evaluation.targets);
    out["scaled_targets"] = info.normalizer.scales_targets();
    out["mae"] = all.mae;
    out["rmse"] = all.rmse;
    out["r2"] = all.r2;
    out["targets"] = Json::array();
    for (std::size_t k = 0; k < evaluation.targets.size(); ++k) {
      const TargetScore& s = evaluation.targets[k];
      out["targets"].push_back({{"name", info.target_name(static_cast<std::int64_t>(k))},
                                {"mae", s.mae},
                                {"rmse", s.rmse},
                                {"r2", s.r2},
                                {"constant", s.constant}});
    }
  }
  // A path need not be UTF-8.
  return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace lockstep
