#pragma once

#include <string>
#include <unistd.h>

#include "support/process.h"

namespace lockstep::test {

/// A real Slurm of two nodes on this machine for the life of the object (tests/slurm). Needs root.
class SlurmCluster {
 public:
  explicit SlurmCluster(std::string folder) : folder_(std::move(folder)) {
    for (const char* program : {"slurmctld", "slurmd", "srun", "munged", "runuser"})
      if (run_process({"sh", "-c", "command -v " + std::string(program)}).exit_code != 0) {
        reason_ = std::string(program) + " is not installed (slurm-wlm, munge)";
        return;
      }
    if (geteuid() != 0) {
      reason_ = "a Slurm cluster of one's own needs root";
      return;
    }
    started_ = true;
    const ProcessResult up = run_process(
        {"bash", "-c", ". \"$0\" \"$1\" && sinfo -h -o %T | grep -q idle", script("up.sh"), folder_});
    if (up.exit_code != 0) reason_ = "the cluster did not start: " + up.err;
  }
  ~SlurmCluster() {
    if (started_) run_process({"bash", script("down.sh"), folder_});
  }
  SlurmCluster(const SlurmCluster&) = delete;
  SlurmCluster& operator=(const SlurmCluster&) = delete;

  bool stands() const { return reason_.empty(); }
  /// Why not.
  const std::string& reason() const { return reason_; }
  /// For SLURM_CONF in the environment of sbatch, srun, scontrol, …
  std::string config() const { return folder_ + "/slurm.conf"; }

 private:
  static std::string script(const std::string& name) {
    return std::string(LOCKSTEP_SOURCE_DIR) + "/tests/slurm/" + name;
  }
  std::string folder_;
  std::string reason_;
  bool started_ = false;
};

}  // namespace lockstep::test
