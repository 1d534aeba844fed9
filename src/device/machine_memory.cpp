#include "device/machine_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <sys/resource.h>
#include <unistd.h>

#include "core/text.h"

namespace lockstep {

namespace {

/// The limit that a file of a control group holds; infinite where there is none.
double group_limit(const char* path) {
  std::ifstream file(path);
  std::string text;
  if (!(file >> text)) return std::numeric_limits<double>::infinity();
  return parse_double(text).value_or(std::numeric_limits<double>::infinity());  // "max"
}

double process_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return std::numeric_limits<double>::infinity();
  return static_cast<double>(limit.rlim_cur);
}

}  // namespace

double machine_memory() {
  const double machine =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  // The files of the second and the first version.
  return std::min({machine, process_limit(), group_limit("/sys/fs/cgroup/memory.max"),
                   group_limit("/sys/fs/cgroup/memory/memory.limit_in_bytes")});
}

}  // namespace lockstep
