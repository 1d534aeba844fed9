#include "trainer/checkpoint/run_directory.h"

#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "support/mount.h"
#include "support/process.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint/checkpoint.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using test::read_file_bytes;
using test::TempDir;
using test::TmpfsMount;
using test::write_file_bytes;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::input) << e.what();
    return e.what();
  }
  return "nothing thrown";
}

std::string prepare(const std::string& path, RunDirectoryMode mode) {
  return message_of([&] { RunDirectory::prepare(path, mode); });
}

// Every path below `root`, relative to it.
std::set<std::string> tree(const std::string& root) {
  std::set<std::string> all;
  for (const auto& e : fs::recursive_directory_iterator(root))
    all.insert(e.path().lexically_relative(root).string());
  return all;
}

class RunDirectories : public ::testing::Test {
 protected:
  // A run as `train` leaves it, with two generations.
  void make_run(const std::string& path) {
    const RunDirectory run = RunDirectory::prepare(path, RunDirectoryMode::fresh);
    for (const std::string& file : {run.config(), run.metrics(), run.preprocessing(), run.model(), run.best(),
                                    run.timeline(0), run.timeline(12), run.model() + ".tmp.4711.0"}) {
      write_file_bytes(file, "x");
    }
    CheckpointStore store(path);
    const std::vector<float> v(4);
    RunState s;
    s.slices = 1;
    for (int g = 1; g <= 2; ++g) {
      store.claim_generation();
      s.step = g;
      store.save(g, s, {view_of("w", {4}, v)}, {});
      store.save_best(g, s, {view_of("w", {4}, v)});
    }
    fs::create_directories(path + "/checkpoints/gen-000002/.saving-step-000000009");
    write_file_bytes(path + "/checkpoints/gen-000002/.saving-step-000000009/model.safetensors", "half");
  }
  TempDir dir_;
};

TEST_F(RunDirectories, AreMadeWithTheirParents) {
  const std::string path = dir_ / "runs/2024/a";
  const RunDirectory run = RunDirectory::prepare(path + "//", RunDirectoryMode::fresh);
  EXPECT_EQ(run.path(), path);
  EXPECT_TRUE(fs::is_directory(path));
  EXPECT_THAT(tree(path), IsEmpty());
  EXPECT_FALSE(run.holds_run());
  // An empty one, and one with other people's files, may be used.
  write_file_bytes(path + "/README", "mine");
  EXPECT_EQ(prepare(path, RunDirectoryMode::fresh), "nothing thrown");
  EXPECT_EQ(prepare(path, RunDirectoryMode::overwrite), "nothing thrown");
  EXPECT_EQ(tree(path), std::set<std::string>{"README"});
}

TEST_F(RunDirectories, AreNeverOverwrittenUnasked) {
  make_run(dir_ / "run");
  const auto before = tree(dir_ / "run");
  EXPECT_THAT(prepare(dir_ / "run", RunDirectoryMode::fresh),
              AllOf(HasSubstr("'" + dir_.path() + "/run' already holds a run"),
                    HasSubstr("--resume goes on with it"), HasSubstr("--overwrite deletes it")));
  EXPECT_EQ(tree(dir_ / "run"), before);
  // Any one of its files makes it a run: a run that died before its first checkpoint, or whose config was
  // lost.
  for (const char* file : {"config.resolved.ini", "metrics.jsonl", "model.safetensors", "best.safetensors"}) {
    const TempDir other;
    write_file_bytes(other / file, "x");
    EXPECT_THAT(prepare(other.path(), RunDirectoryMode::fresh), HasSubstr("already holds a run")) << file;
  }
  const TempDir other;
  fs::create_directories(other / "checkpoints/gen-000001/step-000000001");
  EXPECT_THAT(prepare(other.path(), RunDirectoryMode::fresh), HasSubstr("already holds a run"));
}

TEST_F(RunDirectories, OverwriteRemovesWhatLockstepWroteAndNothingElse) {
  const std::string run = dir_ / "run";
  make_run(run);
  const TempDir outside;
  write_file_bytes(outside / "model.safetensors", "precious");
  const std::set<std::string> foreign = {"notes.txt",
                                         "model.safetensors.bak",
                                         "model.safetensors.tmp.x",
                                         "timeline.rank.jsonl",
                                         "checkpoints/README",
                                         "checkpoints/gen-000001/mine.txt",
                                         "checkpoints/gen-000001/step-000000001/mine.txt"};
  for (const std::string& name : foreign) write_file_bytes(run + "/" + name, "keep");
  fs::create_directory_symlink(outside.path(), run + "/checkpoints/gen-000002/step-000000077");
  fs::create_directory_symlink(outside.path(), run + "/checkpoints/gen-000009");

  EXPECT_EQ(prepare(run, RunDirectoryMode::overwrite), "nothing thrown");
  std::set<std::string> left = foreign;
  left.insert({"checkpoints", "checkpoints/gen-000001", "checkpoints/gen-000001/step-000000001",
               "checkpoints/gen-000002", "checkpoints/gen-000002/step-000000077", "checkpoints/gen-000009"});
  EXPECT_EQ(tree(run), left);
  EXPECT_EQ(read_file_bytes(outside / "model.safetensors"), "precious");
}

TEST_F(RunDirectories, AnOverwrittenRunStartsAfterTheOldGenerations) {
  const std::string run = dir_ / "run";
  make_run(run);
  EXPECT_EQ(prepare(run, RunDirectoryMode::overwrite), "nothing thrown");
  EXPECT_EQ(tree(run), (std::set<std::string>{"checkpoints", "checkpoints/gen-000002"}));
  EXPECT_EQ(prepare(run, RunDirectoryMode::fresh), "nothing thrown");
  // A job of the old run that is still alive writes into generation 2 at most.
  CheckpointStore store(run);
  EXPECT_EQ(store.claim_generation(), 3);
  std::vector<std::string> passed_over;
  EXPECT_FALSE(store.find_newest(passed_over).has_value());
}

TEST_F(RunDirectories, CheckpointsOnAnotherDiskAreEmptiedThroughTheLink) {
  const TempDir disk;
  fs::create_directory(dir_ / "run");
  fs::create_directory_symlink(disk.path(), dir_ / "run/checkpoints");
  make_run(dir_ / "run");
  EXPECT_TRUE(fs::exists(disk / "gen-000001/step-000000001"));
  EXPECT_EQ(prepare(dir_ / "run", RunDirectoryMode::overwrite), "nothing thrown");
  EXPECT_EQ(tree(disk.path()), std::set<std::string>{"gen-000002"});
  EXPECT_TRUE(fs::is_symlink(dir_ / "run/checkpoints"));
}

TEST_F(RunDirectories, WhoeverIsAskedBeforeAChangeSeesTheWholeRunAndCanStopIt) {
  const std::string run = dir_ / "run";
  make_run(run);
  write_file_bytes(run + "/lease.json", "{}");
  write_file_bytes(run + "/lease.json.tmp.17.0", "{}");
  const auto before = tree(run);
  for (const auto mode : {RunDirectoryMode::overwrite, RunDirectoryMode::resume}) {
    EXPECT_EQ(message_of([&] {
                RunDirectory::prepare(run, mode, [&] {
                  EXPECT_EQ(tree(run), before);
                  throw ConfigError("no");
                });
              }),
              "no");
    EXPECT_EQ(tree(run), before);
  }
  int asked = 0;
  (void)RunDirectory::prepare(run, RunDirectoryMode::overwrite, [&] { ++asked; });
  EXPECT_EQ(asked, 1);
  // The lease is the job's that overwrites; what a killed one left of its own goes.
  EXPECT_EQ(tree(run), (std::set<std::string>{"checkpoints", "checkpoints/gen-000002", "lease.json"}));
}

TEST_F(RunDirectories, ResumeNeedsARun) {
  EXPECT_THAT(prepare(dir_ / "none", RunDirectoryMode::resume),
              AllOf(HasSubstr("cannot resume"), HasSubstr("none"), HasSubstr("no config.resolved.ini")));
  EXPECT_FALSE(fs::exists(dir_ / "none"));
  make_run(dir_ / "run");
  const auto before = tree(dir_ / "run");
  EXPECT_EQ(prepare(dir_ / "run", RunDirectoryMode::resume), "nothing thrown");
  EXPECT_EQ(tree(dir_ / "run"), before);
}

TEST_F(RunDirectories, AreOpenedByReaders) {
  make_run(dir_ / "run");
  EXPECT_TRUE(RunDirectory::open(dir_ / "run/").holds_run());
  EXPECT_THAT(message_of([&] { RunDirectory::open(dir_ / "none"); }), HasSubstr("none' is missing"));
  EXPECT_THAT(message_of([&] { RunDirectory::open(dir_.path()); }), HasSubstr("holds no run"));
  EXPECT_THAT(message_of([&] { RunDirectory::open(dir_ / "run/metrics.jsonl"); }),
              HasSubstr("is not a directory"));
}

TEST_F(RunDirectories, ThatCannotBeMadeAreRefusedInOneSentence) {
  write_file_bytes(dir_ / "file", "");
  for (const auto mode : {RunDirectoryMode::fresh, RunDirectoryMode::overwrite}) {
    EXPECT_THAT(prepare(dir_ / "file", mode),
                HasSubstr("a file of that name is in the way; name another run.dir"));
    EXPECT_THAT(prepare(dir_ / "file/below", mode), AllOf(HasSubstr("file/below"), HasSubstr("in the way")));
    EXPECT_THAT(prepare("/proc/lockstep/run", mode),
                HasSubstr("cannot create the run directory '/proc/lockstep/run'"));
    EXPECT_THAT(prepare("", mode), HasSubstr("run.dir is empty"));
    EXPECT_THAT(prepare(dir_ / std::string(300, 'x'), mode), HasSubstr("File name too long"));
    EXPECT_THAT(prepare(std::string("a\0b", 3), mode), HasSubstr("NUL"));
  }
  fs::create_symlink(dir_ / "nowhere", dir_ / "dangling");
  EXPECT_THAT(prepare(dir_ / "dangling", RunDirectoryMode::fresh),
              HasSubstr("cannot create the run directory"));
}

TEST_F(RunDirectories, WithADirectoryInTheWayOfAFileAreRefusedBeforeTheRun) {
  for (const char* name : {"model.safetensors", "best.safetensors", "metrics.jsonl", "preprocessing.json"}) {
    const std::string path = dir_ / (std::string("run-") + name);
    make_run(path);
    fs::remove(path + "/" + name);
    fs::create_directory(path + "/" + name);
    const auto before = tree(path);
    EXPECT_THAT(prepare(path, RunDirectoryMode::overwrite),
                AllOf(HasSubstr(name), HasSubstr("is a directory")));
    EXPECT_EQ(tree(path), before) << "a refusal removed something";
  }
}

TEST_F(RunDirectories, WithWhatAFailedStartLeftOfItsDataHoldNoRun) {
  const std::string path = dir_ / "failed";
  fs::create_directory(path);
  write_file_bytes(path + "/preprocessing.json", "{}");
  write_file_bytes(path + "/data.json", "{}");
  EXPECT_EQ(prepare(path, RunDirectoryMode::fresh), "nothing thrown");
  write_file_bytes(path + "/config.resolved.ini", "");
  EXPECT_THAT(prepare(path, RunDirectoryMode::fresh), HasSubstr("already holds a run"));
}

TEST_F(RunDirectories, OnAReadOnlyDiskAreRefused) {
  const TmpfsMount disk(dir_.path(), "size=1m");
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  make_run(dir_ / "run");
  fs::create_directory(dir_ / "empty");
  const auto before = tree(dir_ / "run");
  disk.make_read_only();
  for (const auto mode : {RunDirectoryMode::overwrite, RunDirectoryMode::resume}) {
    EXPECT_THAT(prepare(dir_ / "run", mode),
                AllOf(HasSubstr("cannot write to the run directory"), HasSubstr("Read-only file system"),
                      HasSubstr("another run.dir")));
  }
  EXPECT_THAT(prepare(dir_ / "empty", RunDirectoryMode::fresh), HasSubstr("Read-only file system"));
  EXPECT_THAT(prepare(dir_ / "new", RunDirectoryMode::fresh), HasSubstr("Read-only file system"));
  EXPECT_EQ(tree(dir_ / "run"), before);
}

TEST_F(RunDirectories, WithoutPermissionAreRefused) {
  fs::create_directory(dir_ / "closed");
  fs::permissions(dir_ / "closed", fs::perms::owner_read | fs::perms::owner_exec);
  // Root passes permission bits, so the attempt is made as another user.
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(3);
    _exit(prepare(dir_ / "closed", RunDirectoryMode::fresh).find("Permission denied") != std::string::npos &&
                  prepare(dir_ / "closed/below", RunDirectoryMode::fresh).find("Permission denied") !=
                      std::string::npos
              ? 42
              : 43);
  }
  int status = 0;
  waitpid(child, &status, 0);
  fs::permissions(dir_ / "closed", fs::perms::owner_all);
  EXPECT_EQ(WEXITSTATUS(status), 42);
}

}  // namespace
}  // namespace lockstep
