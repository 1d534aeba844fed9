#pragma once

#include <optional>
#include <string>

#include "core/environment.h"

namespace lockstep {

/// What the launcher of this process said in its environment: known before MPI starts.
struct LauncherIdentity {
  std::string launcher;  ///< "mpirun", "srun", "PMIx" or "PMI"
  std::string variable;  ///< the variable of the environment that says so
  int rank = 0;
  int size = 0;             ///< 0: the launcher did not say
  bool speaks_mpi = false;  ///< the launcher offered a way for MPI's ranks to find each other
};
/// Nothing for a process that was started bare, also inside a batch script: Slurm sets SLURM_NTASKS and
/// SLURM_PROCID=0 there too, but SLURM_STEP_NUM_TASKS only for the tasks of a step that srun started. A
/// variable whose value is no number counts as rank 0: somebody meant to launch.
std::optional<LauncherIdentity> launcher_identity(const Environment& environment = process_environment());

}  // namespace lockstep
