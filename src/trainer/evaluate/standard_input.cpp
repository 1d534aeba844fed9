#include "trainer/evaluate/standard_input.h"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>
#include <vector>

#include "core/error.h"
#include "core/flight_recorder.h"

namespace lockstep {
namespace {

constexpr std::size_t chunk_bytes = std::size_t{1} << 20;
constexpr std::size_t most_bytes = std::size_t{16} << 30;
constexpr int wait_ms = 500;
constexpr int waits_until_told = 10;

}  // namespace

std::string read_standard_input(FlightRecorder* recorder, const std::function<void()>& waiting) {
  std::string text;
  std::vector<char> chunk(chunk_bytes);
  int waits = 0;
  while (true) {
    if (recorder != nullptr) recorder->tick();
    pollfd fd{STDIN_FILENO, POLLIN, 0};
    if (::poll(&fd, 1, wait_ms) == 0) {  // nobody has written yet
      if (++waits == waits_until_told && waiting) waiting();
      continue;
    }
    const ssize_t n = ::read(STDIN_FILENO, chunk.data(), chunk.size());
    if (n == 0) break;
    if (n < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      throw InputError(fmt::format("--input -: standard input cannot be read: {}", std::strerror(errno)));
    }
    text.append(chunk.data(), static_cast<std::size_t>(n));
    if (text.size() > most_bytes)
      throw InputError(
          fmt::format("--input -: standard input holds more than {} bytes: split it", most_bytes));
  }
  if (text.empty()) throw InputError("--input -: standard input is empty; write the samples to it, as CSV");
  if (text.starts_with("\x1f\x8b"))
    throw InputError("--input -: standard input is packed with gzip: unpack it on the way (zcat FILE | ...)");
  return text;
}

}  // namespace lockstep
