#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

/// What a run directory tells of its run, without touching it.
struct RunSummary {
  enum class State {
    finished,  ///< it came to its end
    running,   ///< a job holds its lease
    stopped,   ///< it can go on from its last checkpoint
    diverged,  ///< its last job ended since the training diverged
    damaged    ///< `problem` says why it cannot be read
  };
  std::string path;
  State state = State::stopped;
  std::string problem;
  std::int64_t step = 0;   ///< the last one that is told of
  std::int64_t steps = 0;  ///< where it ends; 0: not known
  /// The validation whose weights the training keeps: the best by its own rule (evaluate/best.h).
  std::string best_metric;  ///< "accuracy", "loss"; empty: none
  double best_value = 0;
  std::int64_t best_step = 0;
  /// Of the last test: "accuracy", "rmse"; empty: none.
  std::string test_metric;
  double test_value = 0;
  /// All keys but run.dir and the placement keys, with their values as text; empty where it is damaged.
  std::map<std::string, std::string> config;
};

/// "finished", "running", "stopped at step 40", "diverged at step 7", "damaged: …".
std::string state_text(const RunSummary& run);

/// Never throws lockstep::Error: what cannot be read makes the run a damaged one.
RunSummary summarise_run(const std::string& path);

/// The run directories in and below `folder`, in order of their paths; links to folders are not followed, and
/// what lies inside a run is not looked at. A folder that may not be read adds its path and the reason to
/// `unreadable`. Throws InputError where `folder` itself is missing, is no folder or may not be read.
std::vector<std::string> find_runs(const std::string& folder, std::map<std::string, std::string>& unreadable);

/// The keys in which the configs differ, in the order of the config table. Damaged runs do not count.
std::vector<std::string> differing_keys(const std::vector<RunSummary>& runs);

}  // namespace lockstep
