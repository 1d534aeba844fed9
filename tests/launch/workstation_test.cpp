// launch/workstation.sh: how many ranks it starts, with GPUs and programs that are scripts of the test.

#include <sched.h>

#include "launch_support.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class Workstation : public LaunchTest {
 protected:
  Workstation() {
    fs::create_directory(folder / "bin");
    write_script("mpirun", "printf '%s ' \"$@\" >\"$(dirname \"$0\")/call\"\n");
    write_script(
        "lockstep",
        "case \"$*\" in *absent*) echo 'lockstep: error: absent' >&2; exit 2 ;; esac\n"
        "echo 'batches: 130 samples an epoch, 48 a batch, 1 slices of 48; 3 steps an epoch, 9 in all'\n");
  }
  void write_script(const std::string& name, const std::string& text) const {
    const std::string asked = "case \"$*\" in *--print-run-dir*) exec " LOCKSTEP_PROGRAM
                              " train --run.dir run --print-run-dir ;; esac\n";
    write_file_bytes(folder / ("bin/" + name), "#!/bin/sh\n" + (name == "lockstep" ? asked : "") + text);
    fs::permissions(folder / ("bin/" + name), fs::perms::owner_all);
  }
  ProcessResult start(const std::map<std::string, std::string>& more,
                      const std::vector<std::string>& words = {"train", "--run.dir", "run"}) const {
    ProcessOptions options = environment(60);
    options.directory = folder.path();
    options.env["PATH"] = folder / "bin:" + std::getenv("PATH");
    options.env["LOCKSTEP"] = folder / "bin/lockstep";
    for (const auto& [key, value] : more) options.env[key] = value;
    fs::remove(folder / "bin/call");
    std::vector<std::string> argv = {launch_folder + "workstation.sh"};
    argv.insert(argv.end(), words.begin(), words.end());
    return run_process(argv, options);
  }
  /// The word after -n in what mpirun was told; empty: it was not started.
  std::string ranks() const {
    if (!fs::exists(folder / "bin/call")) return "";
    const std::string call = read_file_bytes(folder / "bin/call");
    const std::size_t at = call.find(" -n ");
    return at == std::string::npos ? "none" : call.substr(at + 4, call.find(' ', at + 4) - at - 4);
  }
};

TEST_F(Workstation, ARankForEachGpuThatMayBeUsed) {
  write_script("nvidia-smi", "for i in 0 1 2 3; do echo \"GPU $i: NVIDIA H100 (UUID: GPU-$i-abc)\"; done\n");
  struct Case {
    std::map<std::string, std::string> environment;
    std::string ranks;
  };
  for (const Case& c : std::vector<Case>{{{}, "4"},
                                         {{{"CUDA_VISIBLE_DEVICES", "0,2"}}, "2"},
                                         {{{"CUDA_VISIBLE_DEVICES", "3"}}, "1"},
                                         {{{"CUDA_VISIBLE_DEVICES", "1,9,2"}}, "1"},
                                         {{{"CUDA_VISIBLE_DEVICES", "0,-1,2"}}, "1"},
                                         {{{"CUDA_VISIBLE_DEVICES", "GPU-0-abc,GPU-3-abc"}}, "2"},
                                         {{{"LOCKSTEP_RANKS", "3"}}, "3"}}) {
    const ProcessResult result = start(c.environment);
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(ranks(), c.ranks) << result.describe();
  }
}

TEST_F(Workstation, WithoutGpusARankForEachCoreThatHasASlice) {
  write_script("nvidia-smi", "exit 9\n");
  EXPECT_EQ(start({}).exit_code, 0);
  EXPECT_EQ(ranks(), "1") << "the batch has one slice";
  write_script("lockstep",
               "echo 'batches: 4096 samples an epoch, 4096 a batch, 4096 slices of 1; 1 steps'\n");
  cpu_set_t mask;
  ASSERT_EQ(sched_getaffinity(0, sizeof mask, &mask), 0);
  EXPECT_EQ(start({}).exit_code, 0);
  EXPECT_EQ(ranks(), std::to_string(CPU_COUNT(&mask)));
  EXPECT_EQ(start({{"CUDA_VISIBLE_DEVICES", "0"}}).exit_code, 0);
  EXPECT_EQ(ranks(), std::to_string(CPU_COUNT(&mask)));
}

TEST_F(Workstation, OptionsAndErrorsArePassedOn) {
  ASSERT_EQ(start({{"LOCKSTEP_RANKS", "2"}}, {"--backoff", "0", "--tag-output", "train", "--run.dir", "run"})
                .exit_code,
            0);
  EXPECT_EQ(count(read_file_bytes(folder / "bin/call"), "--tag-output"), 1);
  write_script("nvidia-smi", "exit 9\n");
  const ProcessResult bad = start({}, {"train", "--config", "absent.ini"});
  EXPECT_EQ(bad.exit_code, 2) << bad.describe();
  EXPECT_EQ(count(bad.err, "lockstep: error: absent"), 1) << bad.err;
  EXPECT_EQ(ranks(), "");
  EXPECT_EQ(start({}, {"--backoff", "0"}).exit_code, 2);
}

TEST_F(Workstation, ThePlanIsAskedForWhereTheJobWillRun) {
  write_script("nvidia-smi", "exit 9\n");
  write_script("lockstep",
               "test -e here || exit 2\n"
               "echo 'batches: 4096 samples an epoch, 4096 a batch, 2 slices of 1; 1 steps'\n");
  fs::create_directory(folder / "elsewhere");
  write_file_bytes(folder / "elsewhere/here", "");
  EXPECT_EQ(start({}, {"--wdir", "elsewhere", "train", "--run.dir", "run"}).exit_code, 0);
  EXPECT_NE(ranks(), "");
}

TEST_F(Workstation, ClosedDescriptorsAreNobodysHindrance) {
  for (const char* closed : {"<&-", ">&-", "2>&-", "<&- >&- 2>&-"}) {
    SCOPED_TRACE(closed);
    ProcessOptions options = environment(60);
    options.directory = folder.path();
    options.env["PATH"] = folder / "bin:" + std::getenv("PATH");
    options.env["LOCKSTEP"] = folder / "bin/lockstep";
    options.env["LOCKSTEP_RANKS"] = "2";
    fs::remove(folder / "bin/call");
    const ProcessResult result = run_process(
        {"bash", "-c", "exec " + launch_folder + "workstation.sh train --run.dir run " + closed}, options);
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(ranks(), "2");
  }
}

}  // namespace
}  // namespace lockstep::test
