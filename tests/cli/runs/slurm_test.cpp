// The same binary under a real Slurm: two nodes on this machine, started here and stopped after
// (tests/slurm).

#include <set>

#include "support/slurm_cluster.h"

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

TEST(Slurm, SrunGivesTheDigestOfABareRun) {
  TempDir folder;
  const SlurmCluster cluster(folder / "slurm");
  if (!cluster.stands()) LOCKSTEP_SKIP_WITHOUT("slurm", cluster.reason());
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
  EXPECT_GE(count(refused.err, "lockstep: error"), 1) << refused.err;
  EXPECT_NE(refused.err.find("--mpi=pmix"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace lockstep::test
