#pragma once

#include <functional>

namespace lockstep {

/// How variables of the environment are looked up: std::getenv, or a table in tests.
using Environment = std::function<const char*(const char* name)>;
Environment process_environment();
/// The environment as it is now, in a copy: MPI_Init writes what looks like a launcher's words into the
/// process's own.
Environment copied_environment();

}  // namespace lockstep
