#pragma once

#include <algorithm>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/process.h"
#include "support/temp_dir.h"

namespace lockstep::test {

/// Runs the program on `ranks` ranks; 0: bare, without mpirun.
inline ProcessResult lockstep(int ranks, const std::vector<std::string>& args, ProcessOptions options = {}) {
  std::vector<std::string> argv = {LOCKSTEP_PROGRAM};
  argv.insert(argv.end(), args.begin(), args.end());
  return ranks == 0 ? run_process(argv, std::move(options)) : run_mpi(ranks, argv, std::move(options));
}

inline std::string digest(const std::string& path, bool state = false) {
  std::vector<std::string> args = {"digest", path};
  if (state) args.push_back("--state");
  const ProcessResult result = lockstep(0, args);
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  return result.out.substr(0, 64);
}

inline std::vector<nlohmann::json> json_lines(const std::string& path) {
  std::ifstream in(path);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

inline int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

/// Whether the processor has bfloat16, by the system's word and not by the program's.
inline bool processor_has_bf16() {
  std::ifstream in("/proc/cpuinfo");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return text.find(" avx512_bf16") != std::string::npos;
}

/// A small net with batch norm, dropout and clipping on made data: 130 samples, batches of 48 in 12 slices.
inline std::string small_config() {
  return R"(
[model]
layers = conv:16x3,pad=1 bn relu maxpool:2 dropout:0.2 flatten dense:5
[data]
format = synthetic
samples = 130
shape = 3x12x12
classes = 5
validation_fraction = 0.1
test_fraction = 0.1
[train]
epochs = 4
global_batch = 48
slices = 12
[optimizer]
name = adamw
lr = 0.01
weight_decay = 0.01
clip_norm = 1.0
[schedule]
name = cosine
warmup_steps = 3
[log]
every_steps = 2
)";
}

}  // namespace lockstep::test
