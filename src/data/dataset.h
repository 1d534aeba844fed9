#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/field.h"

namespace lockstep {

/// Samples by index, each with the same fields. Read-only after construction, shared by all threads of the
/// rank.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::int64_t size() const = 0;
  /// What every sample has, in the order by which read() counts. Valid as long as the set.
  virtual std::span<const Field> fields() const = 0;
  /// Writes one field of a sample to `out`, Field::bytes() of it: row-major, as the set stores it, not
  /// normalised. Of a ragged field the first length() entries of extent 0 are written, and `out` may hold
  /// fewer than the field's extent as long as they fit.
  virtual void read(std::size_t field, std::int64_t index, std::span<std::byte> out) const = 0;
  /// The same in place, where the set holds it so; else empty. Valid as long as the set.
  virtual std::span<const std::byte> view(std::size_t field, std::int64_t index) const;
  /// How many entries of extent 0 a sample has of a ragged field; of another the extent itself, 1 for a
  /// scalar.
  virtual std::int64_t length(std::size_t field, std::int64_t index) const;
  /// Of a set of several files that are read as they are needed: how many samples each of them has, one
  /// after the other. Empty of every other set.
  virtual std::span<const std::int64_t> shards() const { return {}; }
  /// Throws InputError that names the file where what was read of these samples cannot be trusted, since
  /// their file has been cut short meanwhile. Indices below 0 are passed over.
  virtual void check(std::span<const std::int64_t>) const {}
  /// What it is and where it came from, for messages and `inspect`.
  virtual std::string describe() const = 0;
  /// Where a sample stands in its file, for messages: "'a.csv' line 17".
  virtual std::string where(std::int64_t index) const;
};

/// The place of the field of this name in fields(), if there is one.
std::optional<std::size_t> find_field(std::span<const Field> fields, std::string_view name);

/// One field of a data set, read as the numbers that it is made of. The set must outlive it.
class FieldColumn {
 public:
  /// InternalError where the set has no such field.
  FieldColumn(const Dataset& data, std::string_view name);

  const Field& field() const { return data_->fields()[index_]; }
  std::size_t index() const { return index_; }
  std::size_t width() const { return width_; }  ///< numbers of a sample
  /// Whether it is stored as bytes.
  bool is_bytes() const { return bytes_; }
  /// The bytes of a sample of such a field: in place where the set can, else read to `buffer` (width()).
  std::span<const std::uint8_t> bytes(std::int64_t index, std::span<std::byte> buffer) const;
  /// Whether a sample of such a field can be looked at in place.
  bool in_place() const { return data_->size() > 0 && !data_->view(index_, 0).empty(); }
  /// Of a field of float32 that can be looked at in place; else empty.
  std::span<const float> floats(std::int64_t index) const;
  /// As float32, whatever it is stored as. `out`: width() numbers.
  void read(std::int64_t index, std::span<float> out) const;
  /// Of a field of one int32 number.
  std::int32_t integer(std::int64_t index) const;

 private:
  const Dataset* data_;
  std::size_t index_;
  std::size_t width_;
  bool bytes_;
};

/// The names of the fields that Lockstep's own readers offer and its models take.
inline constexpr const char* input_field = "input";    ///< what the model sees
inline constexpr const char* label_field = "label";    ///< the class, i32
inline constexpr const char* target_field = "target";  ///< what a regression is to give, f32

/// The width of the field of this name: numbers of a sample; 0 where the set has none.
std::int64_t field_width(const Dataset& data, std::string_view name);

}  // namespace lockstep
