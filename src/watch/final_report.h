#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace lockstep {

// Writing for a process that must end whatever its readers and disks do. Any thread.

/// To standard error, whose reader may have stopped reading: what is not taken in time is dropped.
void write_error_stream(std::string_view text);
/// Does `act` in a thread of its own and waits for it, for `seconds` at most. False when it has not returned,
/// or threw.
bool do_in_time(std::function<void()> act, double seconds);
/// Appends to a file whose disk may be what hangs: gives up after three seconds. False when it was not
/// written.
bool append_in_time(const std::string& path, const std::string& text);

}  // namespace lockstep
