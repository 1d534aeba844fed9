// How a job starts and how it ends: lanes, doubtful launches, machines that differ, ranks that die.

#include <chrono>
#include <filesystem>
#include <sched.h>
#include <signal.h>
#include <thread>
#include <unistd.h>

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

/// The rows of the table of ranks: its words, by rank.
std::vector<std::vector<std::string>> table_of(const std::string& out) {
  std::vector<std::vector<std::string>> rows;
  std::istringstream in(out);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::vector<std::string> row;
    for (std::string word; words >> word;) row.push_back(word);
    if (row.size() == 6 && row[0] == std::to_string(rows.size())) rows.push_back(row);
  }
  return rows;
}

class Launch : public testing::Test {
 protected:
  Launch() { write_file_bytes(config, small_config()); }
  std::vector<std::string> train(const std::string& dir, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args = {"train", "--config", config, "--run.dir", folder / dir};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  TempDir folder;
  const std::string config = folder / "small.ini";
};

TEST_F(Launch, WhatOnlyOneRankIsToldWrongIsSaidByThatRankAndAllLeaveWithTwo) {
  const std::string script = folder / "one.sh";
  write_file_bytes(script,
                   "#!/bin/sh\nvictim=$1; how=$2; shift 2\n"
                   "if [ \"$OMPI_COMM_WORLD_RANK\" = \"$victim\" ]; then\n"
                   "  case $how in\n"
                   "    key) set -- \"$@\" --train.global_batsh 3 ;;\n"
                   "    value) set -- \"$@\" --train.global_batch abc ;;\n"
                   "    variable) export LOCKSTEP_WATCHDOG_TIMEOUT=soon ;;\n"
                   "  esac\nfi\nexec \"$@\"\n");
  fs::permissions(script, fs::perms::owner_all);
  for (const auto& [how, says] :
       {std::pair("key", "global_batsh"), {"value", "abc"}, {"variable", "\"soon\""}})
    for (const int victim : {0, 2}) {
      std::vector<std::string> argv = {script, std::to_string(victim), how, LOCKSTEP_PROGRAM};
      for (const std::string& word : train("one")) argv.push_back(word);
      const ProcessResult result = run_mpi(3, argv);
      SCOPED_TRACE(std::string(how) + " on rank " + std::to_string(victim));
      EXPECT_EQ(result.exit_code, 2) << result.describe();
      EXPECT_EQ(count(result.err, "error:"), 1) << result.describe();
      EXPECT_NE(result.err.find(says), std::string::npos) << result.describe();
      EXPECT_FALSE(fs::exists(folder / "one"));
    }
}

TEST_F(Launch, ABareRunTakesEveryCoreItMayUseAsALane) {
  cpu_set_t mask;
  ASSERT_EQ(sched_getaffinity(0, sizeof mask, &mask), 0);
  const ProcessResult all = lockstep(0, train("all"));
  ASSERT_EQ(all.exit_code, 0) << all.describe();
  const auto table = table_of(all.out);
  ASSERT_EQ(table.size(), 1u) << all.out;
  EXPECT_EQ(table[0][3], "cpu");
  EXPECT_EQ(table[0][4], std::to_string(CPU_COUNT(&mask)));

  int first = 0;
  while (!CPU_ISSET(first, &mask)) ++first;
  std::vector<std::string> bound = {"taskset", "-c", std::to_string(first), LOCKSTEP_PROGRAM};
  for (const std::string& word : train("bound")) bound.push_back(word);
  const ProcessResult one = run_process(bound);
  ASSERT_EQ(one.exit_code, 0) << one.describe();
  ASSERT_EQ(table_of(one.out).size(), 1u) << one.out;
  EXPECT_EQ(table_of(one.out)[0][4], "1");
  EXPECT_EQ(table_of(one.out)[0][5], std::to_string(first));
  EXPECT_EQ(digest(folder / "all", true), digest(folder / "bound", true));
}

TEST_F(Launch, TheTableHasEachRankOnce) {
  const ProcessResult result = lockstep(3, train("three"));
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  const auto table = table_of(result.out);
  ASSERT_EQ(table.size(), 3u) << result.out;
  EXPECT_NE(table[0][2], table[1][2]);
  EXPECT_NE(table[1][2], table[2][2]);
  EXPECT_EQ(count(result.out, "rank  host"), 1);
}

TEST_F(Launch, SeveralTasksOfOneStepThatMpiSeesAsWorldsOfOneAreRefused) {
  const auto start = [&](std::map<std::string, std::string> environment) {
    ProcessOptions options = in_time();
    options.env.merge(environment);
    return lockstep(0, train("run"), options);
  };
  // srun without --mpi: nothing for MPI in the environment.
  expect_refusal(start({{"SLURM_STEP_NUM_TASKS", "3"}, {"SLURM_PROCID", "0"}}),
                 {"srun", "3 tasks", "--mpi=pmix"});
  // With PMI, which this MPI does not speak.
  expect_refusal(
      start({{"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_PROCID", "0"}, {"PMI_RANK", "0"}, {"PMI_SIZE", "2"}}),
      {"srun", "2 tasks"});
  expect_refusal(start({{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}}), {"PMI_RANK", "mpirun"});
  // Each of them, since none can know whether another one speaks.
  expect_refusal(start({{"SLURM_STEP_NUM_TASKS", "3"}, {"SLURM_PROCID", "1"}}), {"srun", "3 tasks"});
  EXPECT_FALSE(fs::exists(folder / "run"));
  // One task of a step, and a batch script for several, are what they seem.
  EXPECT_EQ(start({{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}}).exit_code, 0);
  fs::remove_all(folder / "run");
  EXPECT_EQ(start({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}}).exit_code, 0);
}

TEST_F(Launch, MachinesThatComputeOtherBitsAreRefusedAtTheRendezvous) {
  const auto start = [&](const std::string& dir, const std::string& isa,
                         const std::vector<std::string>& more) {
    std::vector<std::string> program = {LOCKSTEP_PROGRAM};
    for (const std::string& word : train(dir, more)) program.push_back(word);
    std::vector<std::string> argv = {"mpirun", "--oversubscribe", "--bind-to", "none", "-n", "1"};
    argv.insert(argv.end(), program.begin(), program.end());
    for (const std::string& word : {std::string(":"), std::string("-n"), std::string("1"), std::string("env"),
                                    "ONEDNN_MAX_CPU_ISA=" + isa})
      argv.push_back(word);
    argv.insert(argv.end(), program.begin(), program.end());
    return run_process(argv, with_mpirun_env(in_time()));
  };
  // SSE4.1 is below what any machine that runs the tests has.
  expect_refusal(start("other", "SSE41", {}), {"rank 1", "rank 0", "--allow-numeric-change"});
  EXPECT_FALSE(fs::exists(folder / "other"));
  const ProcessResult accepted = start("accepted", "SSE41", {"--allow-numeric-change"});
  EXPECT_EQ(accepted.exit_code, 0) << accepted.describe();
  EXPECT_EQ(count(accepted.err, "warning"), 1) << accepted.err;
  ASSERT_EQ(lockstep(0, train("alone")).exit_code, 0);
  EXPECT_NE(digest(folder / "accepted"), digest(folder / "alone")) << "the refusal was for nothing";
}

TEST_F(Launch, ARankThatIsKilledEndsTheJobAndTheRunGoesOnFromItsCheckpoint) {
  const std::vector<std::string> longer = {"--train.epochs",    "1500", "--checkpoint.every_steps", "50",
                                           "--checkpoint.keep", "100"};
  std::vector<std::string> program = {LOCKSTEP_PROGRAM};
  for (const std::string& word : train("killed", longer)) program.push_back(word);
  Process job(mpirun_argv(3, program), with_mpirun_env());
  const std::string first = folder / "killed/checkpoints/gen-000001/step-000000050";
  for (int i = 0; i < 1600 && !fs::exists(first); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(25));
    job.out();
  }
  ASSERT_TRUE(fs::exists(first));
  const auto table = table_of(job.out());
  ASSERT_EQ(table.size(), 3u) << job.out();
  const auto killed = std::chrono::steady_clock::now();
  ASSERT_EQ(kill(std::stoi(table[1][2]), SIGKILL), 0);
  const ProcessResult result = job.wait();
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - killed).count(), 10.0);
  EXPECT_FALSE(result.timed_out);
  EXPECT_NE(result.exit_code, 0) << result.describe();
  for (const auto& row : table) EXPECT_TRUE(ends_soon(std::stoi(row[2]))) << "rank " << row[0] << " lives on";
  EXPECT_FALSE(fs::exists(folder / "killed/model.safetensors"));

  // A bounded piece more, and the same from the start without a break.
  std::int64_t newest = 0;
  for (const auto& entry : fs::directory_iterator(folder / "killed/checkpoints/gen-000001"))
    if (const std::string name = entry.path().filename(); name.starts_with("step-"))
      newest = std::max<std::int64_t>(newest, std::stoll(name.substr(5)));
  const std::string steps = std::to_string(newest + 7);
  const ProcessResult resumed =
      lockstep(2, {"train", "--resume", "--run.dir", folder / "killed", "--train.steps", steps});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
  std::vector<std::string> whole = longer;
  whole.insert(whole.end(), {"--train.steps", steps});
  ASSERT_EQ(lockstep(0, train("whole", whole)).exit_code, 0);
  EXPECT_EQ(digest(folder / "killed", true), digest(folder / "whole", true));
}

}  // namespace
}  // namespace lockstep::test
