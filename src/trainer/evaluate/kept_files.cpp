#include "trainer/evaluate/kept_files.h"

#include <filesystem>
#include <fmt/format.h>
#include <system_error>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "data/readers/shard_names.h"
#include "trainer/checkpoint/run_directory.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t widest_path = 200;

bool is_file_of_run(const fs::path& path) {
  const RunDirectory run(path.parent_path().string());
  std::error_code ignored;
  if (!fs::exists(run.config(), ignored) && !fs::exists(run.preprocessing(), ignored)) return false;
  for (const std::string& file : {run.config(), run.metrics(), run.preprocessing(), run.data(), run.lease(),
                                  run.model(), run.best(), run.test_report()})
    if (fs::path(file).filename() == path.filename()) return true;
  const std::string name = path.filename().string();
  return (name.starts_with("timeline.rank") && name.ends_with(".jsonl")) ||
         (name.starts_with("log.rank") && name.ends_with(".txt"));
}

bool is_among_checkpoints(const fs::path& path) {
  for (fs::path at = path.parent_path(); at.has_relative_path(); at = at.parent_path())
    if (at.filename().string().starts_with("gen-") && at.parent_path().filename() == "checkpoints")
      return true;
  return false;
}

}  // namespace

std::vector<std::string> data_files(const Config& config) {
  const Config::Data& d = config.data;
  std::vector<std::string> files;
  for (const std::string& value :
       {d.train, d.train_labels, d.validation, d.validation_labels, d.test, d.test_labels}) {
    if (d.format != "idx" || !names_shards(value)) {
      files.push_back(value);
      continue;
    }
    try {
      for (std::string& file : shard_names(value, "")) files.push_back(std::move(file));
    } catch (const Error&) {
      // Files that are not there cannot be overwritten.
    }
  }
  return files;
}

std::vector<std::string> data_files_of_run(const std::string& directory) {
  try {
    return data_files(make_config(read_config_file(RunDirectory(directory).config())));
  } catch (const Error&) {
    return {};
  }
}

std::optional<std::string> why_kept(const std::string& path) {
  std::error_code error;
  fs::path whole = fs::weakly_canonical(fs::absolute(path, error), error);
  if (error) return std::nullopt;  // what is wrong with it is told when it is opened
  if (is_file_of_run(whole))
    return fmt::format("is where the run in '{}' keeps a file of its own, which would be lost; name another",
                       printable(whole.parent_path().string(), widest_path));
  if (is_among_checkpoints(whole)) return "lies in a checkpoint of a run, which would be lost; name another";
  if (to_lower(whole.filename().string()).ends_with(".ini") && fs::exists(whole, error))
    return "is a config file, which would be lost; name another";
  return std::nullopt;
}

}  // namespace lockstep
