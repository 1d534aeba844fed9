#include "comm/rendezvous.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <fcntl.h>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#include "core/file.h"

namespace lockstep {
namespace {

/// Whether a socket of this machine listens at a port, as far as can be seen. It is not called: a server may
/// complain of a caller that says nothing.
bool somebody_listens(int port) {
  bool seen = false;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream in(table);
    std::string line;
    if (!std::getline(in, line)) continue;
    seen = true;
    while (std::getline(in, line)) {
      std::istringstream fields(line);
      std::string number, local, remote, state;
      fields >> number >> local >> remote >> state;
      const std::size_t colon = local.rfind(':');
      if (state == "0A" && colon != std::string::npos &&
          std::strtol(local.c_str() + colon + 1, nullptr, 16) == port)
        return true;
    }
  }
  return !seen;
}

}  // namespace

std::string dead_address(const Environment& environment) {
  for (const char* name : {"OMPI_MCA_orte_hnp_uri", "OMPI_MCA_orte_local_daemon_uri"}) {
    const char* text = environment(name);
    if (text == nullptr || *text == '\0') continue;
    const std::string uri = text;
    const std::size_t colon = uri.rfind(':');
    if (colon == std::string::npos || !somebody_listens(std::atoi(uri.c_str() + colon + 1))) return name;
  }
  return "";
}

std::string used_rank_mark(const Environment& environment) {
  const auto text = [&](const char* name) -> std::string {
    const char* value = environment(name);
    return value == nullptr ? "" : value;
  };
  const std::string folder = text("PMIX_SERVER_TMPDIR"), job = text("PMIX_NAMESPACE"),
                    rank = text("PMIX_RANK");
  const auto digits = [](const std::string& t) {
    return !t.empty() && t.find_first_not_of("0123456789") == t.npos;
  };
  if (!folder.starts_with('/') || !digits(job) || !digits(rank)) return "";
  if (text("OMPI_COMM_WORLD_RANK") != rank || text("OMPI_MCA_ess_base_jobid") != job) return "";
  return folder + "/lockstep.used." + job + "." + rank;
}

void mark_rank_as_used(const Environment& environment) noexcept {
  try {
    if (const std::string mark = used_rank_mark(environment); !mark.empty())
      const FileDescriptor made(::open(mark.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  } catch (const std::exception&) {
    // The next program then fails as others do.
  }
}

std::vector<std::string> launcher_variables(const Environment& environment) {
  constexpr std::array prefixes = {
      "OMPI_COMM_WORLD_",   "OMPI_MCA_orte_",   "OMPI_MCA_ess",       "PMIX_",        "PMI_",
      "OMPI_UNIVERSE_SIZE", "OMPI_NUM_APP_CTX", "OMPI_FILE_LOCATION", "OMPI_MCA_pmix"};
  std::set<std::string> found;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    // What start_without_daemon() sets, and users may.
    if (name == "OMPI_MCA_ess_singleton_isolated" || name == "OMPI_MCA_orte_create_session_dirs") continue;
    const bool theirs = std::any_of(prefixes.begin(), prefixes.end(),
                                    [&](const char* prefix) { return name.starts_with(prefix); });
    if (theirs && environment(name.c_str()) != nullptr) found.insert(name);
  }
  return {found.begin(), found.end()};
}

bool rendezvous_answers(const Environment& environment) {
  constexpr std::array uris = {"PMIX_SERVER_URI41", "PMIX_SERVER_URI4",     "PMIX_SERVER_URI3",
                               "PMIX_SERVER_URI21", "PMIX_SERVER_URI2",     "PMIX_SERVER_URI2USOCK",
                               "PMIX_SERVER_URI",   "PMIX_SERVER_URI_USOCK"};
  for (const char* name : uris) {
    const char* text = environment(name);
    if (text == nullptr) continue;
    const std::string uri = text;
    // "job.rank;tcp4://address:port"; what is no address of TCP is a socket in the file system.
    if (uri.find("tcp") == std::string::npos) return true;
    if (somebody_listens(std::atoi(uri.substr(uri.rfind(':') + 1).c_str()))) return true;
  }
  // What older launchers offer: a descriptor that the process has inherited, or an address.
  const char* fd = environment("PMI_FD");
  return (fd != nullptr && ::fcntl(std::atoi(fd), F_GETFD) != -1) || environment("PMI_PORT") != nullptr;
}

}  // namespace lockstep
