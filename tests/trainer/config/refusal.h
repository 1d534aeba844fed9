#pragma once

#include <functional>
#include <string>

#include "core/error.h"

namespace lockstep {

/// The text of the ConfigError that `f` throws, or "nothing was refused".
inline std::string refusal_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "nothing was refused";
}

}  // namespace lockstep
