#pragma once

#include <chrono>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "support/process.h"
#include "support/temp_dir.h"

namespace lockstep::test {

/// What each of the programs does where the test says nothing else; `do/NAME` is shell code that comes first.
inline const std::string fake_program = R"sh(#!/bin/sh
name=$(basename "$0")
here=@HERE@
echo "$name $*" >>"$here/calls"
[ ! -e "$here/do/$name" ] || . "$here/do/$name"
case $name in
  nvidia-smi)
    case "$*" in *memory.used*) echo 1000 ;; *name*) echo 'Made GPU, 1.0, 9.0' ;; *) echo 9.0 ;; esac ;;
  mpirun)
    while :; do case $1 in -n|--bind-to) shift 2 ;; --*) shift ;; *) break ;; esac; done
    "$@" ;;
  compute-sanitizer)
    while :; do case $1 in --*) shift 2 ;; *) break ;; esac; done
    "$@" ;;
  torch)
    echo 'torch says'
    echo '{"framework": "torch", "median_ms": 20.0}' ;;
  train_bench)
    while [ $# -gt 0 ]; do [ "$1" != --plan_cache ] || echo 'a plan' >"$2"; shift; done
    echo '{"framework": "lockstep", "median_ms": 10.0, "samples_per_s": 100.0}' ;;
  lockstep)
    case $1 in digest) echo "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  weights" ;; esac ;;
  gpu_*)
    echo '[ RUN      ] Suite.Test'
    echo '[  PASSED  ] 3 tests.' ;;
  *) echo "$name 1.0" ;;
esac
)sh";

/// A machine whose programs are scripts of the test, and calls of tests/gpu/run.sh on it.
class FakeMachine : public testing::Test {
 protected:
  FakeMachine() {
    namespace fs = std::filesystem;
    std::string program = fake_program;
    program.replace(program.find("@HERE@"), 6, folder.path());
    for (const char* name :
         {"bin/nvidia-smi", "bin/nvcc", "bin/cmake", "bin/c++", "bin/mpirun", "bin/compute-sanitizer",
          "bin/torch", "build/lockstep", "build/benchmarks/train_bench", "build/tests/gpu/gpu_tests",
          "build/tests/model/gpu_model_tests", "build/tests/trainer/gpu_trainer_tests"}) {
      const std::string path = folder / name;
      fs::create_directories(fs::path(path).parent_path());
      write_file_bytes(path, program);
      fs::permissions(path, fs::perms::owner_all);
    }
    fs::create_directory(folder / "do");
    fs::create_directory(results());
  }
  std::string results() const { return folder / "results"; }
  /// Shell code that `program` runs first.
  void make(const std::string& program, const std::string& does) const {
    write_file_bytes(folder / ("do/" + program), does);
  }
  /// `scale` shortens every time of the call.
  ProcessOptions options(double scale) const {
    ProcessOptions o;
    o.timeout_s = 100;
    o.env = {{"PATH", folder / "bin:" + std::getenv("PATH")},
             {"LOCKSTEP_BENCH_PYTHON", folder / "bin/torch"},
             {"LOCKSTEP_BUNDLE", folder / "no-bundle"},
             {"LOCKSTEP_STAGE_SCALE", std::to_string(scale)},
             {"BUILD", folder / "build"},
             {"RESULTS", results()}};
    return o;
  }
  static std::vector<std::string> command(const std::vector<std::string>& words) {
    std::vector<std::string> argv = {std::string(LOCKSTEP_SOURCE_DIR) + "/tests/gpu/run.sh"};
    argv.insert(argv.end(), words.begin(), words.end());
    return argv;
  }
  ProcessResult call(const std::vector<std::string>& words, double scale) const {
    return run_process(command(words), options(scale));
  }
  std::string log() const { return text_of("log.txt"); }
  std::string table() const { return text_of("results.md"); }
  std::string calls() const { return read_file_bytes(folder / "calls"); }
  /// The closing line of a stage: "STAGE build 0 12.3"; empty where there is none.
  std::string closing(const std::string& stage) const {
    const std::string all = "\n" + log();
    const std::size_t at = all.find("\nSTAGE " + stage + " ");
    return at == std::string::npos ? "" : all.substr(at + 1, all.find('\n', at + 1) - at - 1);
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(results()))
      if (entry.is_regular_file()) names.push_back(entry.path().filename());
    return names;
  }
  /// Processes of this machine that still run, and whose command line holds `word`.
  static int processes_with(const std::string& word) {
    int found = 0;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::ifstream in(entry.path() / "cmdline", std::ios::binary);
      std::string line(std::istreambuf_iterator<char>(in), {});
      found += line.find(word) != std::string::npos && is_alive(std::stol(name));
    }
    return found;
  }

  const TempDir folder;

 private:
  std::string text_of(const std::string& name) const {
    const std::string path = results() + "/" + name;
    return std::filesystem::exists(path) ? read_file_bytes(path) : "";
  }
};

}  // namespace lockstep::test
