#include "comm/rendezvous.h"

#include <array>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <string>

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
