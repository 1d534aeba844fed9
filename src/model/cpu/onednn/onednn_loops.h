#pragma once

#include <cstdint>

namespace lockstep::cpu {

/// diff[i] = output[i] > 0 ? diff[i] : 0: the gradient through a ReLU, from its output. Any buffers of
/// `count`.
void mask_by_output(float* diff, const float* output, std::int64_t count);

/// sum[c] = diff[0][c] + diff[1][c] + …, rows in order; diff is (rows, stride) of which `columns` are read.
void sum_rows(float* sum, const float* diff, std::int64_t rows, std::int64_t columns, std::int64_t stride);

/// sum[i] += part[i].
void add_part(float* sum, const float* part, std::int64_t count);

/// Copies `columns` of each row between matrices with other distances between rows (in elements).
void copy_columns(float* to, std::int64_t to_stride, const float* from, std::int64_t from_stride,
                  std::int64_t rows, std::int64_t columns);

}  // namespace lockstep::cpu
