#pragma once

#include <cstdint>
#include <gtest/gtest.h>
#include <sstream>
#include <string>
#include <vector>

#include "support/process.h"

namespace lockstep::test {

/// What digest_program tells of a training.
struct PlacementLine {
  std::string digest;
  int threads = 0;
  bool overlap = false;
  std::int64_t bucket = 0;
  bool sharded = false;
  std::int64_t state_elements = 0;
  std::int64_t buckets = 0;
};

inline std::vector<PlacementLine> run_digest_program(const std::string& program, int ranks,
                                                     const std::vector<std::string>& args,
                                                     const ProcessOptions& options) {
  std::vector<std::string> argv = {program};
  argv.insert(argv.end(), args.begin(), args.end());
  const ProcessResult result = run_mpi(ranks, argv, options);
  EXPECT_EQ(result.exit_code, 0) << result.describe();
  std::vector<PlacementLine> lines;
  std::istringstream in(result.out);
  for (PlacementLine line; in >> line.digest >> line.threads >> line.overlap >> line.bucket >> line.sharded >>
                           line.state_elements >> line.buckets;) {
    EXPECT_EQ(line.digest.size(), 64u);
    lines.push_back(line);
  }
  return lines;
}

}  // namespace lockstep::test
