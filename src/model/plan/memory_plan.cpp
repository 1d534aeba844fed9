#include "model/plan/memory_plan.h"

#include <algorithm>
#include <numeric>

#include "device/memory.h"

namespace lockstep {

std::size_t plan_memory(std::vector<MemoryRequest>& requests) {
  std::vector<std::size_t> order(requests.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return requests[a].bytes > requests[b].bytes; });
  std::vector<std::size_t> placed;  // by offset
  std::size_t arena = 0;
  for (const std::size_t i : order) {
    MemoryRequest& request = requests[i];
    const std::size_t bytes = align_up(request.bytes, buffer_alignment);
    std::size_t offset = 0;
    for (const std::size_t j : placed) {
      const MemoryRequest& other = requests[j];
      if (other.last < request.first || other.first > request.last) continue;
      if (offset + bytes <= other.offset) break;
      offset = std::max(offset, other.offset + align_up(other.bytes, buffer_alignment));
    }
    request.offset = offset;
    arena = std::max(arena, offset + bytes);
    placed.insert(std::upper_bound(
                      placed.begin(), placed.end(), i,
                      [&](std::size_t a, std::size_t b) { return requests[a].offset < requests[b].offset; }),
                  i);
  }
  return arena;
}

}  // namespace lockstep
