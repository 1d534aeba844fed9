#pragma once

#include <string>
#include <vector>

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

}  // namespace lockstep
