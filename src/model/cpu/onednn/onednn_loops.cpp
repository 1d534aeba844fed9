#include "model/cpu/onednn/onednn_loops.h"

#include <cstring>

#include "core/numerics/precision.h"
#include "core/simd.h"

namespace lockstep::cpu {

LOCKSTEP_TARGET_CLONES void mask_by_output(float* __restrict diff, const float* __restrict output,
                                           std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) diff[i] = output[i] > 0.0f ? diff[i] : 0.0f;
}

LOCKSTEP_TARGET_CLONES void mask_by_output(std::uint16_t* __restrict diff,
                                           const std::uint16_t* __restrict output, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    diff[i] = bf16_to_float(output[i]) > 0.0f ? diff[i] : std::uint16_t{0};
}

LOCKSTEP_TARGET_CLONES void round_to_bf16(std::uint16_t* __restrict to, const float* __restrict from,
                                          std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = float_to_bf16(from[i]);
}

LOCKSTEP_TARGET_CLONES void round_masked(std::uint16_t* __restrict to, const float* __restrict diff,
                                         const float* __restrict output, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = float_to_bf16(output[i] > 0.0f ? diff[i] : 0.0f);
}

LOCKSTEP_TARGET_CLONES void sum_rows(float* __restrict sum, const float* __restrict diff, std::int64_t rows,
                                     std::int64_t columns, std::int64_t stride) {
  for (std::int64_t c = 0; c < columns; ++c) sum[c] = diff[c];
  for (std::int64_t r = 1; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) sum[c] += diff[r * stride + c];
}

LOCKSTEP_TARGET_CLONES void sum_rows(float* __restrict sum, const std::uint16_t* __restrict diff,
                                     std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  for (std::int64_t c = 0; c < columns; ++c) sum[c] = bf16_to_float(diff[c]);
  for (std::int64_t r = 1; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) sum[c] += bf16_to_float(diff[r * stride + c]);
}

LOCKSTEP_TARGET_CLONES void add_part(float* __restrict sum, const float* __restrict part,
                                     std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] += part[i];
}

void copy_columns(float* to, std::int64_t to_stride, const float* from, std::int64_t from_stride,
                  std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t bytes = sizeof(float);
  copy_columns(reinterpret_cast<std::byte*>(to), to_stride * bytes, reinterpret_cast<const std::byte*>(from),
               from_stride * bytes, rows, columns * bytes);
}

void copy_columns(std::byte* to, std::int64_t to_stride, const std::byte* from, std::int64_t from_stride,
                  std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r)
    std::memcpy(to + r * to_stride, from + r * from_stride, static_cast<std::size_t>(columns));
}

}  // namespace lockstep::cpu
