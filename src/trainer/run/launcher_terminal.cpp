#include "trainer/run/launcher_terminal.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <fcntl.h>
#include <fmt/format.h>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>

#include "core/text.h"

namespace lockstep {
namespace {

constexpr int most_ancestors = 8;  // shells and wrappers between mpirun and a rank are few

struct Ancestor {
  std::string name;
  std::int64_t parent = 0;
};

/// "pid (name) state parent …", from /proc; the name may hold blanks and parentheses.
std::optional<Ancestor> read_ancestor(std::int64_t pid) {
  const std::string text = read_file(fmt::format("/proc/{}/stat", pid));
  const std::size_t open = text.find('('), close = text.rfind(')');
  if (open == text.npos || close == text.npos || close < open) return std::nullopt;
  const auto fields = split(std::string_view(text).substr(std::min(close + 2, text.size())), ' ');
  const auto parent = fields.size() < 2 ? std::nullopt : parse_int64(fields[1]);
  if (!parent) return std::nullopt;
  return Ancestor{text.substr(open + 1, close - open - 1), *parent};
}

bool is_mpirun(std::string_view name) {
  constexpr std::array names = {"mpirun", "mpiexec", "orterun", "prterun"};
  return std::any_of(names.begin(), names.end(), [&](const char* n) { return name.starts_with(n); });
}

/// Whether lines of the ranks come out as they went in.
bool passes_on_unmarked(std::int64_t mpirun) {
  for (const char* name : {"OMPI_MCA_orte_tag_output", "OMPI_MCA_orte_timestamp_output",
                           "OMPI_MCA_orte_xml_output", "OMPI_MCA_orte_output_filename"})
    if (std::getenv(name) != nullptr) return false;
  const std::string words = read_file(fmt::format("/proc/{}/cmdline", mpirun));
  for (std::string_view word : split(words, '\0')) {
    while (word.starts_with('-')) word.remove_prefix(1);
    for (const char* marking : {"tag-output", "timestamp-output", "output-filename", "xml", "xterm"})
      if (word == marking) return false;
  }
  return true;
}

/// A descriptor of another process, where it is a terminal.
FileDescriptor open_terminal(std::int64_t pid, int number) {
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, number);
  struct stat status {};
  // To open a pipe or a device of another kind could wait, or do something.
  if (::stat(path.c_str(), &status) != 0 || !S_ISCHR(status.st_mode)) return FileDescriptor();
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  if (!fd || ::isatty(fd.get()) != 1) return FileDescriptor();
  return fd;
}

}  // namespace

std::optional<LauncherTerminal> launcher_terminal() {
  try {
    std::int64_t pid = ::getppid();
    for (int i = 0; i < most_ancestors && pid > 1; ++i) {
      const std::optional<Ancestor> ancestor = read_ancestor(pid);
      if (!ancestor) return std::nullopt;
      if (is_mpirun(ancestor->name)) {
        FileDescriptor error = open_terminal(pid, STDERR_FILENO);
        if (!error || !passes_on_unmarked(pid)) return std::nullopt;
        return LauncherTerminal{std::move(error), static_cast<bool>(open_terminal(pid, STDOUT_FILENO))};
      }
      pid = ancestor->parent;
    }
  } catch (const std::exception&) {
    // Who may not look at the processes above draws nothing in place.
  }
  return std::nullopt;
}

}  // namespace lockstep
