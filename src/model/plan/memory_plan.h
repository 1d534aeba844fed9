#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace lockstep {

/// A buffer that is in use from step `first` to step `last` (inclusive) of a static schedule.
struct MemoryRequest {
  std::string name;
  std::size_t bytes = 0;
  int first = 0;
  int last = 0;
  std::size_t offset = 0;  ///< filled in by plan_memory
};

/// Lays the requests into one arena: two that are in use at the same time never overlap. Offsets are
/// multiples of
/// 64. Greedy by size (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020,
/// section 5.2). Returns the size of the arena.
std::size_t plan_memory(std::vector<MemoryRequest>& requests);

}  // namespace lockstep
