#pragma once

#include <cctype>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/process.h"

namespace lockstep::test {

/// The ranks that a sentence names together with their host.
inline std::set<int> named_ranks(const std::string& summary) {
  std::set<int> ranks;
  for (std::size_t at = summary.find("rank "); at != std::string::npos; at = summary.find("rank ", at + 1)) {
    if (std::isdigit(static_cast<unsigned char>(summary[at + 5])) == 0) continue;
    const int rank = std::atoi(summary.c_str() + at + 5);
    if (summary.find(" on ", at) == at + 5 + std::to_string(rank).size()) ranks.insert(rank);
  }
  return ranks;
}

/// The pids of a job's ranks, as its table of ranks on the CPU tells them, by rank.
inline std::vector<pid_t> pids_in_table(const std::string& out) {
  std::vector<pid_t> pids;
  std::istringstream in(out);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string rank, host, pid, device;
    if (words >> rank >> host >> pid >> device && device == "cpu" && rank == std::to_string(pids.size()))
      pids.push_back(std::stoi(pid));
  }
  return pids;
}

/// Waits until the job trains, so that `run_dir` has metrics: then its pids by rank; none where it ended.
inline std::vector<pid_t> pids_once_training(Process& job, int ranks, const std::string& run_dir) {
  for (int i = 0; i < 2400 && job.running(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(25));
    std::ifstream metrics(run_dir + "/metrics.jsonl");
    std::string line;
    if (!std::getline(metrics, line)) continue;
    std::vector<pid_t> pids = pids_in_table(job.out());
    if (pids.size() == static_cast<std::size_t>(ranks)) return pids;
  }
  return {};
}

/// The first line of a text that holds `part`; empty where none does.
inline std::string first_line_with(const std::string& text, const std::string& part) {
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (line.find(part) != std::string::npos) return line;
  return "";
}

}  // namespace lockstep::test
