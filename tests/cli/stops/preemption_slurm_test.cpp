// Asked to stop under srun: by SIGUSR1 and by SIGTERM, to the tasks of a step and to srun itself.

#include "support/slurm_cluster.h"

#include "cli/running_job.h"

namespace lockstep::test {
namespace {

TEST(PreemptionUnderSlurm, TheTasksSaveAndSrunEndsWithTheirCode) {
  TempDir folder;
  const SlurmCluster cluster(folder / "slurm");
  if (!cluster.stands()) LOCKSTEP_SKIP_WITHOUT("slurm", cluster.reason());
  write_file_bytes(folder / "small.ini", small_config());
  ProcessOptions options;
  options.timeout_s = 200;
  options.env["SLURM_CONF"] = cluster.config();
  const std::vector<std::string> length = {"--train.epochs", "400", "--checkpoint.every_steps", "50"};
  const auto train = [&](const std::string& dir) {
    std::vector<std::string> args = {LOCKSTEP_PROGRAM,     "train",     "--config",
                                     folder / "small.ini", "--run.dir", folder / dir};
    args.insert(args.end(), length.begin(), length.end());
    return args;
  };
  ASSERT_EQ(run_process(train("whole"), options).exit_code, 0);

  bool first = true;
  for (const std::string by : {"scancel --signal=USR1", "scancel --signal=TERM", "scancel --signal=INT",
                               "srun", "srun --disable-status"}) {
    SCOPED_TRACE(by);
    std::vector<std::string> argv = {"srun", "--mpi=pmix", "--overcommit", "-N", "2", "-n", "3"};
    if (by == "srun --disable-status") argv.insert(argv.begin() + 1, "--disable-status");
    for (const std::string& word :
         first ? train("run")
               : std::vector<std::string>{LOCKSTEP_PROGRAM, "train", "--resume", "--run.dir", folder / "run"})
      argv.push_back(word);
    first = false;
    Process job(argv, with_mpirun_env(options));
    bool started = false;
    for (int i = 0; i < 6000 && !started; ++i, sleep_ms(10))
      started = job.out().find("the run lies in") != std::string::npos;
    ASSERT_TRUE(started);
    sleep_ms(100);
    if (by == "srun") {
      job.send_signal(SIGUSR1);
    } else if (by == "srun --disable-status") {
      job.send_signal(SIGINT);  // as Ctrl-C, which srun then passes on
    } else {
      const ProcessResult sent =
          run_process({"sh", "-c", by + " $(squeue -s -h -o %i | grep -v batch | head -1)"}, options);
      EXPECT_EQ(sent.exit_code, 0) << sent.describe();
    }
    const ProcessResult result = job.wait();
    const bool interrupted = by.find("INT") != std::string::npos || by == "srun --disable-status";
    EXPECT_EQ(result.exit_code, interrupted ? 130 : 75) << result.describe();
    EXPECT_EQ(count(result.err, "a checkpoint was saved at step "), 1) << result.describe();
  }
  ASSERT_EQ(
      run_process({LOCKSTEP_PROGRAM, "train", "--resume", "--run.dir", folder / "run"}, options).exit_code,
      0);
  EXPECT_EQ(digest(folder / "run", true), digest(folder / "whole", true));
}

}  // namespace
}  // namespace lockstep::test
