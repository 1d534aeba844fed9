#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// Whether a pattern of the shell says the whole of a name: * stands for any run of characters, dots
/// included, ? for one, [abc] for one of these.
bool matches_pattern(const std::string& pattern, const std::string& name);

/// For messages: of `names` the most alike to a pattern that matches none, at most three, "a, b, c".
std::string nearest_names(const std::string& pattern, std::vector<std::string> names);

/// "a*, b" cut at the commas; empty where a part is.
std::vector<std::string> split_patterns(std::string_view text);

}  // namespace lockstep
