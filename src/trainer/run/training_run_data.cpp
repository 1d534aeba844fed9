// What a training run makes sure of its data: that all ranks read the same, and that a resume reads what the
// run was trained on.

#include <array>
#include <filesystem>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/file.h"
#include "core/flight_recorder.h"
#include "core/printable.h"
#include "data/readers/shard_names.h"
#include "trainer/run/odd_labels.h"
#include "trainer/run/training_run.h"

namespace lockstep {
namespace {

/// Paths may change on a resume, so a file that is not there may have moved.
void refuse_missing(const Config& config) {
  const Config::Data& d = config.data;
  for (const auto& [key, path] :
       std::array{std::pair("data.train", &d.train), std::pair("data.train_labels", &d.train_labels),
                  std::pair("data.validation", &d.validation),
                  std::pair("data.validation_labels", &d.validation_labels), std::pair("data.test", &d.test),
                  std::pair("data.test_labels", &d.test_labels)}) {
    std::error_code error;
    if (path->empty() || names_shards(*path) || std::filesystem::exists(*path, error) || error) continue;
    throw InputError(fmt::format("{}: '{}' does not exist; if the data have moved, tell where with --{} PATH",
                                 key, *path, key));
  }
}

/// The outputs of a line of layers, whatever the data need; 0 where they follow from the data.
std::int64_t outputs_of_layers(const Config& config, const Shape& input) {
  try {
    const Graph graph = build_graph(config, input, 0, {});
    return graph.shape_of(graph.output).elements();
  } catch (const Error&) {
    return 0;
  }
}

}  // namespace

Graph TrainingRun::graph_for_data() const {
  const DataInfo& info = data_.info;
  try {
    return build_graph(config_, info.sample_shape, info.classes > 0 ? info.classes : info.target_width,
                       job_.custom_graph);
  } catch (const ConfigError& e) {
    if (config_.model.layers.empty()) throw;
    const std::string odd = odd_labels(data_, outputs_of_layers(config_, info.sample_shape));
    if (odd.empty()) throw;
    throw ConfigError(fmt::format("{}; {}", e.what(), odd));
  }
}

bool TrainingRun::keeps_slices() {
  if (!config_.run.resume || !config_.run.allow_slices_change) return config_.run.resume;
  std::string text;
  agree_on_error(job_.comm, [&] {
    if (job_.leader()) text = read_file(directory_.config());
  });
  text = job_.comm.broadcast_text(text, 0);
  bool kept = true;
  agree_on_error(job_.comm, [&] {
    kept = make_config(parse_config_text(text, directory_.config())).train.slices == config_.train.slices;
  });
  return kept;
}

std::string TrainingRun::share_data_record() {
  std::string text;
  agree_on_error(job_.comm, [&] {
    std::error_code ignored;
    if (job_.leader() && std::filesystem::exists(directory_.data(), ignored))
      text = read_file(directory_.data(), Empty::allow);
  });
  return job_.comm.broadcast_text(text, 0);
}

void TrainingRun::open_data(const DataInfo* stored) {
  agree_on_error(job_.comm, [&] {
    const FlightScope scope(job_.comm.recorder(), Activity::load_data);
    if (config_.run.resume) refuse_missing(config_);
    data_ = open_datasets(config_, {}, stored, Fit::later);
    data_record_ = {data_.contents, {}};
  });
  check_same_data(job_.comm, data_.contents);
  check_same_names(job_.comm, data_.info);
  fit_datasets(job_.comm, config_, data_, stored != nullptr);
  if (!job_.leader()) return;
  for (const DataContent& content : data_.contents)
    if (content.files > 0)
      job_.log.info(
          "{}: '{}' is a set of {}: it is known again by their sizes and headers and by blocks of 64 KiB "
          "that run.seed chooses, not by every value; its labels or targets are by every one",
          content.key, printable(content.name), counted(content.files, "file"));
    else if (!content.whole)
      job_.log.info(
          "{}: '{}' is larger than {} GiB: it is known again by its size and by 1024 blocks of 64 KiB that "
          "run.seed chooses, not by every value; its labels are by every one",
          content.key, content.name, most_whole_bytes >> 30);
}

void TrainingRun::check_data(const TrainingState& state) {
  const nlohmann::json extra = nlohmann::json::parse(state.extra);
  std::optional<DataRecord> recorded;
  if (const auto found = extra.find("data"); found != extra.end())
    recorded = DataRecord::from_json(found->dump(), fmt::format("the checkpoint of step {} in '{}'",
                                                                state.step, directory_.checkpoints()));
  else if (!stored_data_record_.empty())
    recorded = DataRecord::from_json(stored_data_record_, directory_.data());
  changed_data_.clear();
  data_record_.files = data_.contents;
  data_record_.changes.clear();
  if (!recorded) {
    if (!data_.contents.empty() && job_.leader())
      job_.log.warning(
          "the run in '{}' does not tell what its data held, since an older Lockstep began it: what they "
          "hold "
          "now is taken for it, from step {} on",
          directory_.path(), state.step);
    return;
  }
  data_record_.changes = std::move(recorded->changes);
  const std::vector<std::string> what = differences(recorded->files, data_.contents);
  if (what.empty()) return;
  const std::string text = fmt::format("{}", fmt::join(what, "; "));
  if (!config_.run.allow_data_change)
    throw InputError(fmt::format(
        "the data are not those that the run in '{}' was trained on: {}; give the old ones back, or "
        "go on with these from step {} with --allow-data-change",
        directory_.path(), text, state.step));
  data_record_.changes.push_back({state.step, what, std::move(recorded->files)});
  changed_data_ = text;
  if (job_.leader())
    job_.log.warning("the data change with step {}: {}; the results are not those of either data alone",
                     state.step + 1, text);
}

void TrainingRun::write_data_record() {
  // A full disk need not stop what changes nothing.
  const std::string text = data_record_.to_json();
  std::error_code ignored;
  if (!std::filesystem::exists(directory_.data(), ignored) ||
      read_file(directory_.data(), Empty::allow) != text)
    write_file_atomic(directory_.data(), text, while_mine());
}

}  // namespace lockstep
