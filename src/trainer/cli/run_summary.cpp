#include "trainer/cli/run_summary.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/config/config.h"
#include "trainer/config/config_table.h"
#include "trainer/evaluate/best.h"
#include "trainer/run/lease_file.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* lease_file = "lease.json";
// A job that lives renews its lease far more often.
constexpr std::chrono::minutes lease_life{2};

bool is_run(const std::string& folder) {
  std::error_code ignored;
  const RunDirectory run(folder);
  return fs::exists(run.config(), ignored) || fs::exists(run.preprocessing(), ignored) ||
         fs::is_directory(run.checkpoints(), ignored);
}

std::optional<std::int64_t> integer_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer()) return std::nullopt;
  if (found->is_number_unsigned() && found->get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
    return std::nullopt;
  return found->get<std::int64_t>();
}

/// A null, which stands for NaN and infinity, is none.
std::optional<double> number_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

/// The score of a test: of its line, or of its report.
void take_test(const Json& object, RunSummary& run) {
  run.test_metric.clear();
  for (const char* metric : {"accuracy", "rmse"}) {
    const auto value = number_of(object, metric);
    if (!value) continue;
    run.test_metric = metric;
    run.test_value = *value;
    return;
  }
}

/// What the lines of metrics.jsonl tell.
class MetricsReader {
 public:
  MetricsReader(RunSummary& run, const Config& config) : run_(run), config_(config) {}

  void read(const std::string& text) {
    for (const std::string_view line : split(text, '\n')) {
      const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (object.is_object()) take(object);  // the last line of a killed job may be torn
    }
  }
  bool diverged() const { return last_ == "diverged"; }
  /// 0 where no epoch has ended.
  std::int64_t batches_per_epoch() const { return batches_; }

 private:
  void take(const Json& object) {
    const auto kind = object.find("kind");
    if (kind == object.end() || !kind->is_string()) return;
    last_ = kind->get<std::string>();
    const std::int64_t step = integer_of(object, "step").value_or(0);
    run_.step = std::max(run_.step, step);
    if (last_ == "epoch") {
      const auto epoch = integer_of(object, "epoch");
      if (epoch && *epoch > 0 && step > 0) batches_ = step / *epoch;
    }
    if (last_ == "epoch" || last_ == "end") best(object, step);  // an end lies within an epoch
    if (last_ == "test") take_test(object, run_);
  }

  /// By the rule of the training itself.
  void best(const Json& object, std::int64_t step) {
    const auto loss = number_of(object, "validation_loss");
    const auto accuracy = number_of(object, "validation_accuracy");
    if (!loss) return;
    Evaluation validation;
    validation.loss = *loss;
    validation.accuracy = accuracy.value_or(0);
    const std::string metric = best_metric_name(config_, accuracy.has_value());
    if (!is_better(validation, metric, best_)) return;
    best_ = best_of(validation, metric, step);
    run_.best_metric = metric;
    run_.best_value = metric == "accuracy" ? validation.accuracy : validation.loss;
    run_.best_step = step;
  }

  RunSummary& run_;
  const Config& config_;
  BestValidation best_;
  std::string last_;
  std::int64_t batches_ = 0;
};

std::int64_t end_of(const Config& config, std::int64_t batches_per_epoch) {
  const Config::Train& t = config.train;
  std::int64_t end = t.epochs > 0 ? config.schedule.steps : t.steps;
  if (t.epochs > 0 && batches_per_epoch > 0 && __builtin_mul_overflow(t.epochs, batches_per_epoch, &end))
    end = 0;
  if (t.steps > 0 && (end == 0 || t.steps < end)) end = t.steps;
  return end;
}

bool is_leased(const RunDirectory& run) {
  const std::string path = run.path() + "/" + lease_file;
  std::error_code error;
  const auto renewed = fs::last_write_time(path, error);
  if (error || fs::file_time_type::clock::now() - renewed >= lease_life) return false;
  const std::optional<LeaseHolder> holder = parse_lease(read_lease(path));
  return !holder || !holder->is_gone();
}

/// The best validation that the newest checkpoint knows, where the metrics tell of none.
void take_best(const std::vector<CheckpointRef>& checkpoints, RunSummary& run) {
  for (const CheckpointRef& ref : checkpoints) {
    try {
      const BestValidation best = check_checkpoint(ref.path, false).state.best;
      if (!best.metric) return;
      // A run of before does not name it: a loss is kept with its sign turned.
      const bool loss = best.name.empty() ? *best.metric < 0 : best.name == "loss";
      run.best_metric = loss ? "loss" : "accuracy";
      run.best_value = loss ? -*best.metric : *best.metric;
      run.best_step = best.step;
      return;
    } catch (const Error&) {
      // Not whole: an older one may know.
    }
  }
}

void summarise(const RunDirectory& directory, RunSummary& run) {
  const Config config = make_config(read_config_file(directory.config()));
  for (const ConfigBinding& b : config_bindings())
    if (!b.key.placement) run.config[b.key.name] = b.get(config);
  MetricsReader metrics(run, config);
  std::error_code ignored;
  if (fs::exists(directory.metrics(), ignored)) {
    metrics.read(read_file(directory.metrics(), Empty::allow));
  } else if (fs::exists(directory.test_report(), ignored)) {
    const std::string text = read_file(directory.test_report(), Empty::allow);
    const Json report = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (report.is_object()) take_test(report, run);
  }
  const std::vector<CheckpointRef> checkpoints = CheckpointStore(directory.path()).list();
  for (const CheckpointRef& ref : checkpoints) run.step = std::max(run.step, ref.step);
  if (run.best_metric.empty()) take_best(checkpoints, run);
  run.steps = end_of(config, metrics.batches_per_epoch());
  if (run.steps < run.step) run.steps = 0;  // the schedule's length is not the training's
  if (is_leased(directory)) {
    run.state = RunSummary::State::running;
  } else if (fs::exists(directory.model(), ignored)) {
    run.state = RunSummary::State::finished;
  } else if (metrics.diverged()) {
    run.state = RunSummary::State::diverged;
  }
}

void search(const std::string& folder, std::vector<std::string>& found,
            std::map<std::string, std::string>& unreadable) {
  if (is_run(folder)) {
    found.push_back(folder);
    return;
  }
  std::error_code error;
  fs::directory_iterator entries(folder, error);
  std::vector<std::string> folders;
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    std::error_code ignored;
    if (entries->is_directory(ignored) && !entries->is_symlink(ignored))
      folders.push_back(entries->path().string());
  }
  if (error) unreadable[folder] = error.message();
  std::sort(folders.begin(), folders.end());
  for (const std::string& inner : folders) search(inner, found, unreadable);
}

}  // namespace

std::string state_text(const RunSummary& run) {
  switch (run.state) {
    case RunSummary::State::finished:
      return "finished";
    case RunSummary::State::running:
      return "running";
    case RunSummary::State::stopped:
      return fmt::format("stopped at step {}", run.step);
    case RunSummary::State::diverged:
      return fmt::format("diverged at step {}", run.step);
    case RunSummary::State::damaged:
      return "damaged: " + run.problem;
  }
  throw InternalError("a state of a run without a name");
}

RunSummary summarise_run(const std::string& path) {
  RunSummary run;
  run.path = path;
  try {
    summarise(RunDirectory(path), run);
  } catch (const Error& e) {
    run.state = RunSummary::State::damaged;
    run.problem = e.what();
    run.config.clear();
  } catch (const fs::filesystem_error& e) {
    run.state = RunSummary::State::damaged;
    run.problem = e.what();
    run.config.clear();
  }
  return run;
}

std::vector<std::string> find_runs(const std::string& folder,
                                   std::map<std::string, std::string>& unreadable) {
  std::error_code error;
  if (!fs::exists(folder, error))
    throw InputError(fmt::format("'{}': {}; name a folder of runs", folder,
                                 error ? error.message() : "there is no such folder"));
  if (!fs::is_directory(folder, error))
    throw InputError(fmt::format("'{}' is not a folder; name a folder of runs", folder));
  std::string path = folder;
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  std::vector<std::string> found;
  search(path, found, unreadable);
  if (const auto refused = unreadable.find(path); refused != unreadable.end())
    throw InputError(fmt::format("'{}' cannot be read: {}", folder, refused->second));
  return found;
}

std::vector<std::string> differing_keys(const std::vector<RunSummary>& runs) {
  const RunSummary* first = nullptr;
  std::vector<std::string> keys;
  for (const RunSummary& run : runs)
    if (first == nullptr && !run.config.empty()) first = &run;
  if (first == nullptr) return keys;
  for (const ConfigBinding& b : config_bindings()) {
    const auto same = first->config.find(b.key.name);
    if (same == first->config.end()) continue;
    if (std::any_of(runs.begin(), runs.end(), [&](const RunSummary& run) {
          const auto value = run.config.find(b.key.name);
          return value != run.config.end() && value->second != same->second;
        }))
      keys.push_back(b.key.name);
  }
  return keys;
}

}  // namespace lockstep
