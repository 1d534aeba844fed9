#include "trainer/run/run_data.h"

#include <array>
#include <filesystem>
#include <fmt/format.h>
#include <iostream>
#include <optional>
#include <utility>

#include "core/counted.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/flight_recorder.h"
#include "core/printable.h"
#include "data/readers/check_values.h"
#include "data/readers/shard_names.h"

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

}  // namespace

RunData::RunData(const Config& config, const Job& job, const RunDirectory& directory)
    : config_(config), job_(job), directory_(directory) {
  const bool resume = config_.run.resume;
  std::optional<DataInfo> stored;
  const std::string description = resume ? share_preprocessing() : "";
  preprocessing_sha256_ = sha256_hex(description);
  if (resume) stored_record_ = share_record();
  agree_on_error(job_.comm, [&] {
    if (resume) stored = DataInfo::from_json(description, directory_.preprocessing());
  });
  open(stored ? &*stored : nullptr);
}

/// preprocessing.json of the run: rank 0 reads it, everybody gets it.
std::string RunData::share_preprocessing() {
  std::string text;
  agree_on_error(job_.comm, [&] {
    if (job_.leader()) text = directory_.read_preprocessing();
  });
  return job_.comm.broadcast_text(text, 0);
}

/// What data.json of the run directory holds; empty where there is none.
std::string RunData::share_record() {
  std::string text;
  agree_on_error(job_.comm, [&] {
    std::error_code ignored;
    if (job_.leader() && std::filesystem::exists(directory_.data(), ignored))
      text = read_file(directory_.data(), Empty::allow);
  });
  return job_.comm.broadcast_text(text, 0);
}

void RunData::open(const DataInfo* stored) {
  agree_on_error(job_.comm, [&] {
    const FlightScope scope(job_.comm.recorder(), Activity::load_data);
    if (config_.run.resume) refuse_missing(config_);
    sets_ = open_datasets(config_, {}, stored, Fit::later);
    record_ = {sets_.contents, {}};
  });
  check_same_data(job_.comm, sets_.contents);
  check_same_names(job_.comm, sets_.info);
  fit_datasets(job_.comm, config_, sets_, stored != nullptr);
  if (!job_.leader()) return;
  for (const DataContent& content : sets_.contents)
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
  sets_.notes.tell(job_.log);
}

void RunData::write_new(const std::function<void()>& before_rename, const std::function<void()>& write_more) {
  std::string described;
  agree_on_error(job_.comm, [&] {
    if (!job_.leader()) return;
    const std::string description = sets_.info.to_json();
    described = sha256_hex(description);
    write_file_atomic(directory_.preprocessing(), description, before_rename);
    write_record(before_rename);
    write_more();
  });
  preprocessing_sha256_ = job_.comm.broadcast_text(described, 0);
}

void RunData::write_record(const std::function<void()>& before_rename) const {
  // A full disk need not stop what changes nothing.
  const std::string text = record_.to_json();
  std::error_code ignored;
  if (!std::filesystem::exists(directory_.data(), ignored) ||
      read_file(directory_.data(), Empty::allow) != text)
    write_file_atomic(directory_.data(), text, before_rename);
}

void RunData::check(const RunState& state) {
  check_content(state);
  if (!state.preprocessing_sha256.empty() && state.preprocessing_sha256 != preprocessing_sha256_)
    throw InputError(
        fmt::format("'{}' is not the file that this run was started with, as the checkpoint of step {} "
                    "tells: it was edited, "
                    "damaged or replaced; put the old one back, or start anew with --overwrite",
                    directory_.preprocessing(), state.step));
}

void RunData::check_content(const RunState& state) {
  std::optional<DataRecord> recorded = state.data;
  if (!recorded && !stored_record_.empty())
    recorded = DataRecord::from_json(stored_record_, directory_.data());
  changed_.clear();
  record_.files = sets_.contents;
  record_.changes.clear();
  if (!recorded) {
    if (!sets_.contents.empty() && job_.leader())
      job_.log.warning(
          "the run in '{}' does not tell what its data held, since an older Lockstep began it: what they "
          "hold "
          "now is taken for it, from step {} on",
          directory_.path(), state.step);
    return;
  }
  record_.changes = std::move(recorded->changes);
  const std::vector<std::string> what = differences(recorded->files, sets_.contents);
  if (what.empty()) return;
  const std::string text = fmt::format("{}", fmt::join(what, "; "));
  if (!config_.run.allow_data_change)
    throw InputError(fmt::format(
        "the data are not those that the run in '{}' was trained on: {}; give the old ones back, or "
        "go on with these from step {} with --allow-data-change",
        directory_.path(), text, state.step));
  record_.changes.push_back({state.step, what, std::move(recorded->files)});
  changed_ = text;
  if (job_.leader())
    job_.log.warning("the data change with step {}: {}; the results are not those of either data alone",
                     state.step + 1, text);
}

void RunData::tell() const {
  if (!job_.leader()) return;
  for (const std::string& text : warnings_of_training(*sets_.train, sets_.info)) job_.log.warning("{}", text);
  if (const std::int64_t samples = sets_.train->size(); config_.data.limit > samples)
    job_.log.warning("data.limit = {} has no effect: there {} to train on", config_.data.limit,
                     samples == 1 ? "is 1 sample" : fmt::format("are {} samples", samples));
  for (const auto& set : {sets_.validation, sets_.test})
    if (set)
      for (const std::string& text : warnings_of_inputs(*set, sets_.info)) job_.log.warning("{}", text);
  if (sets_.info.normalizer.scales_targets())
    std::cout << "targets are scaled: losses are of scaled targets, predictions in the units of the data\n"
              << std::flush;
}

}  // namespace lockstep
