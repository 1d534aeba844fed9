// Paths that only a shell would have expanded, and run directories that may not be read.

#include <filesystem>

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class Paths : public testing::Test {
 protected:
  Paths() {
    options.directory = folder.path();
    options.env["HOME"] = folder / "home";
    options.env["WORK"] = folder / "work";
    write_file_bytes(folder / "small.ini", small_config());
  }
  ProcessResult run(const std::vector<std::string>& args, int ranks = 0) const {
    return lockstep(ranks, args, options);
  }
  ProcessOptions options = in_time();
  TempDir folder;
};

TEST_F(Paths, InAConfigFileWhatIsNotExpandedIsRefusedWithWhatWasMeant) {
  struct Case {
    std::string line, said;
  };
  for (const Case& c : std::vector<Case>{{"dir = ~/runs/a", "write " + (folder / "home/runs/a")},
                                         {"dir = ~", "write " + (folder / "home")},
                                         {"dir = $WORK/a", "write " + (folder / "work/a")},
                                         {"dir = x/${WORK}", "write x/" + (folder / "work")},
                                         {"dir = $UNSET_VARIABLE/a", "write the path itself"},
                                         {"dir = $(pwd)/a", "write the path itself"},
                                         {"dir = \"runs/a\"", "write runs/a"},
                                         {"dir = 'runs/a'", "write runs/a"},
                                         {"dir = \"~/runs\"", "write " + (folder / "home/runs")}}) {
    SCOPED_TRACE(c.line);
    write_file_bytes(folder / "bad.ini", small_config() + "[run]\n" + c.line + "\n");
    for (const int ranks : {0, 2})
      expect_refusal(run({"train", "--config", "bad.ini"}, ranks), {"bad.ini", "run.dir", c.said});
  }
  write_file_bytes(folder / "bad.ini",
                   "[data]\nformat = csv\ntrain = ~/x.csv\n[model]\nlayers = dense:2\n[train]\nepochs = 1\n");
  expect_refusal(run({"train", "--config", "bad.ini"}), {"bad.ini:3", "data.train", folder / "home/x.csv"});
  // Nothing was made.
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 2);
}

TEST_F(Paths, OnTheCommandLineToo) {
  ASSERT_EQ(run({"train", "--config", "small.ini", "--run.dir", "good"}).exit_code, 0);
  const auto before = std::distance(fs::directory_iterator(folder.path()), {});
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"train", "--config=~/small.ini"},
           {"train", "--config", "small.ini", "--run.dir=~/r"},
           {"train", "--config", "small.ini", "--run.dir", "$WORK/r"},
           {"train", "--config", "small.ini", "--device.plan_cache=~/plans"},
           {"train", "--config", "small.ini", "--data.train=~/plans"},
           {"train", "--resume", "--run.dir=~/r"},
           {"train", "--run.dir=~/r", "--print-run-dir"},
           {"evaluate", "--run=~/r"},
           {"evaluate", "--run", "good", "--data.test=~/r"},
           {"predict", "--run", "good", "--input=~/r"},
           {"predict", "--run", "good", "--input", "small.ini", "--output=~/out"},
           {"export", "--run", "good", "--output=~/out"},
           {"export", "--run", "good", "--output", "'out'"},
           {"inspect", "~/r"},
           {"digest", "\"good\""},
           {"doctor", "--config=~/small.ini"}}) {
    SCOPED_TRACE(words[0] + " " + words.back());
    expect_refusal(run(words), {": write "});
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), before);
}

TEST_F(Paths, WhatExistsUnderThatNameIsMeant) {
  ASSERT_EQ(run({"train", "--config", "small.ini", "--run.dir", "./~/r"}).exit_code, 0);
  EXPECT_TRUE(fs::exists(folder / "~/r/model.safetensors"));
  EXPECT_EQ(run({"digest", "~/r"}).exit_code, 0);
  EXPECT_EQ(run({"evaluate", "--run", "~/r"}).exit_code, 0);
  // Signs that mean nothing to a shell, or nothing there.
  for (const char* name : {"a~b", "cost$", "$5", "it's here", "100%"}) {
    SCOPED_TRACE(name);
    EXPECT_EQ(run({"train", "--config", "small.ini", "--run.dir", name}).exit_code, 0);
    EXPECT_TRUE(fs::exists(folder / name + "/model.safetensors"));
  }
}

TEST_F(Paths, ARunDirectoryThatMayNotBeReadSaysSoEverywhere) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  fs::permissions(folder.path(), fs::perms::all);
  ASSERT_EQ(run({"train", "--config", "small.ini", "--run.dir", "run"}).exit_code, 0);
  const auto as_nobody = [&](const std::vector<std::string>& words) {
    std::vector<std::string> argv = {"setpriv", "--reuid",        "65534",         "--regid",
                                     "65534",   "--clear-groups", LOCKSTEP_PROGRAM};
    argv.insert(argv.end(), words.begin(), words.end());
    return run_process(argv, options);
  };
  if (as_nobody({"--version"}).exit_code != 0) GTEST_SKIP() << "nobody may not run the program";
  const std::string run_dir = folder / "run";
  for (const fs::path& closed :
       {fs::path(run_dir), fs::path(run_dir + "/config.resolved.ini"),
        fs::path(run_dir + "/preprocessing.json"), fs::path(run_dir + "/checkpoints")}) {
    const fs::perms was = fs::status(closed).permissions();
    fs::permissions(closed, fs::perms::none);
    for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
             {"train", "--config", "small.ini", "--run.dir", run_dir},
             {"train", "--resume", "--run.dir", run_dir},
             {"evaluate", "--run", run_dir},
             {"predict", "--run", run_dir, "--input", "small.ini"},
             {"export", "--run", run_dir, "--output", folder / "out.safetensors"},
             {"inspect", run_dir},
             {"digest", "--state", run_dir},
             {"digest", run_dir}}) {
      SCOPED_TRACE(words[0] + " with " + closed.filename().string() + " closed");
      const ProcessResult result = as_nobody(words);
      // Who does not need what is closed may go on without; predict then meets an input that it cannot read.
      if (words[0] == "predict" && closed.filename() == "checkpoints") continue;
      if (closed != run_dir && result.exit_code == 0) continue;
      expect_refusal(result, {"run"});
      const bool named = result.err.find("Permission denied") != std::string::npos ||
                         result.err.find("permission") != std::string::npos ||
                         result.err.find("already holds a run") != std::string::npos;
      EXPECT_TRUE(named) << result.err;
    }
    fs::permissions(closed, was);
  }
  fs::permissions(run_dir, fs::perms::none);
  ProcessOptions launching = options;
  launching.env["TMPDIR"] = folder.path();
  const ProcessResult launched =
      run_process({"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                   std::string(LOCKSTEP_SOURCE_DIR) + "/launch/lockstep-run", "-n", "1", "--",
                   LOCKSTEP_PROGRAM, "train", "--config", "small.ini", "--run.dir", run_dir},
                  launching);
  EXPECT_EQ(launched.exit_code, 2) << launched.describe();
  EXPECT_EQ(count(launched.err, "permissions"), 1) << launched.describe();
  fs::permissions(run_dir, fs::perms::owner_all);
}

}  // namespace
}  // namespace lockstep::test
