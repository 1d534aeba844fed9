// Batch jobs under a real Slurm of two nodes: started by mpirun and by srun, preempted, with lost ranks and
// nodes.

#include "support/slurm_cluster.h"

#include "launch_support.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class Batch : public LaunchTest, public testing::WithParamInterface<const char*> {
 protected:
  static constexpr std::int64_t steps = 5000;

  Batch() {
    fs::create_directory(folder / "a folder");
    fs::copy(launch_folder, folder / "a folder/launch", fs::copy_options::recursive);
  }
  ProcessOptions with_cluster(const SlurmCluster& cluster) const {
    ProcessOptions options = environment(60);
    options.env["SLURM_CONF"] = cluster.config();
    options.env["LOCKSTEP"] = LOCKSTEP_PROGRAM;
    options.env["LOCKSTEP_GRACE"] = "60";
    options.directory = folder.path();
    return with_mpirun_env(options);
  }
  std::string said(const SlurmCluster& cluster, const std::vector<std::string>& command) const {
    const ProcessResult result = run_process(command, with_cluster(cluster));
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    return result.out;
  }
  /// The number of a job on both nodes, one task each.
  std::string submit(const SlurmCluster& cluster) const {
    std::vector<std::string> command = {"sbatch",
                                        "--parsable",
                                        "--output=" + folder / "run.out",
                                        "--nodes=2",
                                        "--ntasks-per-node=1",
                                        "--gpus-per-node=0",
                                        "--time=30",
                                        folder / "a folder/launch/" + GetParam()};
    const std::vector<std::string> words = train("run", steps);
    command.insert(command.end(), words.begin() + 1, words.end());
    const std::string out = said(cluster, command);
    return out.substr(0, out.find_first_of(";\n"));
  }
  /// The same of a job of `steps` steps, once it has a checkpoint.
  std::string start(const SlurmCluster& cluster) const {
    std::string job = submit(cluster);
    EXPECT_TRUE(becomes_so(90, [&] { return newest_step(folder / "run") >= 25; })) << output();
    return job;
  }
  std::string state(const SlurmCluster& cluster, const std::string& job) const {
    const std::string text = said(cluster, {"scontrol", "--oneliner", "show", "job", job});
    const std::size_t at = text.find("JobState=") + 9;
    return text.substr(at, text.find(' ', at) - at);
  }
  /// Waits for the end of a job. A requeued one is held for two minutes, which is lifted, but not at once:
  /// what is started within a second of its requeue has credentials that count as revoked, and fails.
  std::string end_of(const SlurmCluster& cluster, const std::string& job) const {
    std::string last;
    int held = 0;
    int bad = 0;  // a job on its way back into the queue shows a bad end for a moment
    becomes_so(300, [&] {
      sleep_s(0.5);
      last = state(cluster, job);
      held = last == "PENDING" ? held + 1 : 0;
      if (held > 5)
        run_process({"scontrol", "update", "jobid=" + job, "StartTime=now"}, with_cluster(cluster));
      const bool ended = last != "PENDING" && last != "RUNNING" && last != "COMPLETING" &&
                         last != "CONFIGURING" && last != "REQUEUED";
      bad = ended ? bad + 1 : 0;
      return last == "COMPLETED" || bad > 6;
    });
    return last;
  }
  std::string output() const {
    return fs::exists(folder / "run.out") ? told(read_file_bytes(folder / "run.out")) : "";
  }
  bool is_srun() const { return std::string(GetParam()) == "slurm_srun.sbatch"; }
};

TEST_P(Batch, RunsOnTwoNodesSurvivesALostRankAndGoesOnAfterPreemption) {
  const SlurmCluster cluster(folder / "slurm");
  if (!cluster.stands()) LOCKSTEP_SKIP_WITHOUT("slurm", cluster.reason());
  const std::string want = undisturbed(steps);
  const std::string job = start(cluster);
  const std::vector<int> ranks = ranks_of("run");
  ASSERT_EQ(ranks.size(), 2u);

  // A rank is lost: again in the same allocation.
  ASSERT_EQ(kill(ranks[1], SIGKILL), 0);
  ASSERT_TRUE(becomes_so(60, [&] { return fs::exists(folder / "run/checkpoints/gen-000002"); })) << output();
  ASSERT_TRUE(ranks_stand("run", 2, {ranks[0], ranks[1]}));
  const std::int64_t before = newest_step(folder / "run");
  ASSERT_TRUE(becomes_so(60, [&] { return newest_step(folder / "run") > before; })) << output();

  // Preempted as before the time limit: back into the queue, and on from there.
  said(cluster, {"scancel", "--batch", "--signal=USR1", job});
  ASSERT_TRUE(becomes_so(60, [&] { return count(output(), "is back in the queue") == 1; })) << output();
  EXPECT_EQ(end_of(cluster, job), "COMPLETED") << output();
  const std::string text = output();
  EXPECT_EQ(count(text, "lost (4); restart 1"), 1) << text;
  EXPECT_EQ(count(text, "preempted: the checkpoint of step"), 1) << text;
  EXPECT_EQ(count(text, "2 ranks on n1 (1), n2 (1)"), 3) << text;
  EXPECT_EQ(digest(folder / "run", true), want);
}

TEST_P(Batch, ALostNode) {
  const SlurmCluster cluster(folder / "slurm");
  if (!cluster.stands()) LOCKSTEP_SKIP_WITHOUT("slurm", cluster.reason());
  const std::string want = undisturbed(steps);
  const std::string job = start(cluster);
  said(cluster, {"scontrol", "update", "nodename=n2", "state=down", "reason=test"});
  if (is_srun()) {
    // The job went back into the queue and needs two nodes.
    ASSERT_TRUE(becomes_so(90, [&] { return state(cluster, job) == "PENDING"; })) << output();
    said(cluster, {"scontrol", "update", "nodename=n2", "state=idle"});
  }
  EXPECT_EQ(end_of(cluster, job), "COMPLETED") << output();
  const std::string text = output();
  if (!is_srun()) {
    EXPECT_EQ(count(text, "host n2 is left out"), 1) << text;
    EXPECT_EQ(count(text, "1 rank on n1 (1), --resume"), 1) << text;
  }
  EXPECT_EQ(digest(folder / "run", true), want);
}

TEST_P(Batch, ACancelledJobSavesWhatItHasAndStaysCancelled) {
  const SlurmCluster cluster(folder / "slurm");
  if (!cluster.stands()) LOCKSTEP_SKIP_WITHOUT("slurm", cluster.reason());
  const std::string want = undisturbed(steps);
  const std::string job = start(cluster);
  said(cluster, {"scancel", job});
  ASSERT_TRUE(becomes_so(60, [&] { return state(cluster, job) == "CANCELLED"; })) << output();
  ASSERT_TRUE(becomes_so(60, [&] { return ranks_of("run").empty(); })) << output();
  EXPECT_EQ(count(output(), "back in the queue"), 0) << output();
  EXPECT_FALSE(fs::exists(folder / "run/model.safetensors"));
  const std::int64_t before = newest_step(folder / "run");
  // Submitted again, it goes on from there.
  const std::string again = submit(cluster);
  EXPECT_EQ(end_of(cluster, again), "COMPLETED") << output();
  EXPECT_EQ(count(output(), "--resume from step " + std::to_string(before)), 1) << output();
  EXPECT_EQ(digest(folder / "run", true), want);
}

TEST_P(Batch, AnInterruptedJobSavesAndIsNotPutBackIntoTheQueue) {
  const SlurmCluster cluster(folder / "slurm");
  if (!cluster.stands()) LOCKSTEP_SKIP_WITHOUT("slurm", cluster.reason());
  const std::string job = start(cluster);
  const std::int64_t before = newest_step(folder / "run");
  said(cluster, {"scancel", "--batch", "--signal=INT", job});
  ASSERT_TRUE(becomes_so(60, [&] { return count(output(), "slurm: interrupted: not put back") == 1; }))
      << output();
  EXPECT_EQ(end_of(cluster, job), "FAILED") << output();  // as Slurm calls every exit code but 0
  EXPECT_EQ(count(output(), "back in the queue"), 0) << output();
  EXPECT_EQ(count(output(), "restart 1"), 0) << output();
  EXPECT_GE(newest_step(folder / "run"), before);
  EXPECT_TRUE(ranks_of("run").empty());
}

INSTANTIATE_TEST_SUITE_P(Slurm, Batch, testing::Values("slurm.sbatch", "slurm_srun.sbatch"),
                         [](const auto& p) {
                           return std::string(p.param) == "slurm.sbatch" ? "Mpirun" : "Srun";
                         });

}  // namespace
}  // namespace lockstep::test
