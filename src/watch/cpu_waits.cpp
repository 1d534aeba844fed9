#include "watch/cpu_waits.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <vector>

#include "core/text.h"
#include "watch/node_file.h"

namespace lockstep {
namespace {

struct ThreadState {
  char state = 0;  ///< 0: there is no such thread
  std::int64_t nice = 0;
  std::int64_t clock_ticks = 0;
};

ThreadState thread_at(const std::string& folder) {
  const std::vector<std::string> fields = stat_fields(folder + "/stat");
  constexpr std::size_t user_time = 14 - 3, system_time = 15 - 3, nice = 19 - 3;
  if (fields.size() <= nice) return {};
  const auto number = [&](std::size_t i) { return parse_int64(fields[i]).value_or(0); };
  return {fields[0][0], number(nice), number(user_time) + number(system_time)};
}

/// Nanoseconds on a cpu; nothing where the system does not count.
std::optional<std::int64_t> time_on_cpu(const std::string& folder) {
  std::ifstream file(folder + "/schedstat");
  std::int64_t ns = 0;
  return file >> ns ? std::optional(ns) : std::nullopt;
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
    // A thread with a higher nice value than the main one has asked to come last: its waits say nothing.
    if (!id || thread.state != 'R' || thread.nice > main_nice) continue;
    if (const auto ns = time_on_cpu(at->path().string())) ready[*id] = {*ns, thread.clock_ticks};
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
