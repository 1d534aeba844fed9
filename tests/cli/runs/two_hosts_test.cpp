// Two hosts, as network namespaces of this machine with a network between them: the digest is that of one
// host.

#include "support/two_hosts.h"

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

TEST(Hosts, ARunOnTwoHostsEndsInTheDigestOfOne) {
  const TwoHosts hosts;
  if (!hosts.stand()) LOCKSTEP_SKIP_WITHOUT("netns", hosts.reason());
  TempDir folder;
  write_file_bytes(folder / "small.ini", small_config());
  const auto train = [&](const std::string& dir, const std::vector<std::string>& more) {
    std::vector<std::string> program = {LOCKSTEP_PROGRAM,     "train",     "--config",
                                        folder / "small.ini", "--run.dir", folder / dir};
    program.insert(program.end(), more.begin(), more.end());
    return program;
  };
  const ProcessResult one = run_process(train("one", {}));
  ASSERT_EQ(one.exit_code, 0) << one.describe();
  const std::string want = digest(folder / "one", true);

  struct Placement {
    std::string name;
    std::vector<std::string> mpirun;
    std::vector<int> per_host;
    std::vector<std::string> keys;
  };
  for (const Placement& p :
       std::vector<Placement>{{"1+1", {"-n", "2", "--map-by", "node"}, {1, 1}, {"--device.threads", "1"}},
                              {"2+1", {"-n", "3"}, {2, 1}, {"--train.bucket_mb", "0.02"}},
                              {"2+2", {"-n", "4"}, {2, 2}, {"--device.threads", "2"}},
                              {"2+2, ranks dealt out in turn",
                               {"-n", "4", "--map-by", "node"},
                               {2, 2},
                               {"--train.bucket_mb", "0.02"}},
                              {"2+1, not sharded", {"-n", "3"}, {2, 1}, {"--optimizer.sharded", "false"}},
                              {"2+2, not sharded, no overlap",
                               {"-n", "4"},
                               {2, 2},
                               {"--optimizer.sharded", "false", "--train.overlap", "false"}}}) {
    SCOPED_TRACE(p.name);
    const ProcessResult result = hosts.mpirun(p.mpirun, train(p.name, p.keys));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(count(result.out, hosts.name() + "-a "), p.per_host[0]) << result.out;
    EXPECT_EQ(count(result.out, hosts.name() + "-b "), p.per_host[1]) << result.out;
    EXPECT_EQ(digest(folder / p.name, true), want);
    EXPECT_EQ(digest(folder / p.name), digest(folder / "one"));
  }

  // Stopped in mid-epoch on one host, gone on with on two.
  ASSERT_EQ(run_process(train("moved", {"--train.steps", "5"})).exit_code, 0);
  const ProcessResult resumed = hosts.mpirun({"-n", "3"}, {LOCKSTEP_PROGRAM, "train", "--resume", "--run.dir",
                                                           folder / "moved", "--train.steps", "0"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
  EXPECT_EQ(digest(folder / "moved", true), want);

  // An error is one message there too.
  const ProcessResult bad = hosts.mpirun({"-n", "4"}, train("bad", {"--model.layers", "conv:16x3 rleu"}));
  EXPECT_EQ(bad.exit_code, 2) << bad.describe();
  EXPECT_EQ(count(bad.err, "lockstep: error"), 1) << bad.err;

  const ProcessResult doctor = hosts.mpirun({"-n", "4"}, {LOCKSTEP_PROGRAM, "doctor"});
  EXPECT_EQ(doctor.exit_code, 0) << doctor.describe();
  EXPECT_EQ(count(doctor.out, "2 groups of ranks"), 1) << doctor.out;
}

}  // namespace
}  // namespace lockstep::test
