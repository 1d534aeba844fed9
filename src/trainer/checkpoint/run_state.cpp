#include "trainer/checkpoint/run_state.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_number.h"

namespace lockstep {
namespace {

using nlohmann::json;

// Counts are added to and multiplied: none may come near the end of int64.
constexpr std::int64_t most_counted = std::int64_t{1} << 62;

std::int64_t count_of(const json& document, const char* key, std::int64_t least) {
  return json_integer(document, key, least, most_counted);
}

json to_json(const BestValidation& best) {
  if (!best.metric || best.step < 0) return nullptr;
  require(std::isfinite(*best.metric), "the best metric of a checkpoint is not finite");
  json d{{"metric", *best.metric}, {"step", best.step}};
  if (best.loss) {
    require(std::isfinite(*best.loss), "the best loss of a checkpoint is not finite");
    d["loss"] = *best.loss;
  }
  if (!best.name.empty()) d["name"] = best.name;
  return d;
}

BestValidation best_of(const json& d) {
  BestValidation best;
  if (d.is_null()) return best;
  best.metric = json_real(d, "metric");
  best.step = count_of(d, "step", 0);
  // Added within version 2.
  if (d.contains("loss")) best.loss = d.at("loss").get<double>();
  if (d.contains("name")) best.name = d.at("name").get<std::string>();
  return best;
}

json to_json(const LossScale& scale) {
  return {{"scale", scale.scale}, {"good_steps", scale.good_steps}, {"skipped", scale.skipped}};
}

LossScale loss_scale_of(const json& d) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  const LossScaleOptions bounds;
  const double factor = json_real(d, "scale");
  if (!(factor >= bounds.smallest && factor <= bounds.largest))
    throw JsonNumberError(
        fmt::format("'scale' is {}, but must be from {} to {}", factor, bounds.smallest, bounds.largest));
  LossScale scale;
  scale.scale = static_cast<float>(factor);
  scale.good_steps = static_cast<std::int32_t>(json_integer(d, "good_steps", 0, most));
  scale.skipped = static_cast<std::int32_t>(json_integer(d, "skipped", 0, most));
  return scale;
}

json to_json(const GuardState& guard) {
  json skipped = json::array();
  for (const SkippedBatch& b : guard.skipped)
    skipped.push_back({{"step", b.step + 1},
                       {"position", b.position},
                       {"epoch", b.epoch + 1},
                       {"reason", b.reason},
                       {"samples", b.samples}});
  json d{{"skipped", std::move(skipped)}};
  if (guard.losses) d["losses"] = *guard.losses;
  return d;
}

GuardState guard_of(const json& d) {
  if (!d.is_object()) throw JsonNumberError("the state of the guards is not an object");
  GuardState guard;
  if (d.contains("losses")) guard.losses = json_reals(d, "losses");
  if (const auto skipped = d.find("skipped"); skipped != d.end()) {
    for (const json& entry : *skipped) {
      SkippedBatch b;
      b.step = json_integer(entry, "step", 1) - 1;
      b.position = json_integer(entry, "position", 0);
      b.epoch = json_integer(entry, "epoch", 1) - 1;
      b.reason = entry.at("reason").get<std::string>();
      b.samples = json_integers(entry, "samples", 0);
      guard.skipped.push_back(std::move(b));
    }
  }
  return guard;
}

/// Anybody may have written it: what is no text is none.
std::string plan_of(const json& d, const char* key) {
  const auto found = d.find(key);
  return found != d.end() && found->is_string() ? found->get<std::string>() : std::string();
}

PlanChoices plans_of(const json& extra) {
  PlanChoices plans{plan_of(extra, "plan_choice"), plan_of(extra, "evaluation_plan_choice"), 0};
  const auto rows = extra.find("evaluation_rows");
  if (rows != extra.end() && rows->is_number_integer()) plans.evaluation_rows = rows->get<std::int64_t>();
  return plans;
}

json extra_of(const RunState& s) {
  require(std::isfinite(s.epoch_sums.loss), "the loss of an epoch in a checkpoint is not finite");
  json extra{{"epoch_loss", s.epoch_sums.loss},
             {"epoch_correct", s.epoch_sums.correct},
             {"epoch_weight", s.epoch_sums.weight},
             {"epoch_counted", s.epoch_sums.counted},
             {"guard", to_json(s.guard)},
             {"plan_choice", s.plans.training},
             {"evaluation_plan_choice", s.plans.evaluation},
             {"evaluation_rows", s.plans.evaluation_rows}};
  if (s.loss_scale) extra["loss_scale"] = to_json(*s.loss_scale);
  if (!s.preprocessing_sha256.empty()) extra["preprocessing_sha256"] = s.preprocessing_sha256;
  if (s.data) extra["data"] = json::parse(s.data->to_json());
  return extra;
}

void read_extra(const json& extra, RunState& s) {
  // Whoever looks for plans finds them, whatever else is wrong.
  s.plans = plans_of(extra);
  try {
    const auto sum = [&](const char* key) { return extra.contains(key) ? json_real(extra, key) : 0.0; };
    s.epoch_sums = {sum("epoch_loss"), sum("epoch_correct"), sum("epoch_weight"), 0};
    // Once every sample counted as one.
    s.epoch_sums.counted = extra.contains("epoch_counted") ? sum("epoch_counted") : s.epoch_sums.weight;
    if (const auto scale = extra.find("loss_scale"); scale != extra.end())
      s.loss_scale = loss_scale_of(*scale);
    s.preprocessing_sha256 = extra.value("preprocessing_sha256", "");
    if (const auto data = extra.find("data"); data != extra.end())
      s.data = DataRecord::from_json(data->dump(), "'data'");
    s.guard = guard_of(extra.value("guard", json::object()));
  } catch (const json::exception& e) {
    s.fault = json_fault(e);
  } catch (const JsonNumberError& e) {
    s.fault = e.what();
  } catch (const InputError& e) {
    s.fault = e.what();
  }
}

}  // namespace

std::optional<DataPosition> data_position(std::int64_t steps, std::int64_t samples, std::int64_t batch) {
  require(steps >= 0 && samples >= 1 && batch >= 1, "data_position: no steps, samples or batch");
  const std::int64_t batches = samples / batch + (samples % batch != 0 ? 1 : 0);
  DataPosition position{0, steps / batches};
  // Within an epoch the product is below samples, but for its last batch.
  const std::int64_t within = steps % batches * batch;
  if (__builtin_mul_overflow(position.epoch, samples, &position.samples) ||
      __builtin_add_overflow(position.samples, std::min(within, samples), &position.samples))
    return std::nullopt;
  return position;
}

json to_json(const RunState& s) {
  return {{"generation", s.generation}, {"step", s.step},         {"position", s.position},
          {"epoch", s.epoch},           {"slices", s.slices},     {"horizon", s.horizon},
          {"best", to_json(s.best)},    {"config", s.config},     {"fingerprint", s.fingerprint},
          {"reduction", s.reduction},   {"any_fast", s.any_fast}, {"extra", extra_of(s)}};
}

RunState run_state_from_json(const json& d) {
  RunState s;
  s.generation = static_cast<int>(json_integer(d, "generation", 1, std::numeric_limits<int>::max()));
  s.step = count_of(d, "step", 0);
  s.position = count_of(d, "position", 0);
  s.epoch = count_of(d, "epoch", 0);
  s.slices = count_of(d, "slices", 1);
  s.horizon = count_of(d, "horizon", 0);
  s.best = best_of(d.at("best"));
  s.config = d.at("config").get<std::string>();
  s.fingerprint = d.at("fingerprint").get<std::string>();
  s.reduction = d.at("reduction").get<std::string>();
  s.any_fast = d.at("any_fast").get<bool>();
  if (!d.at("extra").is_object()) throw JsonNumberError("'extra' is not an object");
  read_extra(d.at("extra"), s);
  return s;
}

}  // namespace lockstep
