#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep {

/// "1 step", "2 steps", "2 classes": a number with its noun; `many` where neither s nor es does.
inline std::string counted(std::int64_t count, std::string_view one, std::string_view many = {}) {
  std::string text = std::to_string(count) + " ";
  if (count == 1) return text.append(one);
  if (!many.empty()) return text.append(many);
  return text.append(one).append(one.ends_with('s') ? "es" : "s");
}

}  // namespace lockstep
