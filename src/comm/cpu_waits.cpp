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

}  // namespace

bool CpuWaits::look(long pid) {
  std::map<std::int64_t, Ran> ready;
  std::error_code failed;
  const std::string tasks = proc_ + "/" + std::to_string(pid) + "/task";
  for (const auto& entry : std::filesystem::directory_iterator(tasks, failed)) {
    const auto id = parse_int64(entry.path().filename().string());
    // The state comes behind the name in brackets, which may hold anything.
    const std::string stat = first_bytes(entry.path().string() + "/stat");
    const std::size_t end = stat.rfind(')');
    if (!id || end == std::string::npos || stat.substr(end, 3) != ") R") continue;
    const std::vector<std::string_view> fields = split(std::string_view(stat).substr(end + 2), ' ');
    constexpr std::size_t user_time = 14 - 3, system_time = 15 - 3;
    if (fields.size() <= system_time) continue;
    const auto user = parse_int64(fields[user_time]), system = parse_int64(fields[system_time]);
    const std::string counts = first_bytes(entry.path().string() + "/schedstat");
    const auto ns = parse_int64(std::string_view(counts).substr(0, counts.find(' ')));
    if (user && system && ns) ready[*id] = {*ns, *user + *system};
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
