// A save that is killed at each of its calls, or whose calls fail: nothing acknowledged is lost, the training
// goes on where it can, and the end has the digest of the undisturbed run.

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

#include "support/mount.h"
#include "support/turns.h"

#include "cli_support.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

/// Every file below `path` with its bytes.
std::map<std::string, std::string> contents(const std::string& path) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files[entry.path().string()] = read_file_bytes(entry.path());
  return files;
}

/// The names in all generations of a run, sorted.
std::vector<std::string> checkpoint_names(const std::string& run) {
  std::vector<std::string> names;
  for (const auto& generation : fs::directory_iterator(run + "/checkpoints"))
    for (const auto& entry : fs::directory_iterator(generation.path()))
      names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// 3 steps an epoch, a validation after each, a checkpoint every 2 steps of which one is kept.
std::string tiny_config() {
  return R"(
[model]
layers = dense:12 relu dense:3
[data]
format = synthetic
samples = 64
shape = 8
classes = 3
validation_fraction = 0.25
[train]
global_batch = 16
slices = 4
steps = 8
[optimizer]
name = adam
lr = 0.01
[checkpoint]
every_steps = 2
keep = 1
)";
}

class CheckpointFaults : public testing::Test {
 protected:
  void SetUp() override {
    write_file_bytes(config, tiny_config());
    const ProcessResult result = lockstep(0, train("whole"));
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    want = digest(folder / "whole", true);
  }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args = {"train",      "--config",         config, "--run.dir",
                                     folder / dir, "--device.threads", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  /// No trace of a broken-off save, and the digest of the undisturbed run.
  void expect_right(const std::string& dir, const std::string& what) {
    EXPECT_EQ(digest(folder / dir, true), want) << what;
    EXPECT_TRUE(read_file_bytes(folder / dir + "/model.safetensors") ==
                read_file_bytes(folder / "whole/model.safetensors"))
        << what;
    for (const std::string& name : checkpoint_names(folder / dir))
      EXPECT_FALSE(name.starts_with(".")) << what << " left " << name;
  }

  TempDir folder;
  const std::string config = folder / "tiny.ini";
  std::string want;
};

#ifdef FAULT_INJECTION

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

#endif  // FAULT_INJECTION

TEST_F(CheckpointFaults, AFullDiskCostsNoOlderCheckpointAndRoomMendsIt) {
  fs::create_directories(folder / "disk");
  // Weights of 0.7 MiB, and twice that of optimizer state: one checkpoint and the final weights have room,
  // not a second checkpoint.
  const std::vector<std::string> wide = {
      "--model.layers", "dense:16000 relu dense:3", "--train.steps", "6", "--data.validation_fraction", "0"};
  ASSERT_EQ(lockstep(0, train("wide", wide)).exit_code, 0);
  const std::string small = "size=4m";
  const TmpfsMount disk(folder / "disk", small);
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  for (const int ranks : {2, 0}) {
    fs::remove_all(folder / "disk/run");
    const ProcessResult full = lockstep(ranks, train("disk/run", wide));
    ASSERT_EQ(full.exit_code, 0) << full.describe();
    // Steps 4 and 6, and the last one once more.
    EXPECT_EQ(count(full.err, "could not be saved, the training goes on"), 3) << full.describe();
    EXPECT_EQ(count(full.err, "no space for the checkpoint"), 3) << full.describe();
    const auto names = checkpoint_names(folder / "disk/run");
    EXPECT_EQ(std::count(names.begin(), names.end(), "step-000000002"), 1);
    EXPECT_EQ(digest(folder / "disk/run"), digest(folder / "wide")) << "the final weights had room";
    // The rest of the run again, with room.
    ASSERT_EQ(mount("tmpfs", (folder / "disk").c_str(), "tmpfs", MS_REMOUNT, "size=32m"), 0);
    const ProcessResult resumed =
        lockstep(ranks, {"train", "--resume", "--run.dir", folder / "disk/run", "--device.threads", "1"});
    ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
    EXPECT_NE(resumed.err.find("step 2)"), std::string::npos) << resumed.err;
    EXPECT_EQ(digest(folder / "disk/run", true), digest(folder / "wide", true));
    fs::remove_all(folder / "disk/run");
    ASSERT_EQ(mount("tmpfs", (folder / "disk").c_str(), "tmpfs", MS_REMOUNT, small.c_str()), 0);
  }
}

TEST_F(CheckpointFaults, DamageInAnyFileOfAnyRankIsNamedAndTheOlderOneTaken) {
  ASSERT_EQ(lockstep(3, train("parts", {"--checkpoint.keep", "3"})).exit_code, 0);
  const std::string newest = folder / "parts/checkpoints/gen-000001/step-000000008";
  const auto whole = contents(newest);
  ASSERT_GE(whole.size(), 4u) << "three ranks were to write parts";
  int turn = 0;
  for (const auto& [path, bytes] : whole) {
    const std::string name = fs::path(path).filename();
    for (int way = 0; way < 3; ++way, ++turn) {
      std::string bad = bytes;
      const std::size_t at = bytes.size() * static_cast<std::size_t>(way + 1) / 4;
      if (way == 1)
        bad.resize(at);
      else
        bad[at] = static_cast<char>(bad[at] ^ (1 << (turn % 8)));
      // Blanks between the words of the manifest carry nothing.
      if (way != 1 && name == "manifest.json" && (bytes[at] == ' ' || bytes[at] == '\n')) continue;
      write_file_bytes(path, bad);
      const ProcessResult found = lockstep(0, {"digest", folder / "parts", "--state"});
      EXPECT_EQ(found.exit_code, 0) << found.describe();
      EXPECT_EQ(count(found.err, "passed over the checkpoint '" + newest), 1) << found.describe();
      EXPECT_EQ(count(found.err, name), 1) << found.describe();
    }
    const ProcessResult resumed =
        lockstep(turn % 2 == 0 ? 0 : 2,
                 {"train", "--resume", "--run.dir", folder / "parts", "--checkpoint.keep", "3"});
    EXPECT_EQ(resumed.exit_code, 0) << resumed.describe();
    EXPECT_EQ(count(resumed.err, "passed over the checkpoint '" + newest), 1) << resumed.describe();
    EXPECT_EQ(digest(folder / "parts", true), want);
    // Back to the checkpoints of the first job.
    for (const auto& generation : fs::directory_iterator(folder / "parts/checkpoints"))
      if (generation.path().filename() != "gen-000001") fs::remove_all(generation.path());
    write_file_bytes(path, bytes);
    for (const auto& [other, content] : whole) EXPECT_EQ(read_file_bytes(other), content);
  }
}

TEST_F(CheckpointFaults, WhoeverReadsARunNamesWhatHePassesOver) {
  ASSERT_EQ(lockstep(0, train("run", {"--checkpoint.keep", "2"})).exit_code, 0);
  const std::string generation = folder / "run/checkpoints/gen-000001/";
  const std::string newest = generation + "step-000000008";
  fs::remove(folder / "run/model.safetensors");
  const std::string manifest = read_file_bytes(newest + "/manifest.json");
  std::string future = manifest;
  future[future.find("\"version\": ") + 11] = '7';
  write_file_bytes(newest + "/manifest.json", future);
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"export", "--run", folder / "run", "--output", folder / "out.safetensors"},
           {"evaluate", "--run", folder / "run", "--split", "validation"},
           {"digest", folder / "run"}}) {
    const ProcessResult result = lockstep(0, args);
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(count(result.err, "passed over the checkpoint '" + newest), 1) << result.describe();
    EXPECT_EQ(count(result.err, "claims to be of the format version 7"), 1) << result.describe();
  }
  // Where none is left the reason is told too.
  fs::remove_all(generation + "step-000000006");
  const ProcessResult none = lockstep(0, {"digest", folder / "run"});
  EXPECT_EQ(none.exit_code, 2) << none.describe();
  EXPECT_EQ(count(none.err, "no whole checkpoint: passed over the checkpoint '" + newest), 1)
      << none.describe();
  // The best weights of the run.
  write_file_bytes(newest + "/manifest.json", manifest);
  std::string best;
  for (const std::string& name : checkpoint_names(folder / "run"))
    if (name.starts_with("best-")) best = std::max(best, generation + name);
  for (const std::string& name : checkpoint_names(folder / "run"))
    if (name.starts_with("best-") && generation + name != best) fs::remove_all(generation + name);
  std::string weights = read_file_bytes(best + "/model.safetensors");
  weights.back() = static_cast<char>(weights.back() ^ 1);
  write_file_bytes(best + "/model.safetensors", weights);
  const ProcessResult resumed = lockstep(0, {"train", "--resume", "--run.dir", folder / "run"});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.describe();
  EXPECT_EQ(count(resumed.err, "passed over the best weights '" + best), 1) << resumed.describe();
  EXPECT_EQ(count(resumed.err, "best.safetensors is not written"), 1) << resumed.describe();
}

TEST_F(CheckpointFaults, AConfigThatACheckpointCannotKeepIsRefused) {
  for (const int ranks : {0, 2}) {
    const ProcessResult result = lockstep(ranks, train("run\xe9"));
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, "run.dir: the value is not UTF-8 text"), 1) << result.describe();
    EXPECT_FALSE(fs::exists(folder / "run\xe9"));
  }
}

TEST_F(CheckpointFaults, WhatAKillLeftOfAWriteGoesAtTheNextResume) {
  ASSERT_EQ(lockstep(0, train("run")).exit_code, 0);
  const std::string left = folder / "run/model.safetensors.tmp.1234.0", own = folder / "run/notes.tmp.1.0";
  write_file_bytes(left, "half of it");
  write_file_bytes(own, "the user's");
  ASSERT_EQ(lockstep(0, {"train", "--resume", "--run.dir", folder / "run"}).exit_code, 0);
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(own));
}

TEST_F(CheckpointFaults, AResumeOnAFullDiskGoesOn) {
  fs::create_directories(folder / "disk");
  const TmpfsMount disk(folder / "disk", "size=1m");
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  const std::string run = folder / "disk/run", generation = run + "/checkpoints/gen-000001/";
  ASSERT_EQ(lockstep(0, train("disk/run", {"--checkpoint.keep", "4", "--log.every_steps", "1"})).exit_code,
            0);
  // As after a kill: an older checkpoint, and lines of steps that are taken again.
  fs::remove_all(generation + "step-000000008");
  fs::remove_all(generation + "step-000000006");
  fs::remove(run + "/model.safetensors");
  fs::remove(run + "/best.safetensors");
  std::ofstream filler(folder / "disk/filler");
  while (filler.flush()) filler << std::string(512, 'x');
  const ProcessResult full = lockstep(
      2, {"train", "--resume", "--run.dir", run, "--device.threads", "1", "--watchdog.timeout", "60"});
  // Everything is done but the weights at the end, for which there is no room.
  EXPECT_EQ(full.exit_code, 2) << full.describe();
  EXPECT_EQ(count(full.out, "trained 4 steps"), 1) << full.describe();
  EXPECT_EQ(count(full.err, "error: "), 1) << full.describe();
  EXPECT_EQ(count(full.err, "model.safetensors"), 1) << full.describe();
  for (const auto& line : json_lines(run + "/metrics.jsonl")) EXPECT_LE(line["step"].get<int>(), 8) << line;
  filler.close();
  fs::remove(folder / "disk/filler");
  const ProcessResult room = lockstep(0, {"train", "--resume", "--run.dir", run});
  ASSERT_EQ(room.exit_code, 0) << room.describe();
  EXPECT_EQ(digest(run, true), want);
}

}  // namespace
}  // namespace lockstep::test
