#include "core/environment.h"

#include <cstddef>
#include <cstdlib>
#include <map>
#include <string>
#include <unistd.h>
#include <utility>

namespace lockstep {

Environment process_environment() {
  return [](const char* name) -> const char* { return std::getenv(name); };
}

Environment copied_environment() {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::size_t equals = text.find('=');
    if (equals != std::string::npos) variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return [variables = std::move(variables)](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
}

}  // namespace lockstep
