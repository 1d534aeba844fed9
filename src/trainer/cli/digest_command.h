#pragma once

#include <string>
#include <vector>

#include "core/log.h"
#include "trainer/config/config.h"

namespace lockstep {

/// What `lockstep digest` prints: 64 hex digits of TensorDigest over the parameters and running statistics of
///   a weight file;
///   a checkpoint directory: its model.safetensors;
///   a run directory: model.safetensors where the run has ended, else the newest whole checkpoint.
/// With `state` also over the optimizer state and the data position ("training_state.step" and
/// "training_state.position", I64 scalars), of a checkpoint directory or the newest whole checkpoint of a
/// run. So equal digests mean equal bits, however many ranks and generations it took. Checkpoints that are
/// not whole add a sentence to `passed_over`. Throws InputError for anything else, and with `state` for a
/// weight file. One rank.
std::string digest_of(const std::string& path, bool state, std::vector<std::string>& passed_over);

/// `lockstep digest PATH...`: a line a path; of several paths also "equal", or "different" and exit code 1.
/// Every path is looked at before anything is printed. One rank.
int digest_command(const CommandLine& command, const Log& log);

}  // namespace lockstep
