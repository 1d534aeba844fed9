#pragma once

#include "launch_support.h"

namespace lockstep::test {

/// Each start of the fake takes one line of plan: the words are shell commands, `run` is the run directory
/// and "save N" makes a checkpoint of step N. Its arguments and LOCKSTEP_RUN_ID are written down.
inline const std::string fake_mpirun = R"sh(#!/bin/bash
here=$(dirname "$0")
{ printf '%s ' "$@"; echo; } >>"$here/calls"
run=$here/../run
start=$(wc -l <"$here/calls")
begin() { mkdir -p "$run/checkpoints/gen-000001"; echo >"$run/config.resolved.ini"; }
save() {
  local dir=$run/checkpoints/gen-$(printf %06d $start)/step-$(printf %09d $1)
  mkdir -p "$dir"
  echo {} >"$dir/manifest.json"
  begin
}
plan=$(sed -n "${start}p" "$here/plan")
eval "${plan:-exit 0}"
)sh";

/// lockstep-run with an mpirun in the test's hands.
class FakedMpirun : public LaunchTest {
 protected:
  FakedMpirun() {
    std::filesystem::create_directory(folder / "bin");
    write_script(folder / "bin/mpirun", fake_mpirun);
    // It is asked where a run will be, and started by nobody but the fake.
    write_script(folder / "bin/lockstep", "#!/bin/sh\nexec " LOCKSTEP_PROGRAM " \"$@\"\n");
  }
  static void write_script(const std::string& path, const std::string& text) {
    write_file_bytes(path, text);
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  }
  void plan(const std::string& lines) {
    write_file_bytes(folder / "bin/plan", lines);
    std::filesystem::remove(folder / "bin/calls");
  }
  ProcessOptions with_fake() const {
    ProcessOptions options = environment(120);
    options.env["PATH"] = folder / "bin:" + std::getenv("PATH");
    options.directory = folder.path();
    return options;
  }
  std::vector<std::string> command(const std::vector<std::string>& options,
                                   const std::vector<std::string>& words = {}) const {
    std::vector<std::string> program = {"lockstep", "train", "--config", "small.ini", "--run.dir", "run"};
    program.insert(program.end(), words.begin(), words.end());
    return launch(options, program);
  }
  ProcessResult run(const std::vector<std::string>& options,
                    const std::vector<std::string>& words = {}) const {
    return run_process(command(options, words), with_fake());
  }
  std::vector<std::string> calls() const {
    std::vector<std::string> lines;
    std::ifstream in(folder / "bin/calls");
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  void forget_run() {
    std::filesystem::remove_all(folder / "run");
    std::filesystem::remove_all(temporary);
    std::filesystem::create_directory(temporary);
  }
};

}  // namespace lockstep::test
