#pragma once

#include <cctype>
#include <cstdlib>
#include <set>
#include <string>

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

}  // namespace lockstep::test
