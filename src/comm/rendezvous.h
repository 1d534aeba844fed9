#pragma once

#include <string>
#include <vector>

#include "comm/world.h"

namespace lockstep {

/// Whether the variables of a launcher name a server by which ranks can find each other, and it is there. It
/// is looked for among the listening sockets of this machine and not called.
bool rendezvous_answers(const Environment& environment);

/// The variable that gives the address of an mpirun or of its daemon at which nobody of this machine listens;
/// empty where there is none. MPI would call it at its start, and fail.
std::string dead_address(const Environment& environment);

/// Open MPI's mpirun, up to its version 4, lets one program a rank call MPI: a script's second one fails in
/// MPI_Init, which cannot be caught. So a program that has finalised MPI leaves this file among those that
/// mpirun keeps for its ranks and removes in the end. Empty where no such mpirun is seen.
std::string used_rank_mark(const Environment& environment);
/// Leaves it; where it cannot be written nobody is told.
void mark_rank_as_used(const Environment& environment) noexcept;

/// Those of the process's variables that `environment` has too and that only a launcher sets; in the order of
/// their names.
std::vector<std::string> launcher_variables(const Environment& environment);

}  // namespace lockstep
