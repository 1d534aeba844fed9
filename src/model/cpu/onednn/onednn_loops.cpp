#include "model/cpu/onednn/onednn_loops.h"

#include <cstring>

#include "core/simd.h"

namespace lockstep::cpu {

LOCKSTEP_TARGET_CLONES void mask_by_output(float* __restrict diff, const float* __restrict output,
                                           std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) diff[i] = output[i] > 0.0f ? diff[i] : 0.0f;
}

LOCKSTEP_TARGET_CLONES void sum_rows(float* __restrict sum, const float* __restrict diff, std::int64_t rows,
                                     std::int64_t columns, std::int64_t stride) {
  for (std::int64_t c = 0; c < columns; ++c) sum[c] = diff[c];
  for (std::int64_t r = 1; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) sum[c] += diff[r * stride + c];
}

LOCKSTEP_TARGET_CLONES void add_part(float* __restrict sum, const float* __restrict part,
                                     std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] += part[i];
}

void copy_columns(float* to, std::int64_t to_stride, const float* from, std::int64_t from_stride,
                  std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r)
    std::memcpy(to + r * to_stride, from + r * from_stride,
                static_cast<std::size_t>(columns) * sizeof(float));
}

}  // namespace lockstep::cpu
