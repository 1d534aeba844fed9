// What lockstep-run makes of its arguments and hosts before it starts anything.

#include "fake_mpirun.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

using Decisions = FakedMpirun;

TEST_F(Decisions, HostsThatDoNotAnswerOrHaveAnotherProgramAreLeftOut) {
  // An agent: "dead" does not answer, "mute" takes for ever, "other" has another program.
  write_script(folder / "bin/agent", R"sh(#!/bin/bash
case $1 in
  dead) echo no route to host >&2; exit 255 ;;
  mute) sleep 100 ;;
  other) shift; sed 's/^binary=.*/binary=\/bin\/true/' | "$@" ;;
  none) shift; sed 's/^binary=.*/binary=\/absent/' | "$@" ;;
  *) shift; exec "$@" ;;
esac
)sh");
  const auto with_hosts = [&](const std::string& text, std::vector<std::string> options) {
    forget_run();
    write_file_bytes(folder / "hosts", text);
    options.insert(options.end(), {"--hostfile", "hosts", "--mca", "plm_rsh_agent", folder / "bin/agent",
                                   "--check-timeout", "2", "--backoff", "0"});
    return run(options);
  };
  plan("cp \"$(sed -n 's/.*--hostfile \\([^ ]*\\).*/\\1/p' $here/calls)\" $here/taken; exit 0\n");
  ProcessResult result = with_hosts(
      "# hosts\nalive slots=2\ndead slots=2\n\nmute slots=2 # broken\nother slots=2\nnone slots=2\nwell "
      "slots=3",
      {"-n", "13"});
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_EQ(read_file_bytes(folder / "bin/taken"), "alive slots=2\nwell slots=3\n");
  EXPECT_EQ(count(calls()[0], "-n 5 "), 1) << calls()[0];
  for (const char* said :
       {"host dead is left out: it does not answer (no route to host)",
        "host mute is left out: it does not answer (nothing within 2 s)", "host other is left out",
        "is another program there", "host none is left out", "is missing there"})
    EXPECT_EQ(count(result.err, said), 1) << said << "\n" << result.err;

  // Fewer ranks than slots stay as many; without -n, all slots.
  plan("exit 0\n");
  ASSERT_EQ(with_hosts("alive slots=2\nwell slots=2\ndead slots=4\n", {"-n", "3"}).exit_code, 0);
  EXPECT_EQ(count(calls()[0], "-n 3 "), 1) << calls()[0];
  plan("exit 0\n");
  ASSERT_EQ(with_hosts("alive slots=2\nwell slots=2\ndead slots=4\n", {}).exit_code, 0);
  EXPECT_EQ(count(calls()[0], "-n 4 "), 1) << calls()[0];

  // Too few: it waits for hosts to come back, and gives up.
  plan("exit 0\n");
  result =
      with_hosts("alive slots=2\ndead slots=2\n", {"-n", "4", "--min-ranks", "3", "--max-restarts", "2"});
  EXPECT_EQ(result.exit_code, 4) << result.describe();
  EXPECT_EQ(calls().size(), 0u);
  EXPECT_EQ(count(result.err, "the hosts that are left take 2 ranks, and 3 are needed"), 3) << result.err;
}

TEST_F(Decisions, BadArgumentsAreRefusedWithOneSentence) {
  write_file_bytes(folder / "empty", "# nothing\n");
  struct Case {
    std::vector<std::string> options;
    std::vector<std::string> program;
    std::string said;
  };
  const std::vector<std::string> good = {"lockstep", "train", "--config", "small.ini"};
  for (const Case& c : std::vector<Case>{
           {{"-n", "0"}, good, "-n 0"},
           {{"-n", "two"}, good, "-n two"},
           {{"-n"}, good, "-n needs a value"},
           {{"--max-restarts", "-1"}, good, "--max-restarts -1"},
           {{"-n", "2", "--min-ranks", "3"}, good, "--min-ranks 3"},
           {{"--launcher", "sh"}, good, "--launcher sh"},
           {{"--hostfile", "absent"}, good, "absent"},
           {{"--hostfile", "empty"}, good, "names no host"},
           {{"--hostfile", "empty", "--host", "a"}, good, "keep one"},
           {{"--host", "a:x"}, good, "a: slots x"},
           {{"--log", "absent/log"}, good, "--log absent/log"},
           {{"--log=~/log"}, good, "--log ~/log"},
           {{"--hostfile", "$HOSTS"}, good, "--hostfile $HOSTS"},
           {{"-n", "2"}, {}, "nothing to start"},
           {{"-n", "2"}, {"absent-program", "train"}, "absent-program"},
           {{"-n", "2"}, {"lockstep", "evaluate", "--run", "run"}, "only training"},
           {{"-n", "2"}, {"lockstep", "train", "--run.dir", "small.ini/run"}, "small.ini/run"}}) {
    SCOPED_TRACE(c.said);
    plan("exit 0\n");
    const ProcessResult result = run_process(launch(c.options, c.program), with_fake());
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, "lockstep-run: error"), 1) << result.err;
    EXPECT_EQ(count(result.err, c.said), 1) << result.err;
    EXPECT_EQ(calls().size(), 0u);
    EXPECT_FALSE(fs::exists(folder / "run"));
  }
  const ProcessResult help = run_process({launch_folder + "lockstep-run", "--help"}, with_fake());
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(count(help.out, "--max-restarts N"), 1) << help.out;
}

TEST_F(Decisions, TheRunDirectoryIsFoundWhereTheProgramWillPutIt) {
  write_file_bytes(folder / "named.ini", "[run]\n dir = from_config # there\n[train]\nepochs = 1\n");
  struct Case {
    std::vector<std::string> words;
    std::string dir;
  };
  for (const Case& c : std::vector<Case>{{{"--config", "named.ini"}, "from_config"},
                                         {{"--config=named.ini"}, "from_config"},
                                         {{"--config", "named.ini", "--run.dir", "flag/"}, "flag"},
                                         {{"--config", "named.ini", "--run.dir=flag2"}, "flag2"},
                                         {{"--config", "small.ini"}, "runs/small"}}) {
    SCOPED_TRACE(c.dir);
    std::vector<std::string> program = {"lockstep", "train"};
    program.insert(program.end(), c.words.begin(), c.words.end());
    plan("test -s " + folder.path() + "/" + c.dir + "/.lockstep-run && exit 3; exit 2\n");
    EXPECT_EQ(run_process(launch({"-n", "1"}, program), with_fake()).exit_code, 3);
    // Nothing was begun there, so nothing stays.
    EXPECT_FALSE(fs::exists(folder / c.dir));
  }
}

TEST_F(Decisions, InAnotherFolderTheRunDirectoryIsFoundThereToo) {
  fs::create_directory(folder / "elsewhere");
  fs::copy(config, folder / "elsewhere/other.ini");
  write_file_bytes(folder / "other.ini",
                   "[run]\ndir = wrong\n");  // the file of that name here is another one
  for (const std::vector<std::string>& options :
       std::vector<std::vector<std::string>>{{"--wdir", "elsewhere"},
                                             {"-wdir", folder / "elsewhere"},
                                             {"--wd", "elsewhere/"},
                                             {"--wdir=elsewhere"}}) {
    SCOPED_TRACE(options[0]);
    fs::remove_all(folder / "elsewhere/runs");
    // Lost after a checkpoint: the second start is to find it.
    plan(
        "run=$here/../elsewhere/runs/other; save 5; exit 4\n"
        "case $* in *--resume*) exit 3 ;; esac; exit 2\n");
    std::vector<std::string> all = {"-n", "1", "--backoff", "0"};
    all.insert(all.end(), options.begin(), options.end());
    const ProcessResult result =
        run_process(launch(all, {"lockstep", "train", "--config", "other.ini"}), with_fake());
    EXPECT_EQ(result.exit_code, 3) << result.describe();
    EXPECT_FALSE(fs::exists(folder / "runs"));
    EXPECT_FALSE(fs::exists(folder / "wrong"));
  }
  const ProcessResult absent = run_process(
      launch({"-n", "1", "--wdir", "absent"}, {"lockstep", "train", "--config", "other.ini"}), with_fake());
  EXPECT_EQ(absent.exit_code, 2) << absent.describe();
  EXPECT_EQ(count(absent.err, "is not there"), 1) << absent.err;
}

TEST_F(Decisions, WhatTheProgramRefusesIsRefusedBeforeAnythingIsMade) {
  write_file_bytes(folder / "bad.ini", "[run]\ndir = ~/runs/a\n[train]\nepochs = 1\n");
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"--config", "bad.ini"},
                                             {"--config", "absent.ini"},
                                             {"--config", "small.ini", "--run.dir", "$HOME/run"},
                                             {"--config", "small.ini", "--train.epochz", "3"}}) {
    plan("exit 0\n");
    std::vector<std::string> program = {"lockstep", "train"};
    program.insert(program.end(), words.begin(), words.end());
    const ProcessResult result = run_process(launch({"-n", "1"}, program), with_fake());
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, "error:"), 1) << result.err;
    EXPECT_EQ(calls().size(), 0u);
    EXPECT_FALSE(fs::exists(folder / "~"));
  }
}

}  // namespace
}  // namespace lockstep::test
