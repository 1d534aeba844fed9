#include "trainer/run/run_setup.h"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <utility>

#include "comm/sync/gradient_sync.h"
#include "core/error.h"
#include "core/numerics/tree.h"
#include "model/graph/freeze.h"
#include "optim/groups.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_table.h"
#include "trainer/config/slices.h"
#include "trainer/run/job.h"
#include "trainer/run/memory_check.h"
#include "trainer/run/odd_labels.h"
#include "trainer/step/augmentation_choice.h"

namespace lockstep {
namespace {

constexpr int most_in_flight = 64;  // steps that a device may be ahead of what the host knows

/// The outputs of a line of layers, whatever the data need; 0 where they follow from the data.
std::int64_t outputs_of_layers(const Config& config, const Shape& input) {
  try {
    const Graph graph = build_graph(config, input, 0, {});
    return graph.shape_of(graph.output).elements();
  } catch (const Error&) {
    return 0;
  }
}

/// The model for these data. Throws ConfigError; where it has too few outputs, with the odd labels.
Graph graph_for(const Config& config, const DataSets& data, const GraphFunction& custom) {
  const DataInfo& info = data.info;
  try {
    return build_graph(config, info.sample_shape, info.classes > 0 ? info.classes : info.target_width,
                       custom);
  } catch (const ConfigError& e) {
    if (config.model.layers.empty()) throw;
    const std::string odd = odd_labels(data, outputs_of_layers(config, info.sample_shape));
    if (odd.empty()) throw;
    throw ConfigError(fmt::format("{}; {}", e.what(), odd));
  }
}

EpochOrder training_order(const Dataset& train, const Config& config) {
  const auto shards = train.shards();
  if (shards.empty()) return {train.size(), config.train.global_batch, config.train.slices, config.run.seed};
  return {ShardWindows{{shards.begin(), shards.end()}, config.data.window}, config.train.global_batch,
          config.train.slices, config.run.seed};
}

void check_host_memory(const RunSetup& setup, const DataSets& data, int ranks) {
  const Config::Train& t = setup.config.train;
  check_memory(setup.graph, "train.global_batch", t.global_batch, t.slices);
  check_memory(setup.graph, "train.eval_batch", t.eval_batch, t.slices);
  for (const auto& set : {data.validation, data.test})
    if (set) check_evaluation_memory(setup.graph, t.eval_batch, t.slices, ranks, set->size());
}

}  // namespace

RunSetup set_up_run(Config config, const DataSets& data, const RunPlace& place) {
  const DataInfo& info = data.info;
  const std::int64_t samples = data.train->size();
  check_augmentation(config, info.sample_shape);
  Graph graph = graph_for(config, data, place.custom_graph);
  config.data.classes = info.classes;
  config.train.slices = resolve_slices(config, graph, place.device, samples);
  resolve_eval_batch(config);
  const EpochOrder order = training_order(*data.train, config);
  const std::int64_t natural_end =
      config.train.epochs > 0 ? config.train.epochs * order.batches_per_epoch() : config.train.steps;
  const std::int64_t end_steps =
      config.train.steps > 0 ? std::min(natural_end, config.train.steps) : natural_end;
  // A run that ends within its warm-up is told of it by schedule_remarks().
  Config::Schedule& s = config.schedule;
  if (s.steps == 0) s.steps = std::max(natural_end, s.warmup_steps);
  RunSchedule schedule(config);
  std::string stored_changes = s.changes;
  RunSetup setup{std::move(config),
                 std::move(graph),
                 order,
                 std::move(schedule),
                 natural_end,
                 end_steps,
                 std::move(stored_changes),
                 {},
                 {}};
  check_enough_slices(setup.config, setup.graph, place.ranks);
  TrainStep::check(setup.graph, setup.config.train.slices, place.ranks);
  setup.remarks = group_lines(setup.config.optimizer, setup.graph);
  for (const std::string& line : freeze_lines(setup.graph, setup.config.model.freeze))
    setup.remarks.push_back(line);
  setup.doubt = norm_remark(setup.config, setup.graph, samples, place.keeps_slices);
  if (place.device == "cpu") check_host_memory(setup, data, place.ranks);
  return setup;
}

TrainStepOptions step_options(const Config& config) {
  TrainStepOptions options;
  options.seed = config.run.seed;
  options.slice_rows = config.train.global_batch / config.train.slices;
  options.clip_norm = config.optimizer.clip_norm;
  options.optimizer = config.optimizer;
  options.sync.reduction = config.train.reduction == "fast" ? Reduction::fast : Reduction::ordered;
  options.sync.overlap = config.train.overlap;
  options.sync.sharded = config.optimizer.sharded;
  options.sync.bucket_elements = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(config.train.bucket_mb * 1024 * 1024 / sizeof(float)));
  options.sync.slices = config.train.slices;
  // A step that may be left out must be known as such before the next one.
  if (config.guard.nonfinite == "stop")
    options.in_flight = static_cast<int>(std::clamp<std::int64_t>(config.log.every_steps, 1, most_in_flight));
  return options;
}

std::size_t window_bytes(const Graph& graph, std::int64_t slices, int ranks) {
  std::size_t subtrees = 1;
  for (int r = 0; r < ranks; ++r)
    subtrees = std::max(subtrees, maximal_subtrees(slices, slices_of_rank(slices, r, ranks)).size());
  std::int64_t elements = graph.parameter_count();
  for (const Statistic& s : graph.statistics) elements += s.shape.elements();
  return (subtrees + 1) * static_cast<std::size_t>(elements) * sizeof(float) * 21 / 20 +
         (std::size_t{1} << 20);
}

std::vector<std::string> change_schedule(RunSetup& setup, std::int64_t steps) {
  Config& config = setup.config;
  config.schedule.changes = setup.stored_changes;
  setup.schedule = RunSchedule(config);
  std::vector<std::string> remarks;
  std::map<std::string, std::string> values = config.run.rate_change;
  const Config now = config_at(config, std::numeric_limits<std::int64_t>::max());
  const auto horizon = values.find("schedule.steps");
  const std::string name = with_values(now, values).schedule.name;
  if (horizon != values.end() && name != "cosine") {
    if (horizon->second != "0")
      remarks.push_back(fmt::format(
          "--schedule.steps {} has no effect: only a cosine has a horizon, and schedule.name is {}",
          horizon->second, name));
    values.erase(horizon);
  } else if (horizon != values.end() && horizon->second == "0") {
    const auto given = values.find("schedule.warmup_steps");
    const std::int64_t warmup =
        given == values.end() ? now.schedule.warmup_steps : with_values(now, {*given}).schedule.warmup_steps;
    horizon->second = std::to_string(std::max(setup.natural_end, warmup));
    // Given again by a job that was started again, it is what holds already.
    if (find_binding("schedule.steps")->get(now) == horizon->second) values.erase(horizon);
  }
  Config changed = config;
  if (!values.empty())
    changed.schedule.changes = changes_text(with_change(changes_of(config), steps, values));
  for (std::string& remark : schedule_remarks(changed, steps, setup.end_steps))
    remarks.push_back(std::move(remark));
  if (values.empty()) return remarks;
  refuse_idle_change(config, steps, setup.end_steps, values);
  config.schedule.changes = changed.schedule.changes;
  setup.schedule = RunSchedule(config);
  return remarks;
}

}  // namespace lockstep
