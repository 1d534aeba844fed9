#pragma once

#include <functional>
#include <string>

#include "trainer/config/config.h"

namespace lockstep {

/// What `train` may do with a run directory that already holds a run.
enum class RunDirectoryMode {
  fresh,      ///< refuse it
  overwrite,  ///< --overwrite: remove the files of that run
  resume      ///< --resume: there must be one
};

/// The one place that knows what a run directory holds:
///
///   config.resolved.ini  metrics.jsonl  preprocessing.json  data.json  checkpoints/
///   lease.json (while a job is at it)  timeline.rank<N>.jsonl  log.rank<N>.txt
///   model.safetensors  best.safetensors  test.json      (at the end of the run)
///
/// Every function is called by one rank.
class RunDirectory {
 public:
  /// Names only; touches nothing. `path` as the user gave it, trailing slashes dropped.
  explicit RunDirectory(std::string path);

  /// Makes the directory ready for `train`: created with its parents where needed, holding no run (or, to
  /// resume, one), and writable, which is tried. Overwriting removes what Lockstep writes, by name, and
  /// nothing else; the number of generations is kept, so that a job of the old run that is still alive cannot
  /// write into the new one. Throws ConfigError when there is a run (the text says what --resume and
  /// --overwrite do) or none to resume, InputError when the directory cannot be made or written.
  /// `before_change`, where given, is called when the directory is there and nothing of a run is removed yet.
  static RunDirectory prepare(const std::string& path, RunDirectoryMode mode,
                              const std::function<void()>& before_change = {});
  /// For commands that read a run. Throws InputError when the directory is missing or holds no run.
  static RunDirectory open(const std::string& path);

  /// Removes what writes that were killed have left of the files of a run: a model's is as large as the
  /// model.
  void remove_temporaries() const;

  /// Whether a file of a run is there.
  bool holds_run() const;

  /// preprocessing.json as text, for DataInfo::from_json(). Throws InputError, with how to mend it, where it
  /// cannot be read.
  std::string read_preprocessing() const;

  const std::string& path() const { return path_; }
  std::string config() const { return path_ + "/config.resolved.ini"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string preprocessing() const {
    return path_ + "/preprocessing.json";
  }                                                          ///< normalizer, classes, shapes, loss
  std::string data() const { return path_ + "/data.json"; }  ///< what the data held, and how that changed
  std::string lease() const {
    return path_ + "/lease.json";
  }  ///< of the job that is at the run (run/lease.h)
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  std::string model() const { return path_ + "/model.safetensors"; }
  std::string best() const { return path_ + "/best.safetensors"; }
  std::string test_report() const { return path_ + "/test.json"; }
  std::string timeline(int rank) const { return path_ + "/timeline.rank" + std::to_string(rank) + ".jsonl"; }
  std::string log(int rank) const { return path_ + "/log.rank" + std::to_string(rank) + ".txt"; }

 private:
  void remove_run() const;
  std::string path_;
};

/// The run directory that what `train` was told means, as an absolute path. Throws ConfigError.
std::string meant_run_directory(const CommandLine& line);

}  // namespace lockstep
