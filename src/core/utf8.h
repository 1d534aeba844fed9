#pragma once

#include <string_view>

namespace lockstep {

/// Whether `text` is well-formed UTF-8 (RFC 3629): nothing overlong, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace lockstep
