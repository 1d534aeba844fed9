#pragma once

#include <functional>
#include <string>

#include "trainer/checkpoint/run_directory.h"
#include "trainer/checkpoint/run_state.h"
#include "trainer/data/open.h"
#include "trainer/run/job.h"

namespace lockstep {

/// The data of a training run, and what the run remembers of them: that all ranks read the same, and that a
/// resume reads what the run was trained on.
class RunData {
 public:
  /// (all) Opens the data and compares them among the ranks; a resume takes what preprocessing.json of the
  /// run directory says of them. Throws lockstep::Error, alike on every rank or silent on others. References
  /// must outlive this object.
  RunData(const Config& config, const Job& job, const RunDirectory& directory);

  const DataSets& sets() const { return sets_; }
  const DataInfo& info() const { return sets_.info; }
  /// Of the data as they are, and of the changes before: what checkpoints keep.
  const DataRecord& record() const { return record_; }
  /// Of preprocessing.json, 64 hex digits.
  const std::string& preprocessing_sha256() const { return preprocessing_sha256_; }

  /// (all) What a new run begins with: rank 0 writes preprocessing.json and data.json; `write_more` is called
  /// behind that, on rank 0. `before_rename` as for write_file_atomic(). Throws alike on every rank.
  void write_new(const std::function<void()>& before_rename, const std::function<void()>& write_more);
  /// Rank 0: data.json, where it is another one.
  void write_record(const std::function<void()>& before_rename) const;

  /// (all, inside report_once()) Throws where the data are not those that a checkpoint was trained on, unless
  /// --allow-data-change; then the change becomes part of the record. Throws also where preprocessing.json is
  /// not the file that the run was started with.
  void check(const RunState& state);
  /// What changed with the checkpoint that was last checked; empty: nothing.
  const std::string& changed() const { return changed_; }

  /// What is doubtful about the values of the data, and that targets are scaled: on rank 0, in the log and on
  /// standard output.
  void tell() const;

 private:
  void open(const DataInfo* stored);
  std::string share_preprocessing();
  std::string share_record();
  void check_content(const RunState& state);

  const Config& config_;
  const Job& job_;
  const RunDirectory& directory_;
  DataSets sets_;
  std::string preprocessing_sha256_;
  DataRecord record_;
  std::string stored_record_;  // data.json as a resume has found it
  std::string changed_;
};

}  // namespace lockstep
