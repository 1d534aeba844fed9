#include "comm/cpu_waits.h"

#include <algorithm>
#include <fcntl.h>
#include <filesystem>
#include <string_view>
#include <unistd.h>
#include <vector>

#include "core/file.h"
#include "core/text.h"

namespace lockstep {
namespace {

std::string first_bytes(const std::string& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[1024];
  const ssize_t n = fd ? ::read(fd.get(), text, sizeof text) : 0;
  return std::string(text, static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
}

struct ThreadState {
  char state = 0;  ///< 0: there is no such thread
  std::int64_t nice = 0;
  std::int64_t clock_ticks = 0;
};

/// Of proc(5)'s stat in this folder.
ThreadState thread_at(const std::string& folder) {
  const std::string stat = first_bytes(folder + "/stat");
  // The state comes behind the name in brackets, which may hold anything.
  const std::size_t end = stat.rfind(')');
  if (end == std::string::npos || end + 2 >= stat.size()) return {};
  const std::vector<std::string_view> fields = split(std::string_view(stat).substr(end + 2), ' ');
  constexpr std::size_t user_time = 14 - 3, system_time = 15 - 3, nice = 19 - 3;
  if (fields.size() <= nice) return {};
  const auto number = [&](std::size_t i) { return parse_int64(fields[i]).value_or(0); };
  return {fields[0][0], number(nice), number(user_time) + number(system_time)};
}

}  // namespace

bool CpuWaits::look(long pid) {
  std::map<std::int64_t, Ran> ready;
  const std::string tasks = proc_ + "/" + std::to_string(pid) + "/task";
  const std::int64_t main_nice = thread_at(tasks + "/" + std::to_string(pid)).nice;
  std::error_code failed;
  for (std::filesystem::directory_iterator at(tasks, failed), end; !failed && at != end;
       at.increment(failed)) {
    const auto id = parse_int64(at->path().filename().string());
    const ThreadState thread = thread_at(at->path().string());
    // A thread that is content with what others leave may well wait for them.
    if (!id || thread.state != 'R' || thread.nice > main_nice) continue;
    const std::string counts = first_bytes(at->path().string() + "/schedstat");
    if (const auto ns = parse_int64(std::string_view(counts).substr(0, counts.find(' '))))
      ready[*id] = {*ns, thread.clock_ticks};
  }
  std::map<std::int64_t, Ran>& before = threads_[pid];
  const bool waits = std::any_of(ready.begin(), ready.end(), [&](const auto& thread) {
    const auto at = before.find(thread.first);
    return at != before.end() && at->second == thread.second;
  });
  before = std::move(ready);
  return waits;
}

}  // namespace lockstep
