#include <fmt/format.h>
#include <string>
#include <vector>

#include "core/text.h"
#include "trainer/config/config_table.h"

namespace lockstep {

const ConfigBinding* find_binding(const std::string& key) {
  for (const ConfigBinding& b : config_bindings()) {
    if (b.key.name == key) return &b;
  }
  return nullptr;
}

std::string section_of(const std::string& key) {
  return key.substr(0, key.find('.'));
}

std::string place_of(const std::string& key, const std::string& origin) {
  if (origin.empty() || origin == "default") return key;
  return origin.rfind("--", 0) == 0 ? origin : origin + ": " + key;
}

void check_value(const ConfigBinding& binding, const ConfigSource& source) {
  Config scratch;
  binding.set(binding.key, source.value, place_of(binding.key.name, source.origin), scratch);
}

std::string unknown_word(const std::string& kind, const std::string& word,
                         const std::vector<std::string>& known, const std::string& mark) {
  std::string start = fmt::format("unknown {} \"{}{}\"", kind, mark, word);
  if (const auto near = nearest_word(word, known)) {
    return fmt::format("{}: did you mean \"{}{}\"{}?", start, mark, *near,
                       near->rfind(word, 0) == 0 ? " (abbreviations are not accepted)" : "");
  }
  std::vector<std::string> alike;
  for (const std::string& k : known) {
    if (word.empty() || k.find('.') == std::string::npos || section_of(k) != section_of(word)) continue;
    alike.push_back(mark + k);
  }
  if (!alike.empty()) return fmt::format("{}: there are {}", start, fmt::join(alike, ", "));
  return start;
}

}  // namespace lockstep
