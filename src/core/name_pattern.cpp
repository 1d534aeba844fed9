#include "core/name_pattern.h"

#include <algorithm>
#include <fnmatch.h>

#include "core/text.h"

namespace lockstep {

bool matches_pattern(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

std::string nearest_names(const std::string& pattern, std::vector<std::string> names) {
  std::string letters;
  for (const char c : pattern)
    if (c != '*' && c != '?') letters += c;
  // A pattern says part of a name: the rest of it costs nothing.
  const auto distance = [&](const std::string& name) {
    std::size_t least = edit_distance(letters, name);
    for (std::size_t at = 0; at + letters.size() <= name.size(); ++at)
      least = std::min(least, edit_distance(letters, name.substr(at, letters.size())));
    return least;
  };
  std::stable_sort(names.begin(), names.end(),
                   [&](const std::string& a, const std::string& b) { return distance(a) < distance(b); });
  if (names.size() > 3) names.resize(3);
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::vector<std::string> split_patterns(std::string_view text) {
  std::vector<std::string> patterns;
  for (const std::string_view part : split(text, ',')) {
    if (trim(part).empty()) return {};
    patterns.emplace_back(trim(part));
  }
  return patterns;
}

}  // namespace lockstep
