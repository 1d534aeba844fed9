#pragma once

#include <cuda_runtime_api.h>

namespace lockstep::cuda {

/// Whether this program's kernels can run on the current device, whose context is made: asks for one of them.
/// A build for some architectures alone ("90-real") has none for later ones.
cudaError_t own_code_status() noexcept;

}  // namespace lockstep::cuda
