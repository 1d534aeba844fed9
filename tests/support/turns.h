#pragma once

#include <cstddef>
#include <cstdlib>
#include <string>

namespace lockstep::test {

/// Whether case `index` of `count` like ones is taken this time: one of `every` in turn, so that as many
/// turns take all of them; all where there are fewer than `every`. LOCKSTEP_TESTS=full takes all at once.
/// tests/run.sh takes the turn from the commit.
inline bool is_taken(std::size_t index, std::size_t count, std::size_t every) {
  const char* tests = std::getenv("LOCKSTEP_TESTS");
  if (tests != nullptr && std::string(tests) == "full") return true;
  const char* turn = std::getenv("LOCKSTEP_TESTS_TURN");
  const std::size_t offset = turn == nullptr ? 0 : std::strtoul(turn, nullptr, 10);
  return count < every || (index + offset) % every == 0;
}

}  // namespace lockstep::test
