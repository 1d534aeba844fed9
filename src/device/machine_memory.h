#pragma once

namespace lockstep {

/// Bytes of memory that this process may use: what the machine has, or less where its shell (ulimit -v) or
/// its control group (a container, a batch job) sets a limit.
double machine_memory();

}  // namespace lockstep
