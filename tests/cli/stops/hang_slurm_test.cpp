// The watchdog under srun: a task that is stopped is named, on its own node and on another.

#include "support/hang_report.h"
#include "support/slurm_cluster.h"

#include "cli/running_job.h"

namespace lockstep::test {
namespace {

TEST(StoppedUnderSlurm, ATaskIsNamedAndTheStepEndsWithFour) {
  TempDir folder;
  const SlurmCluster cluster(folder / "slurm");
  if (!cluster.stands()) LOCKSTEP_SKIP_WITHOUT("slurm", cluster.reason());
  write_file_bytes(folder / "small.ini", small_config());
  ProcessOptions options;
  options.timeout_s = 120;
  options.env["SLURM_CONF"] = cluster.config();
  // Three tasks on one node; two tasks on a node each.
  struct Case {
    const char* nodes;
    int tasks, victim;
  };
  for (const auto& [nodes, tasks, victim] : {Case{"1", 3, 0}, {"2", 2, 1}}) {
    const std::string dir = std::string("run") + nodes;
    SCOPED_TRACE(dir);
    Process job({"srun",
                 "--mpi=pmix",
                 "--overcommit",
                 "--kill-on-bad-exit=1",
                 "-N",
                 nodes,
                 "-n",
                 std::to_string(tasks),
                 LOCKSTEP_PROGRAM,
                 "train",
                 "--config",
                 folder / "small.ini",
                 "--run.dir",
                 folder / dir,
                 "--train.epochs",
                 "1000000",
                 "--log.every_steps",
                 "10",
                 "--watchdog.timeout",
                 "5"},
                with_mpirun_env(options));
    const std::vector<pid_t> pids = pids_once_training(job, tasks, folder / dir);
    ASSERT_EQ(pids.size(), static_cast<std::size_t>(tasks)) << job.so_far();
    sleep_ms(3000);  // the watchdogs of two nodes have heard of each other
    ASSERT_EQ(kill(pids[static_cast<std::size_t>(victim)], SIGSTOP), 0);
    const ProcessResult result = job.wait();
    EXPECT_EQ(result.exit_code, 4) << result.describe();
    EXPECT_EQ(count(result.err, "nothing has moved"), 1) << result.describe();
    EXPECT_EQ(named_ranks(first_line_with(result.err, "nothing has moved")), std::set<int>{victim})
        << result.err;
    for (const pid_t pid : pids) EXPECT_TRUE(ends_soon(pid)) << pid << " lives on";
  }
}

}  // namespace
}  // namespace lockstep::test
