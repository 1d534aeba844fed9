#include "trainer/cli/runs_command.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "trainer/cli/run_summary.h"
#include "trainer/evaluate/csv_field.h"
#include "trainer/evaluate/kept_files.h"
#include "trainer/evaluate/output_file.h"

namespace lockstep {
namespace {

constexpr std::size_t most_keys_shown = 8;

/// The value that a run has for a key; "" for a damaged one.
std::string value_of(const RunSummary& run, const std::string& key) {
  const auto found = run.config.find(key);
  return found == run.config.end() ? "" : found->second;
}

std::string steps_text(const RunSummary& run) {
  return run.steps > 0 ? fmt::format("{}/{}", run.step, run.steps) : std::to_string(run.step);
}

/// Short, whatever its size.
std::string number_text(double value) {
  const double size = std::abs(value);
  const bool plain = size == 0 || (size >= 1e-3 && size < 1e6);
  return plain ? fmt::format("{:.4f}", value) : fmt::format("{:.4e}", value);
}

std::string table_text(const std::vector<RunSummary>& runs, std::vector<std::string> keys) {
  std::vector<std::string> head = {"run", "state", "step", "best validation", "test"};
  const std::size_t differ = keys.size();
  keys.resize(std::min(differ, most_keys_shown));
  head.insert(head.end(), keys.begin(), keys.end());
  TextTable table(head);
  for (const RunSummary& run : runs) {
    std::vector<std::string> row = {run.path, state_text(run), steps_text(run), "-", "-"};
    if (!run.best_metric.empty())
      row[3] = fmt::format("{} {} at step {}", run.best_metric, number_text(run.best_value), run.best_step);
    if (!run.test_metric.empty()) row[4] = fmt::format("{} {}", run.test_metric, number_text(run.test_value));
    for (const std::string& key : keys) {
      const std::string value = value_of(run, key);
      row.push_back(value.empty() ? "-" : value);
    }
    table.add(std::move(row));
  }
  std::string text = table.text();
  if (differ > keys.size())
    text += fmt::format("  … and {}: --output FILE writes them all\n",
                        differ - keys.size() == 1 ? "1 more key differs"
                                                  : fmt::format("{} more keys differ", differ - keys.size()));
  return text;
}

/// What the runs were trained on.
std::vector<std::string> data_files_of(const std::vector<std::string>& runs) {
  std::vector<std::string> files;
  for (const std::string& run : runs)
    for (std::string& file : data_files_of_run(run)) files.push_back(std::move(file));
  return files;
}

std::string csv_text(const std::vector<RunSummary>& runs, const std::vector<std::string>& keys) {
  std::string text = "run,state,step,steps,best_metric,best_value,best_step,test_metric,test_value";
  for (const std::string& key : keys) text += "," + key;
  text += "\n";
  const auto field = [](const std::string& value) { return value.empty() ? value : csv_field(value); };
  for (const RunSummary& run : runs) {
    const bool best = !run.best_metric.empty(), test = !run.test_metric.empty();
    text +=
        fmt::format("{},{},{},{},{},{},{},{},{}", csv_field(run.path), csv_field(state_text(run)), run.step,
                    run.steps > 0 ? std::to_string(run.steps) : "", run.best_metric,
                    best ? fmt::format("{}", run.best_value) : "", best ? std::to_string(run.best_step) : "",
                    run.test_metric, test ? fmt::format("{}", run.test_value) : "");
    for (const std::string& key : keys) text += "," + field(value_of(run, key));
    text += "\n";
  }
  return text;
}

std::string json_text(const std::vector<RunSummary>& runs, const std::vector<std::string>& keys) {
  using Json = nlohmann::ordered_json;
  Json out = Json::array();
  for (const RunSummary& run : runs) {
    Json entry{{"run", run.path}, {"state", state_text(run)}, {"step", run.step}};
    if (run.steps > 0) entry["steps"] = run.steps;
    if (!run.best_metric.empty())
      entry["best"] = {{"metric", run.best_metric}, {"value", run.best_value}, {"step", run.best_step}};
    if (!run.test_metric.empty()) entry["test"] = {{"metric", run.test_metric}, {"value", run.test_value}};
    entry["differs"] = Json::object();
    for (const std::string& key : keys)
      if (!run.config.empty()) entry["differs"][key] = value_of(run, key);
    out.push_back(std::move(entry));
  }
  return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

void runs_command(const CommandLine& command) {
  std::map<std::string, std::string> unreadable;
  std::vector<std::string> paths;
  for (const std::string& folder : command.arguments)
    for (const std::string& path : find_runs(folder, unreadable))
      if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
  std::vector<RunSummary> runs;
  for (const std::string& path : paths) runs.push_back(summarise_run(path));
  for (const auto& [path, why] : unreadable) {
    RunSummary run;
    run.path = path;
    run.state = RunSummary::State::damaged;
    run.problem = "the folder cannot be read: " + why;
    runs.push_back(std::move(run));
  }
  if (runs.empty())
    throw InputError(fmt::format("there is no run in or below {}", fmt::join(command.arguments, ", ")));
  const std::vector<std::string> keys = differing_keys(runs);
  const auto output = command.options.find("output");
  if (output == command.options.end()) {
    std::cout << table_text(runs, keys);
    return;
  }
  OutputFile file("--output", output->second, data_files_of(paths));
  file.append(to_lower(output->second).ends_with(".csv") ? csv_text(runs, keys) : json_text(runs, keys));
  file.close();
}

}  // namespace lockstep
