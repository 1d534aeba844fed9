#pragma once

#include <functional>
#include <string>

namespace lockstep {

class FlightRecorder;

/// All of standard input. Waiting for whoever writes it counts as progress: `recorder` (may be null) is told
/// so, and `waiting` is called once where nothing has come for five seconds. Throws InputError where it
/// cannot be read, is empty, holds more than 16 GiB, or is packed with gzip. One rank.
std::string read_standard_input(FlightRecorder* recorder, const std::function<void()>& waiting = {});

}  // namespace lockstep
