// A process alone, in whatever environment it finds itself: variables of a launcher that is not there, no
// network, no TMPDIR, little room, few or closed descriptors, a rank that another program has used.

#include <filesystem>
#include <sched.h>
#include <set>

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class Alone : public testing::Test {
 protected:
  Alone() { write_file_bytes(config, small_config()); }
  /// The script of a shell in whose "$@" the program and its arguments stand.
  ProcessResult shell(const std::string& script, const std::vector<std::string>& args,
                      const std::map<std::string, std::string>& environment = {}) const {
    std::vector<std::string> argv = {"bash", "-c", script, "bash", LOCKSTEP_PROGRAM};
    argv.insert(argv.end(), args.begin(), args.end());
    ProcessOptions options;
    options.timeout_s = 100;
    options.env = environment;
    return run_process(argv, options);
  }
  std::vector<std::string> train(const std::string& dir) const {
    return {"train", "--config", config, "--run.dir", folder / dir};
  }
  /// Whether this process may have namespaces of its own, as root may.
  static bool has_namespaces() { return run_process({"unshare", "-n", "-m", "-u", "true"}).exit_code == 0; }

  TempDir folder;
  const std::string config = folder / "small.ini";
};

/// Processes of Open MPI's daemon on this machine.
std::set<std::string> daemons() {
  std::set<std::string> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    std::ifstream in(entry.path() / "comm");
    std::string name;
    if (std::getline(in, name) && name == "orted") found.insert(entry.path());
  }
  return found;
}

TEST_F(Alone, CommandsOfOneProcessLookAtNoLauncher) {
  ASSERT_EQ(lockstep(0, train("run")).exit_code, 0);
  const std::string want = digest(folder / "run");
  for (const std::map<std::string, std::string>& environment :
       std::vector<std::map<std::string, std::string>>{
           {{"PMIX_RANK", "1"}},
           {{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "4"}},
           {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}},
           {{"SLURM_STEP_NUM_TASKS", "3"}, {"SLURM_PROCID", "2"}}}) {
    SCOPED_TRACE(environment.begin()->first);
    ProcessOptions options;
    options.env = environment;
    EXPECT_EQ(lockstep(0, {"digest", folder / "run"}, options).out.substr(0, 64), want);
    EXPECT_NE(lockstep(0, {"inspect", folder / "run"}, options).out.find("checkpoints:"), std::string::npos);
    EXPECT_NE(lockstep(0, {"--help"}, options).out.find("evaluate"), std::string::npos);
    EXPECT_NE(lockstep(0, {"train", "--help"}, options).out.find("--train.epochs"), std::string::npos);
    EXPECT_EQ(lockstep(0, {"train", "--config", config, "--run.dir", "/a/b", "--print-run-dir"}, options).out,
              "/a/b\n");
    const std::string output = folder / environment.begin()->first + ".safetensors";
    EXPECT_EQ(lockstep(0, {"export", "--run", folder / "run", "--output", output}, options).exit_code, 0);
    EXPECT_EQ(digest(output), want);
    expect_refusal(lockstep(0, {"digest", folder / "absent"}, options), {"absent"});
    expect_refusal(lockstep(0, {"digets", folder / "run"}, options), {"digets"});
  }
}

TEST_F(Alone, CopiesUnderALauncherDoEachWhatTheyAreAsked) {
  ASSERT_EQ(lockstep(0, train("run")).exit_code, 0);
  const std::string want = digest(folder / "run");
  // To files of their own, and all to one.
  const ProcessResult own =
      run_mpi(2, {"sh", "-c",
                  "exec " + std::string(LOCKSTEP_PROGRAM) + " export --run " + (folder / "run") +
                      " --output " + (folder / "out") + "$OMPI_COMM_WORLD_RANK.safetensors"});
  ASSERT_EQ(own.exit_code, 0) << own.describe();
  for (const char* file : {"out0.safetensors", "out1.safetensors"}) EXPECT_EQ(digest(folder / file), want);
  const ProcessResult one = run_mpi(
      4, {LOCKSTEP_PROGRAM, "export", "--run", folder / "run", "--output", folder / "one.safetensors"});
  ASSERT_EQ(one.exit_code, 0) << one.describe();
  EXPECT_EQ(read_file_bytes(folder / "one.safetensors"), read_file_bytes(folder / "out0.safetensors"));
  for (const auto& entry : fs::directory_iterator(folder.path()))
    EXPECT_EQ(entry.path().string().find(".tmp."), std::string::npos) << entry.path();
}

TEST_F(Alone, ARankOfALauncherThatIsNotThereIsRefusedAloud) {
  ASSERT_EQ(lockstep(0, train("run")).exit_code, 0);
  const std::vector<std::vector<std::string>> commands = {
      train("alone"),
      {"train", "--config", config, "--train.epochz", "3"},  // and an error of the command line besides
      {"evaluate", "--run", folder / "run"},
      {"predict", "--run", folder / "run", "--input", config},
      {"doctor"}};
  for (const std::vector<std::string>& command : commands)
    for (const auto& [variable, value] : std::vector<std::pair<std::string, std::string>>{
             {"PMIX_RANK", "1"}, {"PMIX_RANK", "0"}, {"OMPI_COMM_WORLD_RANK", "0"}, {"PMI_RANK", "x"}}) {
      SCOPED_TRACE(command[0] + " with " + variable + "=" + value);
      ProcessOptions options = in_time();
      options.env[variable] = value;
      expect_refusal(lockstep(0, command, options), {variable + " is " + value, "is not there"});
    }
  // What a job that has ended left in somebody's shell.
  const ProcessResult stale =
      shell("mpirun -n 1 --oversubscribe bash -c 'export -p' >'" + (folder / "environment") + "' && . '" +
                (folder / "environment") + "' && exec \"$@\"",
            train("alone"), {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}});
  expect_refusal(stale, {"OMPI_COMM_WORLD_RANK", "left over"});
  EXPECT_FALSE(fs::exists(folder / "alone"));
}

TEST_F(Alone, ARankWithoutALauncherIsRefusedWithClosedDescriptorsAndAnUnknownHostName) {
  std::vector<std::string> scripts = {"exec \"$@\" <&-", "exec \"$@\" >&-", "exec \"$@\" <&- >&-"};
  if (has_namespaces()) {
    const std::string quoted = "; exec \"$@\"' bash \"$@\"";
    scripts.push_back("exec unshare -u bash -c 'hostname nowhere.invalid" + quoted);
    scripts.push_back("exec unshare -u -n bash -c 'hostname " + std::string(64, 'h') + quoted + " <&-");
  }
  for (const std::string& script : scripts)
    for (const char* variable : {"PMIX_RANK", "OMPI_COMM_WORLD_RANK"}) {
      SCOPED_TRACE(script + " " + variable);
      expect_refusal(shell(script, train("alone"), {{variable, "0"}}),
                     {std::string(variable) + " is 0", "is not there"});
    }
  // Nobody hears the sentence, and the code is the same.
  for (const char* closed : {" 2>&-", " <&- 2>&-", " <&- >&- 2>&-"}) {
    const ProcessResult unheard =
        shell("exec \"$@\"" + std::string(closed), train("alone"), {{"PMIX_RANK", "0"}});
    EXPECT_EQ(unheard.exit_code, 2) << closed << unheard.describe();
  }
  EXPECT_FALSE(fs::exists(folder / "alone"));
}

TEST_F(Alone, FewOpenFilesAreOneSentenceAndALowLimitOfTheShellIsRaised) {
  for (const char* limit : {"8", "12", "20", "63"})
    expect_refusal(
        shell("ulimit -n " + std::string(limit) + "; exec \"$@\"", train("few")),
        {"the limit of open files is " + std::string(limit) + ",", "64 are needed", "ulimit -n 64"});
  EXPECT_FALSE(fs::exists(folder / "few"));
  const ProcessResult raised = shell("ulimit -Sn 8; exec \"$@\"", train("raised"));
  EXPECT_EQ(raised.exit_code, 0) << raised.describe();
  const ProcessResult enough = shell("ulimit -n 64; exec \"$@\"", train("enough"));
  EXPECT_EQ(enough.exit_code, 0) << enough.describe();
  const ProcessResult ranks = run_mpi(2, {"bash", "-c", "ulimit -n 16; exec \"$@\"", "bash", LOCKSTEP_PROGRAM,
                                          "train", "--config", config, "--run.dir", folder / "few"});
  EXPECT_EQ(ranks.exit_code, 2) << ranks.describe();
  EXPECT_GE(count(ranks.err, "the limit of open files is 16,"), 1) << ranks.err;
  EXPECT_FALSE(fs::exists(folder / "few"));
}

TEST_F(Alone, ASecondProgramOfARankIsToldToTakeAnMpirunOfItsOwn) {
  ASSERT_EQ(lockstep(0, train("run")).exit_code, 0);
  const std::vector<std::string> tail = {"bash", LOCKSTEP_PROGRAM, folder / "run"};
  const auto under_mpirun = [&](int ranks, const std::string& script) {
    std::vector<std::string> argv = {"bash", "-c", script};
    argv.insert(argv.end(), tail.begin(), tail.end());
    return run_mpi(ranks, argv);
  };
  const std::string evaluate = "\"$1\" evaluate --run \"$2\" ";
  for (const int ranks : {1, 2}) {
    SCOPED_TRACE(ranks);
    const ProcessResult twice =
        under_mpirun(ranks, "echo dir $PMIX_SERVER_TMPDIR; " + evaluate + "|| exit 9; \"$1\" digest \"$2\" " +
                                "|| exit 8; sleep 1; " + evaluate);
    EXPECT_EQ(twice.exit_code, 2) << twice.describe();
    EXPECT_GE(count(twice.err, "a program before this one has used rank "), 1) << twice.describe();
    EXPECT_EQ(count(twice.err, "MPI_Init"), 0) << twice.err;
    EXPECT_EQ(count(twice.out, "test: "), 1) << twice.out;
    // mpirun can still remove what it keeps for its ranks.
    const std::size_t at = twice.out.find("dir /");
    ASSERT_NE(at, std::string::npos) << twice.out;
    EXPECT_FALSE(fs::exists(twice.out.substr(at + 4, twice.out.find('\n', at) - at - 4)));
  }
  // One that was refused before MPI has used nothing up.
  const ProcessResult after = under_mpirun(1, "\"$1\" evaluate --runn x; " + evaluate);
  EXPECT_EQ(after.exit_code, 0) << after.describe();
}

TEST_F(Alone, ABareTrainingNeedsNoNetworkNoTmpdirAndNoDaemon) {
  ASSERT_EQ(lockstep(2, train("two")).exit_code, 0);
  const std::string want = digest(folder / "two", true);
  const std::set<std::string> before = daemons();
  std::vector<std::pair<std::string, std::string>> places = {
      {"empty environment", "exec env -i \"$@\""},
      {"absent TMPDIR", "TMPDIR=/absent/folder exec \"$@\""},
      {"TMPDIR is a file", "TMPDIR='" + config + "' exec \"$@\""}};
  if (has_namespaces()) {
    const std::string mount = "mkdir -p '" + (folder / "t") + "'; mount -t tmpfs -o size=4k";
    const std::string then = " tmpfs '" + (folder / "t") + "'; export TMPDIR='" + (folder / "t") + "'; ";
    const auto within = [](const std::string& namespaces, const std::string& script) {
      return "exec unshare " + namespaces + " bash -c '" + script + "exec \"$@\"' bash \"$@\"";
    };
    const auto unquoted = [](std::string text) {
      text.erase(std::remove(text.begin(), text.end(), '\''), text.end());
      return text;
    };
    places.push_back({"no network", "exec unshare -n \"$@\""});
    places.push_back({"long host name", within("-u", "hostname " + std::string(63, 'h') + "; ")});
    places.push_back(
        {"full TMPDIR", within("-m", unquoted(mount + then + "cat /dev/zero >$TMPDIR/x 2>&-; "))});
    places.push_back({"read-only TMPDIR", within("-m", unquoted(mount + ",ro" + then))});
  }
  for (const auto& [what, script] : places) {
    SCOPED_TRACE(what);
    const ProcessResult result = shell(script, train("run"));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    // Not a word of MPI's.
    EXPECT_EQ(count(result.err, "["), 0) << result.err;
    EXPECT_LE(count(result.err, "\n"), 6) << result.err;
    EXPECT_EQ(digest(folder / "run", true), want);
    fs::remove_all(folder / "run");
  }
  EXPECT_EQ(daemons(), before);
}

TEST_F(Alone, AFileSizeLimitIsOneSentenceAndNothingStaysBehind) {
  const std::set<std::string> before = daemons();
  for (const char* limit : {"0", "1", "4"}) {
    // A program that runs away is to meet a wall.
    const ProcessResult result =
        shell("ulimit -v 4000000; ulimit -f " + std::string(limit) + "; exec \"$@\"", train("limited"));
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, "lockstep: error"), 1) << result.describe();
    EXPECT_NE(result.err.find("File too large"), std::string::npos) << result.describe();
    fs::remove_all(folder / "limited");
  }
  EXPECT_EQ(daemons(), before);
}

TEST_F(Alone, ClosedDescriptorsPutNothingIntoFilesOfTheRun) {
  ASSERT_EQ(lockstep(0, train("open")).exit_code, 0);
  const std::string want = digest(folder / "open", true);
  for (int closed = 0; closed < 8; ++closed) {
    std::string redirections;
    if (closed & 1) redirections += " <&-";
    if (closed & 2) redirections += " >&-";
    if (closed & 4) redirections += " 2>&-";
    SCOPED_TRACE("closed:" + redirections);
    const std::string dir = "closed" + std::to_string(closed);
    // Under mpirun the ranks have pipes of mpirun's; without mpirun what is closed is closed.
    const ProcessResult bare = shell("exec \"$@\"" + redirections, train(dir));
    // Standard output holds no result of a training; what that means for its exit code is for train to say.
    if ((closed & 2) == 0) {
      EXPECT_EQ(bare.exit_code, 0) << bare.describe();
    }
    EXPECT_EQ(digest(folder / dir, true), want);
    for (const auto& entry : fs::recursive_directory_iterator(folder / dir)) {
      if (!entry.is_regular_file()) continue;
      const std::string bytes = read_file_bytes(entry.path());
      for (const char* foreign : {"epoch 1/4", "rank  host", "the run lies in", "lockstep:"})
        EXPECT_EQ(bytes.find(foreign), std::string::npos) << foreign << " in " << entry.path();
    }
    // A result that nobody can read is none.
    const int wanted = (closed & 2) == 0 ? 0 : 2;
    EXPECT_EQ(shell("exec \"$@\"" + redirections, {"digest", folder / dir}).exit_code, wanted);
    EXPECT_EQ(shell("exec \"$@\"" + redirections, {"evaluate", "--run", folder / dir}).exit_code, wanted);
    const std::string output = folder / dir + ".safetensors";
    shell("exec \"$@\"" + redirections, {"export", "--run", folder / dir, "--output", output});
    EXPECT_EQ(digest(output), digest(folder / dir));
  }
}

}  // namespace
}  // namespace lockstep::test
