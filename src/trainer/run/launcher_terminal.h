#pragma once

#include <optional>
#include <string>

#include "core/file.h"

namespace lockstep {

/// The terminal that mpirun writes on. A rank's own descriptors say nothing of it: its standard error is a
/// pipe to mpirun, and its standard output a terminal that mpirun has made, whatever mpirun's own are.
struct LauncherTerminal {
  FileDescriptor error;        ///< mpirun's standard error, a terminal
  bool output_is_one = false;  ///< mpirun's standard output is a terminal too
};

/// Looks for an mpirun among the processes above this one, on this host. Nothing where there is none, its
/// standard error is no terminal, or it marks the lines that it passes on (--tag-output and the like), which
/// would spoil what is drawn in place. Never throws.
std::optional<LauncherTerminal> launcher_terminal();

}  // namespace lockstep
