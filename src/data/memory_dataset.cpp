#include "data/memory_dataset.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <utility>

#include "core/error.h"

namespace lockstep {

namespace {

std::string place_of(const MemoryContent& content, std::int64_t index) {
  if (!content.lines.empty()) {
    return fmt::format("'{}' line {}", content.file, content.lines[static_cast<std::size_t>(index)]);
  }
  return fmt::format("'{}' sample {}", content.file, index);
}

}  // namespace

std::span<const std::uint8_t> Dataset::input_bytes(std::int64_t) const {
  return {};
}
std::span<const float> Dataset::input_floats(std::int64_t) const {
  return {};
}
std::string Dataset::where(std::int64_t index) const {
  return fmt::format("{}, sample {}", describe(), index);
}

MemoryDataset::MemoryDataset(MemoryContent content) : content_(std::move(content)) {
  const auto samples = static_cast<std::size_t>(content_.samples);
  elements_ = static_cast<std::size_t>(content_.sample_shape.elements());
  require(content_.bytes.empty() != content_.floats.empty() || samples == 0,
          "a data set needs one kind of input");
  require(std::max(content_.bytes.size(), content_.floats.size()) == samples * elements_,
          "inputs do not match the shape of a data set");
  require(content_.labels.empty() || content_.labels.size() == samples, "labels do not match a data set");
  require(content_.targets.size() == samples * static_cast<std::size_t>(content_.target_width),
          "targets do not match a data set");
  require(content_.lines.empty() || content_.lines.size() == samples, "lines do not match a data set");
}

std::size_t MemoryDataset::checked(std::int64_t index) const {
  require(index >= 0 && index < content_.samples, "sample index outside its data set");
  return static_cast<std::size_t>(index);
}

std::int32_t MemoryDataset::label(std::int64_t index) const {
  require(has_labels(), "a data set without labels was asked for one");
  return content_.labels[checked(index)];
}

void MemoryDataset::target(std::int64_t index, std::span<float> out) const {
  const auto width = static_cast<std::size_t>(content_.target_width);
  require(width > 0 && out.size() == width, "targets of another width were asked for");
  std::copy_n(content_.targets.data() + checked(index) * width, width, out.data());
}

void MemoryDataset::input(std::int64_t index, std::span<float> out) const {
  require(out.size() == elements_, "an input of another size was asked for");
  const std::size_t at = checked(index) * elements_;
  if (!content_.bytes.empty()) {
    std::transform(content_.bytes.data() + at, content_.bytes.data() + at + elements_, out.data(),
                   [](std::uint8_t v) { return static_cast<float>(v); });
  } else {
    std::copy_n(content_.floats.data() + at, elements_, out.data());
  }
}

std::span<const std::uint8_t> MemoryDataset::input_bytes(std::int64_t index) const {
  const std::size_t at = checked(index) * elements_;
  if (content_.bytes.empty()) return {};
  return {content_.bytes.data() + at, elements_};
}

std::span<const float> MemoryDataset::input_floats(std::int64_t index) const {
  const std::size_t at = checked(index) * elements_;
  if (content_.floats.empty()) return {};
  return {content_.floats.data() + at, elements_};
}

std::string MemoryDataset::where(std::int64_t index) const {
  return place_of(content_, index);
}

std::string place_of_label(const MemoryContent& content, std::int64_t index) {
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
