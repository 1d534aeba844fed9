#include "data/normalized_field.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fmt/format.h>

#include "core/error.h"

namespace lockstep {
namespace {

std::size_t groups_of(const Shape& shape) {
  require(shape.rank() >= 1, "samples without a dimension cannot be normalised");
  return static_cast<std::size_t>(shape[0]);
}

std::span<float> as_floats(std::span<std::byte> bytes) {
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

/// One channel of a moved image: row by row what lies inside the image, through `map`, between padding.
template <class Raw, class Map>
void move_channel(const ImageMove& move, std::int32_t height, std::int32_t width, const Raw* from,
                  float* __restrict to, float padding, Map map) {
  // Columns [first, last) show the image, forwards or, if mirrored, backwards from where the first one does.
  const std::int32_t shift = move.flip ? -move.dx : move.dx;
  const std::int32_t first = std::max(0, -shift), last = std::min(width, width - shift);
  const std::int32_t begin = source_column(move, width, first);
  for (std::int32_t y = 0; y < height; ++y, to += width) {
    const std::int32_t row = source_row(move, y);
    if (row < 0 || row >= height) {
      std::fill_n(to, width, padding);
      continue;
    }
    std::fill_n(to, first, padding);
    const Raw* at = from + static_cast<std::ptrdiff_t>(row) * width + begin;
    if (move.flip) {
      for (std::int32_t x = first; x < last; ++x) to[x] = map(at[first - x]);
    } else {
      for (std::int32_t x = first; x < last; ++x) to[x] = map(at[x - first]);
    }
    std::fill(to + last, to + width, padding);
  }
}

class ScaledTargets final : public FieldReader {
 public:
  ScaledTargets(const Dataset& data, const Normalizer& normalizer)
      : column_(data, target_field), normalizer_(normalizer), field_(column_.field()) {}
  const Field& field() const override { return field_; }
  std::int64_t read(const SampleKey& key, std::span<std::byte>, std::span<std::byte> out) const override {
    const std::span<float> targets = as_floats(out);
    column_.read(key.sample, targets);
    if (normalizer_.scales_targets())
      for (std::size_t k = 0; k < targets.size(); ++k)
        targets[k] = normalizer_.scaled_target(static_cast<double>(targets[k]), k);
    return field_.shape.rank() == 0 ? 1 : field_.shape[0];
  }

 private:
  FieldColumn column_;
  Normalizer normalizer_;
  Field field_;
};

}  // namespace

NormalizedField::NormalizedField(const Dataset& data, const Normalizer& normalizer,
                                 const Augmentation& augmentation)
    : column_(data, input_field),
      normalizer_(normalizer),
      augmentation_(augmentation),
      field_{input_field, DType::f32, column_.field().shape},
      elements_(column_.width()),
      per_group_(elements_ / groups_of(field_.shape)) {
  normalizer_.check(field_.shape, field_width(data, target_field));
  if (augmentation_.any()) {
    require(field_.shape.rank() == 3, "only images can be augmented");
    require(augmentation_.crop_padding >= 0 &&
                augmentation_.crop_padding < std::min(field_.shape[1], field_.shape[2]),
            "a crop could lie wholly outside its image");
  }
  if (!column_.is_bytes()) return;
  shared_table_ = normalizer_.kind() != Normalizer::Kind::standard;
  const std::size_t groups = shared_table_ ? 1 : normalizer_.mean().size();
  table_.resize(groups * 256);
  for (std::size_t i = 0; i < table_.size(); ++i)
    table_[i] = normalizer_.normalized(static_cast<double>(i % 256), i / 256);
}

std::size_t NormalizedField::scratch_bytes() const {
  return augmentation_.any() || (column_.is_bytes() && !column_.in_place()) ? elements_ * sizeof(float) : 0;
}

std::int64_t NormalizedField::read(const SampleKey& key, std::span<std::byte> scratch,
                                   std::span<std::byte> out) const {
  if (augmentation_.any())
    read(key.sample, image_move(augmentation_, augmentation_key(augmentation_, key.epoch), key.sample),
         as_floats(scratch).first(elements_), as_floats(out));
  else
    read(key.sample, as_floats(out), as_floats(scratch.first(scratch_bytes())));
  return field_.shape[0];
}

FieldTransform NormalizedField::on_device() const {
  return {augmentation_, table_, augmentation_.any() ? padding() : std::vector<float>{}};
}

void NormalizedField::normalize(std::span<float> values) const {
  if (normalizer_.kind_ == Normalizer::Kind::none) return;
  const double divisor = normalizer_.divisor_;
  if (normalizer_.kind_ == Normalizer::Kind::unit) {
    for (float& v : values) v = static_cast<float>(static_cast<double>(v) / divisor);
    return;
  }
  const double* mean = normalizer_.mean_.data();
  const double* deviation = normalizer_.deviation_.data();
  if (per_group_ == 1) {
    for (std::size_t k = 0; k < values.size(); ++k) {
      values[k] = static_cast<float>((static_cast<double>(values[k]) / divisor - mean[k]) / deviation[k]);
    }
    return;
  }
  for (std::size_t g = 0; g * per_group_ < values.size(); ++g) {
    const double m = mean[g];
    const double d = deviation[g];
    for (float& v : values.subspan(g * per_group_, per_group_)) {
      v = static_cast<float>((static_cast<double>(v) / divisor - m) / d);
    }
  }
}

void NormalizedField::read(std::int64_t index, std::span<float> out, std::span<float> scratch) const {
  require(out.size() == elements_, "a sample was read into a buffer of another size");
  if (table_.empty()) {
    column_.read(index, out);
    normalize(out);
    return;
  }
  const std::span<const std::uint8_t> bytes = column_.bytes(index, std::as_writable_bytes(scratch));
  if (shared_table_) {
    for (std::size_t k = 0; k < elements_; ++k) out[k] = table_[bytes[k]];
    return;
  }
  const float* table = table_.data();
  for (std::size_t begin = 0; begin < elements_; begin += per_group_, table += 256) {
    for (std::size_t k = begin; k < begin + per_group_; ++k) out[k] = table[bytes[k]];
  }
}

template <class Raw, class Map>
void NormalizedField::move_channels(const ImageMove& move, const Raw* from, float* out,
                                    Map map_of_channel) const {
  const Shape& shape = field_.shape;
  const auto height = static_cast<std::int32_t>(shape[1]), width = static_cast<std::int32_t>(shape[2]);
  for (std::size_t c = 0; c * per_group_ < elements_; ++c)
    move_channel(move, height, width, from + c * per_group_, out + c * per_group_,
                 normalizer_.normalized(0, c), map_of_channel(c));
}

void NormalizedField::read(std::int64_t index, const ImageMove& move, std::span<float> scratch,
                           std::span<float> out) const {
  const Shape& shape = field_.shape;
  require(shape.rank() == 3 && std::abs(move.dy) < shape[1] && std::abs(move.dx) < shape[2],
          "only an image can be moved, and by less than its size");
  require(out.size() == elements_ && scratch.size() == elements_,
          "a sample was read into a buffer of another size");
  if (!table_.empty()) {
    const std::uint8_t* raw = column_.bytes(index, std::as_writable_bytes(scratch)).data();
    move_channels(move, raw, out.data(), [&](std::size_t c) {
      return [table = table_.data() + (shared_table_ ? 0 : c * 256)](std::uint8_t v) { return table[v]; };
    });
    return;
  }
  std::span<const float> raw = column_.floats(index);
  if (raw.empty()) {
    column_.read(index, scratch);
    raw = scratch;
  }
  if (normalizer_.kind() == Normalizer::Kind::none) {
    move_channels(move, raw.data(), out.data(), [](std::size_t) { return [](float v) { return v; }; });
    return;
  }
  move_channels(move, raw.data(), out.data(), [this](std::size_t c) {
    return [this, c](float v) { return normalizer_.normalized(static_cast<double>(v), c); };
  });
}

std::vector<float> NormalizedField::padding() const {
  std::vector<float> values(elements_ / per_group_);
  for (std::size_t g = 0; g < values.size(); ++g) values[g] = normalizer_.normalized(0, g);
  return values;
}

std::shared_ptr<const FieldReader> scaled_targets(const Dataset& data, const Normalizer& normalizer) {
  return std::make_shared<ScaledTargets>(data, normalizer);
}

BatchFields batch_fields(std::span<const Field> wanted, const Dataset& data, const Normalizer& normalizer,
                         const Augmentation& augmentation, bool on_device) {
  BatchFields out;
  out.readers.resize(wanted.size());
  out.transforms.resize(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Field& want = wanted[i];
    const auto found = find_field(data.fields(), want.name);
    if (!found) continue;
    const bool is_input = want.name == input_field && want.type == DType::f32;
    if (is_input && on_device && want.shape.rank() == 3) {
      const NormalizedField all(data, normalizer, augmentation);
      out.transforms[i] = all.on_device();
      if (all.is_bytes())
        out.readers[i] = stored_field(data, want.name);
      else
        out.readers[i] = std::make_shared<NormalizedField>(data, normalizer);
    } else if (is_input) {
      out.readers[i] = std::make_shared<NormalizedField>(data, normalizer, augmentation);
    } else if (want.name == target_field && want.type == DType::f32) {
      out.readers[i] = scaled_targets(data, normalizer);
    } else {
      out.readers[i] = stored_field(data, want.name);
    }
    const Field& given = out.readers[i]->field();
    const DType expected = out.transforms[i].table.empty() ? want.type : DType::u8;
    if (given.elements() != want.elements() || given.type != expected || given.ragged != want.ragged)
      throw InputError(fmt::format("{}: the model takes the field '{}' as {} {}, but there it is {} {}",
                                   data.describe(), want.name, want.shape.text(), name_of(want.type),
                                   given.shape.text(), name_of(given.type)));
  }
  return out;
}

}  // namespace lockstep
