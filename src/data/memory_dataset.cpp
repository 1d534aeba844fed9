#include "data/memory_dataset.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <utility>

#include "core/error.h"

namespace lockstep {

namespace {

std::string place_in(const std::string& file, const std::vector<std::int64_t>& lines, std::int64_t index) {
  if (!lines.empty()) return fmt::format("'{}' line {}", file, lines[static_cast<std::size_t>(index)]);
  return fmt::format("'{}' sample {}", file, index);
}

/// Of a set of several files: the one that holds a sample.
const MemoryContent::Part& part_of(const MemoryContent& content, std::int64_t index) {
  const auto behind =
      std::upper_bound(content.parts.begin(), content.parts.end(), index,
                       [](std::int64_t at, const MemoryContent::Part& part) { return at < part.begin; });
  return *(behind - 1);
}

std::string place_of(const MemoryContent& content, std::int64_t index) {
  if (!content.parts.empty()) {
    const MemoryContent::Part& part = part_of(content, index);
    return place_in(part.file, {}, index - part.begin);
  }
  return place_in(content.file, content.lines, index);
}

std::vector<Field> fields_of(const std::vector<MemoryColumn>& columns) {
  std::vector<Field> fields;
  for (const MemoryColumn& column : columns) fields.push_back(column.field);
  return fields;
}

/// All numbers of a column, as bytes.
std::span<const std::byte> bytes_of(const MemoryColumn& column) {
  switch (column.field.type) {
    case DType::u8:
      return std::as_bytes(std::span(column.bytes));
    case DType::f32:
      return std::as_bytes(std::span(column.floats));
    case DType::i32:
      return std::as_bytes(std::span(column.integers));
    default:
      throw InternalError("a field of a type that batches do not have");
  }
}

std::vector<MemoryColumn> columns_of(MemoryContent& content) {
  std::vector<MemoryColumn> columns;
  MemoryColumn& input = columns.emplace_back();
  input.field = {input_field, content.floats.empty() && !content.bytes.empty() ? DType::u8 : DType::f32,
                 content.sample_shape};
  input.bytes = std::move(content.bytes);
  input.floats = std::move(content.floats);
  require(input.bytes.empty() || input.floats.empty(), "a data set needs one kind of input");
  if (!content.labels.empty()) {
    MemoryColumn& label = columns.emplace_back();
    label.field = {label_field, DType::i32, Shape{}};
    label.integers = std::move(content.labels);
  }
  if (content.target_width > 0) {
    MemoryColumn& target = columns.emplace_back();
    target.field = {target_field, DType::f32, Shape{content.target_width}};
    target.floats = std::move(content.targets);
  }
  return columns;
}

}  // namespace

MemoryDataset::MemoryDataset(MemoryContent content)
    : MemoryDataset(content.samples, columns_of(content), content.description, content.file,
                    std::move(content.lines)) {}

MemoryDataset::MemoryDataset(std::int64_t samples, std::vector<MemoryColumn> columns, std::string description,
                             std::string file, std::vector<std::int64_t> lines)
    : samples_(samples),
      columns_(std::move(columns)),
      fields_(fields_of(columns_)),
      description_(std::move(description)),
      file_(std::move(file)),
      lines_(std::move(lines)) {
  check();
}

void MemoryDataset::check() const {
  for (const MemoryColumn& column : columns_) {
    const Field& f = column.field;
    std::size_t entries = static_cast<std::size_t>(samples_);
    std::size_t entry = f.bytes();
    if (f.ragged) {
      require(column.begins.size() == entries + 1, "a ragged field needs to know where its samples begin");
      entry = f.shape[0] == 0 ? 0 : f.bytes() / static_cast<std::size_t>(f.shape[0]);
      entries = static_cast<std::size_t>(column.begins.back());
    }
    require(bytes_of(column).size() == entries * entry, "the numbers of a field do not match its data set");
  }
  require(lines_.empty() || lines_.size() == static_cast<std::size_t>(samples_),
          "lines do not match a data set");
}

std::int64_t MemoryDataset::length(std::size_t field, std::int64_t index) const {
  const MemoryColumn& column = columns_[field];
  if (!column.field.ragged) return Dataset::length(field, index);
  const auto at = static_cast<std::size_t>(index);
  return column.begins.at(at + 1) - column.begins.at(at);
}

std::span<const std::byte> MemoryDataset::view(std::size_t field, std::int64_t index) const {
  require(index >= 0 && index < samples_, "sample index outside its data set");
  const MemoryColumn& column = columns_[field];
  const auto at = static_cast<std::size_t>(index);
  if (!column.field.ragged) {
    const std::size_t size = column.field.bytes();
    return bytes_of(column).subspan(at * size, size);
  }
  const std::size_t entry = column.field.bytes() / static_cast<std::size_t>(column.field.shape[0]);
  return bytes_of(column).subspan(
      static_cast<std::size_t>(column.begins[at]) * entry,
      static_cast<std::size_t>(column.begins[at + 1] - column.begins[at]) * entry);
}

void MemoryDataset::read(std::size_t field, std::int64_t index, std::span<std::byte> out) const {
  const std::span<const std::byte> stored = view(field, index);
  const bool ragged = columns_[field].field.ragged;
  require(ragged ? out.size() >= stored.size() : out.size() == stored.size(),
          "a field was read into a buffer of another size");
  std::copy(stored.begin(), stored.end(), out.begin());
}

std::string MemoryDataset::where(std::int64_t index) const {
  return place_in(file_, lines_, index);
}

std::string place_of_label(const MemoryContent& content, std::int64_t index) {
  if (!content.parts.empty()) {
    const MemoryContent::Part& part = part_of(content, index);
    return place_in(part.labels_file, {}, index - part.begin);
  }
  return content.labels_file.empty() ? place_of(content, index)
                                     : fmt::format("'{}' sample {}", content.labels_file, index);
}

void refuse_labels_outside(const MemoryContent& content, std::int64_t classes) {
  const auto bad = std::find_if(content.labels.begin(), content.labels.end(),
                                [classes](std::int32_t label) { return label < 0 || label >= classes; });
  if (bad == content.labels.end()) return;
  const std::int64_t index = bad - content.labels.begin();
  throw InputError(
      fmt::format("{}: label {} is outside the {} class{} 0 to {}: repair the file, or set data.classes",
                  place_of_label(content, index), *bad, classes, classes == 1 ? "" : "es", classes - 1));
}

void refuse_non_finite(const MemoryContent& content, std::span<const float> values, std::int64_t width,
                       const char* what) {
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad == values.end()) return;
  const std::int64_t at = bad - values.begin();
  throw InputError(
      fmt::format("{}: {} number {} is {}: every value must be a finite float32; repair or drop the sample",
                  place_of(content, at / width), what, at % width, std::isnan(*bad) ? "NaN" : "infinite"));
}

}  // namespace lockstep
