#include "core/launcher.h"

#include <algorithm>
#include <cstdlib>

namespace lockstep {

namespace {

/// The non-negative number in a variable, or -1.
int number_in(const Environment& environment, const char* name) {
  const char* text = environment(name);
  if (text == nullptr || *text == '\0') return -1;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return *end == '\0' && value >= 0 && value < 100000000 ? static_cast<int>(value) : -1;
}

}  // namespace

std::optional<LauncherIdentity> launcher_identity(const Environment& environment) {
  const auto given = [&](const char* name) {
    const char* text = environment(name);
    return text != nullptr && *text != '\0';
  };
  const auto number = [&](const char* name) { return std::max(0, number_in(environment, name)); };
  const bool pmi = given("PMIX_RANK") || given("PMI_RANK");
  if (given("OMPI_COMM_WORLD_RANK"))
    return LauncherIdentity{"mpirun", "OMPI_COMM_WORLD_RANK", number("OMPI_COMM_WORLD_RANK"),
                            number("OMPI_COMM_WORLD_SIZE"), true};
  if (const int tasks = number("SLURM_STEP_NUM_TASKS"); tasks > 0)
    return LauncherIdentity{"srun",
                            tasks > 1 || !pmi    ? "SLURM_STEP_NUM_TASKS"
                            : given("PMIX_RANK") ? "PMIX_RANK"
                                                 : "PMI_RANK",
                            number("SLURM_PROCID"), tasks, pmi};
  // A batch script is task 0.
  if (number("SLURM_PROCID") > 0)
    return LauncherIdentity{"srun", "SLURM_PROCID", number("SLURM_PROCID"), number("SLURM_NTASKS"), pmi};
  if (given("PMIX_RANK")) return LauncherIdentity{"PMIx", "PMIX_RANK", number("PMIX_RANK"), 0, true};
  if (given("PMI_RANK"))
    return LauncherIdentity{"PMI", "PMI_RANK", number("PMI_RANK"), number("PMI_SIZE"), true};
  return std::nullopt;
}

}  // namespace lockstep
