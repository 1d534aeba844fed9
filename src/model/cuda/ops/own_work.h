#pragma once

#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#include "model/cuda/kernels/launch_work.h"
#endif
#include "model/cuda/plan/own_op.h"

// Included by the sources in model/cuda/ops/ alone, which are compiled by nvcc, or as C++ where there is
// none.

namespace lockstep::cuda {

template <class Work>
const OwnWork& own_work() {
  static_assert(std::is_trivially_copyable_v<Work>);
  static const OwnWork kernel = {[](std::int64_t n, const void* work) {
                                   for (std::int64_t i = 0; i < n; ++i) (*static_cast<const Work*>(work))(i);
                                 },
#ifdef __CUDACC__
                                 [](std::int64_t n, const void* work, int multiprocessors, void* stream) {
                                   launch(n, *static_cast<const Work*>(work), multiprocessors,
                                          static_cast<cudaStream_t>(stream));
                                 },
#else
                                 nullptr,
#endif
                                 sizeof(Work)};
  return kernel;
}

}  // namespace lockstep::cuda
