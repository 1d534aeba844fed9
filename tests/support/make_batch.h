#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <vector>

#include "core/batch.h"

namespace lockstep::test {

/// A batch of these fields: each a vector or a span of float, int32 or bytes, which must outlive it; the list
/// of them lives until the program ends.
template <class... Fields>
Batch make_batch(std::int64_t slice, std::int64_t rows, std::int64_t valid,
                 std::span<const std::int64_t> samples, const Fields&... fields) {
  static std::mutex mutex;
  static std::deque<std::vector<FieldRows>> kept;
  const std::lock_guard lock(mutex);
  const auto rows_of = [](const auto& values) { return FieldRows(std::span(values.data(), values.size())); };
  kept.push_back({rows_of(fields)...});
  Batch batch;
  batch.slice = slice;
  batch.rows = rows;
  batch.valid = valid;
  batch.samples = samples;
  batch.fields = kept.back();
  return batch;
}

}  // namespace lockstep::test
