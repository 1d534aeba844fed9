#include "data/dataset.h"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>

#include "core/error.h"

namespace lockstep {

std::span<const std::byte> Dataset::view(std::size_t, std::int64_t) const {
  return {};
}

std::int64_t Dataset::length(std::size_t field, std::int64_t) const {
  const Field& f = fields()[field];
  require(!f.ragged, "a data set does not tell the lengths of its samples");
  return f.shape.rank() == 0 ? 1 : f.shape[0];
}

std::string Dataset::where(std::int64_t index) const {
  return fmt::format("{}, sample {}", describe(), index);
}

std::optional<std::size_t> find_field(std::span<const Field> fields, std::string_view name) {
  for (std::size_t i = 0; i < fields.size(); ++i)
    if (fields[i].name == name) return i;
  return std::nullopt;
}

FieldColumn::FieldColumn(const Dataset& data, std::string_view name) : data_(&data), index_(0) {
  const auto found = find_field(data.fields(), name);
  require(found.has_value(), "a data set was asked for a field that it does not have");
  index_ = *found;
  width_ = static_cast<std::size_t>(field().elements());
  bytes_ = field().type == DType::u8;
}

std::span<const std::uint8_t> FieldColumn::bytes(std::int64_t index, std::span<std::byte> buffer) const {
  std::span<const std::byte> raw = data_->view(index_, index);
  if (raw.empty()) {
    require(buffer.size() >= width_, "bytes of a sample need room");
    data_->read(index_, index, buffer.first(width_));
    raw = buffer.first(width_);
  }
  return {reinterpret_cast<const std::uint8_t*>(raw.data()), raw.size()};
}

std::span<const float> FieldColumn::floats(std::int64_t index) const {
  if (field().type != DType::f32) return {};
  const auto raw = data_->view(index_, index);
  return {reinterpret_cast<const float*>(raw.data()), raw.size() / sizeof(float)};
}

void FieldColumn::read(std::int64_t index, std::span<float> out) const {
  require(out.size() == width_, "a field was read into a buffer of another size");
  if (field().type == DType::f32) {
    data_->read(index_, index, std::as_writable_bytes(out));
    return;
  }
  // Narrower or as wide: the raw numbers fit into the front, or the whole, of the same buffer.
  const std::size_t element = size_of(field().type);
  const std::span<std::byte> raw = std::as_writable_bytes(out).last(width_ * element);
  data_->read(index_, index, raw);
  if (field().type == DType::u8) {
    for (std::size_t k = 0; k < width_; ++k) {
      const auto value = std::to_integer<std::uint8_t>(raw[k]);
      out[k] = static_cast<float>(value);
    }
    return;
  }
  for (std::size_t k = 0; k < width_; ++k) {
    std::int32_t value = 0;
    std::memcpy(&value, raw.data() + k * element, element);
    out[k] = static_cast<float>(value);
  }
}

std::int32_t FieldColumn::integer(std::int64_t index) const {
  require(field().type == DType::i32 && width_ == 1, "a field that is not one int32 number was asked for it");
  std::int32_t value = 0;
  data_->read(index_, index, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

std::int64_t field_width(const Dataset& data, std::string_view name) {
  const auto found = find_field(data.fields(), name);
  return found ? data.fields()[*found].elements() : 0;
}

}  // namespace lockstep
