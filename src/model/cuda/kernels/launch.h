#pragma once

#include <cstdint>
#include <cuda_runtime_api.h>

namespace lockstep::cuda {

/// Enqueues work(i) for all i in [0, n) on `stream`, in packs where that can be (packs.h). Instantiated in
/// kernels.cu for every kind of work there is. `multiprocessors`: of the device. Throws DeviceError.
template <class Work>
void launch(std::int64_t n, const Work& work, int multiprocessors, cudaStream_t stream);

}  // namespace lockstep::cuda
