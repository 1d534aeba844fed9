#pragma once

#include <string>

namespace lockstep {

class FlightRecorder;

/// All of standard input. Waiting for whoever writes it counts as progress: `recorder` (may be null) is told
/// so. Throws InputError where it cannot be read, holds more than 16 GiB, or is packed with gzip. One rank.
std::string read_standard_input(FlightRecorder* recorder);

}  // namespace lockstep
