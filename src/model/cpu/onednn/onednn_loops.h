#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::cpu {

/// diff[i] = output[i] > 0 ? diff[i] : 0: the gradient through a ReLU, from its output. Any buffers of
/// `count`.
void mask_by_output(float* diff, const float* output, std::int64_t count);

/// The same on bfloat16.
void mask_by_output(std::uint16_t* diff, const std::uint16_t* output, std::int64_t count);

/// to[i] = from[i], rounded to bfloat16.
void round_to_bf16(std::uint16_t* to, const float* from, std::int64_t count);

/// to[i] = output[i] > 0 ? diff[i] : 0, rounded to bfloat16.
void round_masked(std::uint16_t* to, const float* diff, const float* output, std::int64_t count);

/// sum[c] = diff[0][c] + diff[1][c] + …, rows in order; diff is (rows, stride) of which `columns` are read.
void sum_rows(float* sum, const float* diff, std::int64_t rows, std::int64_t columns, std::int64_t stride);

/// The same of bfloat16, with sums in float32.
void sum_rows(float* sum, const std::uint16_t* diff, std::int64_t rows, std::int64_t columns,
              std::int64_t stride);

/// sum[i] += part[i].
void add_part(float* sum, const float* part, std::int64_t count);

/// Copies `columns` of each row between matrices with other distances between rows (in elements).
void copy_columns(float* to, std::int64_t to_stride, const float* from, std::int64_t from_stride,
                  std::int64_t rows, std::int64_t columns);
/// The same of any elements; `columns` and distances in bytes.
void copy_columns(std::byte* to, std::int64_t to_stride, const std::byte* from, std::int64_t from_stride,
                  std::int64_t rows, std::int64_t columns);

}  // namespace lockstep::cpu
