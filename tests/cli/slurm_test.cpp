// The same binary under a real Slurm: two nodes on this machine, started here and stopped after
// (tests/slurm).

#include <set>
#include <unistd.h>

#include "cli_support.h"

namespace lockstep::test {
namespace {

bool has(const std::string& program) {
  return run_process({"sh", "-c", "command -v " + program}).exit_code == 0;
}

/// A cluster for the life of the object.
class Cluster {
 public:
  explicit Cluster(const std::string& folder) : folder_(folder) {
    started = run_process(
        {"bash", "-c", ". \"$0\" \"$1\" && sinfo -h -o %T | grep -q idle", scripts() + "/up.sh", folder_});
  }
  ~Cluster() { run_process({"bash", scripts() + "/down.sh", folder_}); }
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;
  std::string config() const { return folder_ + "/slurm.conf"; }
  ProcessResult started;

 private:
  static std::string scripts() { return LOCKSTEP_SOURCE_DIR "/tests/slurm"; }
  std::string folder_;
};

TEST(Slurm, SrunGivesTheDigestOfABareRun) {
  for (const char* program : {"slurmctld", "slurmd", "srun", "munged", "runuser"})
    if (!has(program))
      LOCKSTEP_SKIP_WITHOUT("slurm", std::string(program) + " is not installed (slurm-wlm, munge)");
  if (geteuid() != 0) LOCKSTEP_SKIP_WITHOUT("slurm", "a Slurm cluster of one's own needs root");
  TempDir folder;
  const Cluster cluster(folder / "slurm");
  if (cluster.started.exit_code != 0)
    LOCKSTEP_SKIP_WITHOUT("slurm", "the cluster did not start: " + cluster.started.err);
  write_file_bytes(folder / "small.ini", small_config());
  const auto train = [&](const std::string& dir) {
    return std::vector<std::string>{LOCKSTEP_PROGRAM,     "train",     "--config",
                                    folder / "small.ini", "--run.dir", folder / dir};
  };
  ProcessOptions options;
  options.env["SLURM_CONF"] = cluster.config();
  std::set<std::string> digests;
  ASSERT_EQ(run_process(train("bare")).exit_code, 0);
  digests.insert(digest(folder / "bare", true));
  for (const int tasks : {1, 2, 4}) {
    const std::string dir = "srun" + std::to_string(tasks);
    std::vector<std::string> argv = {"srun", "--mpi=pmix", "--overcommit", "-n", std::to_string(tasks)};
    for (const std::string& a : train(dir)) argv.push_back(a);
    const ProcessResult result = run_process(argv, with_mpirun_env(options));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    digests.insert(digest(folder / dir, true));
  }
  EXPECT_EQ(digests.size(), 1u);

  // Tasks that MPI does not know of each other would each train for itself: refused.
  std::vector<std::string> argv = {"srun", "--mpi=none", "-n", "2"};
  for (const std::string& a : train("alone")) argv.push_back(a);
  const ProcessResult refused = run_process(argv, with_mpirun_env(options));
  EXPECT_EQ(refused.exit_code, 2) << refused.describe();
  EXPECT_EQ(count(refused.err, "lockstep: error"), 1) << refused.err;
  EXPECT_NE(refused.err.find("--mpi=pmix"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace lockstep::test
