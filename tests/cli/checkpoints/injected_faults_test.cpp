// A save that is killed at each of its calls, or whose calls fail: nothing acknowledged is lost, the training
// goes on where it can, and the end has the digest of the undisturbed run.

#include <array>
#include <filesystem>
#include <set>

#include "support/turns.h"

#include "cli/checkpoints/checkpoint_faults_support.h"

#ifdef FAULT_INJECTION

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

/// A call that the fault injection library has counted.
struct Call {
  int number;
  std::string call;
  std::string path;
};

class InjectedFaults : public CheckpointFaults {
 protected:
  /// `ranks` 0: bare. Spoils call `at` of `rank`, or with `at` 0 none and writes a log to calls.txt.
  ProcessResult run(int ranks, const std::string& dir, int at, const std::string& kind, int rank = 0) {
    fs::remove_all(folder / dir);
    std::map<std::string, std::string> env = {{"LD_PRELOAD", FAULT_INJECTION},
                                              {"LOCKSTEP_FAULT_DIR", folder / dir + "/checkpoints"},
                                              {"LOCKSTEP_FAULT_AT", std::to_string(at)},
                                              {"LOCKSTEP_FAULT_KIND", kind},
                                              {"LOCKSTEP_FAULT_RANK", std::to_string(rank)}};
    if (at == 0) env["LOCKSTEP_FAULT_LOG"] = folder / "calls.txt";
    ProcessOptions options;
    std::vector<std::string> argv = {LOCKSTEP_PROGRAM};
    const std::vector<std::string> args = train(dir);
    argv.insert(argv.end(), args.begin(), args.end());
    if (ranks == 0) {
      options.env = env;
      return run_process(argv, options);
    }
    // The ranks alone, not mpirun.
    std::vector<std::string> to_mpirun = {"--mca", "odls_base_sigkill_timeout", "0"};
    for (const auto& [key, value] : env) {
      to_mpirun.push_back("-x");
      to_mpirun.push_back(key + "=" + value);
    }
    return run_mpi(ranks, argv, options, to_mpirun);
  }

  /// The calls of `rank` for the best weights of step 3, the checkpoint of step 4, and the removal of that of
  /// step 2.
  std::vector<Call> calls_of_a_save(int ranks, int rank = 0) {
    fs::remove(folder / "calls.txt");
    const ProcessResult result = run(ranks, "counted", 0, "", rank);
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    expect_right("counted", "with the library loaded");
    std::vector<Call> calls;
    std::ifstream in(folder / "calls.txt");
    const auto is_of = [](const Call& c, const char* step) {
      return c.path.find(std::string("saving-best-") + step) != std::string::npos ||
             c.path.find(std::string("saving-step-") + step) != std::string::npos;
    };
    for (Call c; in >> c.number >> c.call >> c.path;) {
      if (is_of(c, "000000006")) break;
      if (!calls.empty() || is_of(c, "000000003") || is_of(c, "000000004")) calls.push_back(c);
    }
    EXPECT_GT(calls.size(), 5u);
    return calls;
  }

  /// Every call but writes, of the writes to each file the first and the last; of the best weights, which go
  /// the same way, only what makes them durable.
  static std::vector<Call> sample(const std::vector<Call>& calls) {
    std::map<std::string, std::pair<int, int>> ends;
    for (const Call& c : calls)
      if (c.call == "write") {
        ends.try_emplace(c.path, c.number, c.number);
        ends[c.path].second = c.number;
      }
    std::vector<Call> some;
    for (const Call& c : calls) {
      const bool best = c.path.find("best-") != std::string::npos;
      if (best && c.call != "rename" && c.call != "fsync") continue;
      if (c.call != "write" || ends[c.path].first == c.number || ends[c.path].second == c.number)
        some.push_back(c);
    }
    return some;
  }
  static std::string text(const Call& c) { return std::to_string(c.number) + " " + c.call + " " + c.path; }

  void kill_and_resume(int ranks, int rank, const Call& c, int resumed_ranks) {
    const std::string what = "killed at " + text(c) + " of rank " + std::to_string(rank);
    const ProcessResult killed = run(ranks, "killed", c.number, "kill", rank);
    if (ranks == 0)
      EXPECT_EQ(killed.signal, SIGKILL) << what << killed.describe();
    else
      EXPECT_NE(killed.exit_code, 0) << what << killed.describe();
    const ProcessResult resumed =
        lockstep(resumed_ranks, {"train", "--resume", "--run.dir", folder / "killed"});
    ASSERT_EQ(resumed.exit_code, 0) << what << resumed.describe();
    EXPECT_EQ(count(resumed.err, "passed over"), 0) << what << resumed.describe();
    expect_right("killed", what);
  }

  /// One call fails: the run goes on to the right end and tells of it in one line, which names `reason`.
  void fail_and_go_on(int ranks, int rank, const Call& c, const std::string& kind) {
    const std::string what = kind + " at " + text(c) + " of rank " + std::to_string(rank);
    const ProcessResult result = run(ranks, "failed", c.number, kind, rank);
    ASSERT_EQ(result.exit_code, 0) << what << result.describe();
    const std::string reason = kind == "eio" ? "Input/output error" : "No space left on device";
    EXPECT_EQ(count(result.err, "warning: step "), 1) << what << result.describe();
    EXPECT_EQ(count(result.err, "could not be saved, the training goes on") +
                  count(result.err, "older ones could not be removed"),
              1)
        << what << result.describe();
    EXPECT_EQ(count(result.err, reason), 1) << what << result.describe();
    if (ranks > 1) {
      EXPECT_EQ(count(result.err, "rank " + std::to_string(rank) + " on "), 1) << what << result.describe();
    }
    expect_right("failed", what);
  }
};

TEST_F(InjectedFaults, AKillAtEveryCallOfASaveLosesNothing) {
  std::set<std::string> kinds;
  int best = 0;
  const std::vector<Call> calls = calls_of_a_save(0);
  std::map<std::string, std::size_t> of_kind, seen;
  for (const Call& c : calls) ++of_kind[c.call];
  for (const Call& c : calls) {
    best += c.path.find("saving-best-") != std::string::npos ? 1 : 0;
    if (!is_taken(seen[c.call]++, of_kind[c.call], 2)) continue;
    kinds.insert(c.call);
    kill_and_resume(0, 0, c, 0);
  }
  EXPECT_EQ(kinds, (std::set<std::string>{"fsync", "mkdir", "open", "rename", "unlink", "write"}));
  EXPECT_GT(best, 5);
}

TEST_F(InjectedFaults, AKillOfEitherRankAtEveryKindOfCallLosesNothing) {
  // Of the calls of a kind on a file or directory the last; for what is resumed, each number of ranks in
  // turn.
  int turn = 0;
  for (const int rank : {0, 1}) {
    std::map<std::pair<std::string, std::string>, Call> last;
    for (const Call& c : calls_of_a_save(2, rank))
      if (c.path.find("best-") == std::string::npos) last.insert_or_assign({c.call, c.path}, c);
    for (const auto& [what, call] : last) {
      constexpr std::array resumed = {0, 2, 3};
      const auto at = static_cast<std::size_t>(turn++);
      if (is_taken(at, last.size(), 2)) kill_and_resume(2, rank, call, resumed[at % resumed.size()]);
    }
  }
}

TEST_F(InjectedFaults, AnErrorIsReportedAndTheTrainingGoesOn) {
  for (const Call& c : sample(calls_of_a_save(0))) {
    const std::size_t turn = static_cast<std::size_t>(c.number);
    if (c.call == "write")
      fail_and_go_on(0, 0, c, std::vector<std::string>{"enospc", "eio", "short"}[turn % 3]);
    else if (c.call == "open" || c.call == "mkdir")
      fail_and_go_on(0, 0, c, "enospc");
    else
      fail_and_go_on(0, 0, c, "eio");
  }
}

TEST_F(InjectedFaults, AnErrorOfAnotherRankIsReportedByRankZero) {
  std::set<std::string> seen;
  for (const Call& c : calls_of_a_save(2, 1)) {
    if (!seen.insert(c.call).second) continue;
    fail_and_go_on(2, 1, c, c.call == "write" ? "short" : c.call == "open" ? "enospc" : "eio");
  }
  EXPECT_EQ(seen, (std::set<std::string>{"fsync", "open", "write"}));
}

TEST_F(InjectedFaults, TheLastCheckpointOfARunIsTriedTwice) {
  // The disk fails once, in the save that ends the run.
  const ProcessResult counted = run(0, "counted", 0, "");
  ASSERT_EQ(counted.exit_code, 0);
  int last = 0;
  std::ifstream in(folder / "calls.txt");
  for (Call call; in >> call.number >> call.call >> call.path;)
    if (call.path.find("saving-step-000000008") != std::string::npos && call.call == "open")
      last = call.number;
  fail_and_go_on(0, 0, {last, "open", "the last save"}, "enospc");
}

}  // namespace
}  // namespace lockstep::test

#endif
