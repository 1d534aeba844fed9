#pragma once

#include <string>
#include <string_view>

namespace lockstep {

/// A field as RFC 4180 wants it: in quotes where it holds a comma, a quote or a line end, where it begins or
/// ends with a blank, and where it is empty.
std::string csv_field(std::string_view text);

}  // namespace lockstep
