// What lockstep-run makes of a folder that is none, and of two interrupts that are one.

#include <csignal>

#include "fake_mpirun.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class OddStart : public FakedMpirun {};

TEST_F(OddStart, AWorkingFolderThatIsNoneIsRefusedWithWhatIsWrong) {
  plan("exit 0\n");
  write_file_bytes(folder / "file", "");
  struct Case {
    std::vector<std::string> options;
    std::string said;
  };
  for (const Case& c : std::vector<Case>{{{"--wdir", "~/W"}, "no shell has expanded this path"},
                                         {{"--wdir=$HOME/W"}, "no shell has expanded this path"},
                                         {{"--wdir", "file"}, "this is no folder"},
                                         {{"--wdir", "absent"}, "is not there; make it"},
                                         {{"--wdir"}, "--wdir needs a value"},
                                         {{"-wdir"}, "-wdir needs a value"}}) {
    SCOPED_TRACE(c.said);
    const ProcessResult result = run_process(command(c.options), with_fake());
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, c.said), 1) << result.describe();
    EXPECT_TRUE(calls().empty());
  }
}

TEST_F(OddStart, TwoInterruptsWithinAMomentAreOneRequest) {
  plan("trap 'sleep 1; save 7; exit 75' USR1; touch $here/stands; while :; do sleep 0.1; done\nexit 0\n");
  Process job(command({"-n", "2", "--backoff", "0"}), with_fake());
  ASSERT_TRUE(becomes_so(30, [&] { return fs::exists(folder / "bin/stands"); }));
  job.send_signal(SIGINT);
  sleep_s(0.1);
  job.send_signal(SIGINT);
  const ProcessResult result = job.wait();
  EXPECT_EQ(result.exit_code, 130) << result.describe();
  EXPECT_EQ(newest_step(folder / "run"), 7) << result.describe();
}

}  // namespace
}  // namespace lockstep::test
