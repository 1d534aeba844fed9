#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/field.h"
#include "data/dataset.h"

namespace lockstep {

/// The sample and its epoch. A transform may depend on them and on its own constants, and on nothing else.
struct SampleKey {
  std::int64_t sample = 0;  ///< index in the data set
  std::int64_t epoch = 0;
};

/// Gives one field of a batch, sample by sample: a field of a data set behind its transforms. Read-only,
/// shared by threads; read() allocates nothing.
class FieldReader {
 public:
  virtual ~FieldReader() = default;
  /// What it gives.
  virtual const Field& field() const = 0;
  /// Bytes that read() may use meanwhile.
  virtual std::size_t scratch_bytes() const { return 0; }
  /// Writes the field of a sample to `out`, Field::bytes() of it, and returns its length; beyond that it
  /// writes Field::pad. `out` of a ragged field may have fewer entries of extent 0, as many as its length
  /// class. Of a field that is not ragged the length is extent 0, or 1 of a scalar.
  virtual std::int64_t read(const SampleKey& key, std::span<std::byte> scratch,
                            std::span<std::byte> out) const = 0;
};

/// The field of this name as the data set stores it. The set must outlive the reader.
std::shared_ptr<const FieldReader> stored_field(const Dataset& data, std::string_view name);

/// A function of one field of one sample, for programs that bring their own. Read-only, shared by threads.
class Transform {
 public:
  virtual ~Transform() = default;
  /// What becomes of such a field. Throws ConfigError for one that it cannot take.
  virtual Field output(const Field& input) const = 0;
  /// `in`, `out`: Field::bytes() of either field; `length` of `in`. Writes all of `out`, what lies beyond its
  /// length as Field::pad, and returns that length. A function of its arguments alone.
  virtual std::int64_t apply(const SampleKey& key, std::span<const std::byte> in, std::int64_t length,
                             std::span<std::byte> out) const = 0;
};

/// `source` behind `transforms`, the first of them first.
std::shared_ptr<const FieldReader> transformed(std::shared_ptr<const FieldReader> source,
                                               std::vector<std::shared_ptr<const Transform>> transforms);

}  // namespace lockstep
