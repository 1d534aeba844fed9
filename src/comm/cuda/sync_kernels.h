#pragma once

#include <cstdint>
#include <cuda_runtime_api.h>

#include "comm/sync/tree_completion.h"

// Launches of the kernels in sync_kernels.cu. All pointers are device addresses. Throw DeviceError.

namespace lockstep::cuda {

/// out[i] = the sum of all parts of element i along the program, for i in [0, count). `merges`: one count per
/// part; `depth`: of the program. `count` is a multiple of block_elements and every part is aligned to 16
/// bytes. `out` may be the own part 0.
void launch_complete(const CompletionOperands& from, const std::uint8_t* merges, std::int32_t parts,
                     int depth, std::int64_t count, float* out, cudaStream_t stream);

/// marks[b] = finite_mark() of block b of `data`; `count` is a multiple of block_elements.
void launch_block_marks(const float* data, std::int64_t count, double* marks, cudaStream_t stream);

/// Adds one to *count, and shows the new count, and `bucket` where `shown_bucket` is not null, in host
/// memory.
void launch_mark(std::uint64_t* count, std::uint64_t* shown, std::int64_t* shown_bucket, std::int64_t bucket,
                 cudaStream_t stream);

}  // namespace lockstep::cuda
