#include "data/field_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace lockstep {
namespace {

/// Fills elements of the field's type with its pad.
void fill_pad(const Field& field, std::span<std::byte> out) {
  const auto fill = [&](auto value) {
    for (std::size_t at = 0; at + sizeof value <= out.size(); at += sizeof value)
      std::memcpy(out.data() + at, &value, sizeof value);
  };
  if (field.type == DType::f32)
    fill(static_cast<float>(field.pad));
  else if (field.type == DType::i32)
    fill(static_cast<std::int32_t>(field.pad));
  else
    fill(static_cast<std::uint8_t>(field.pad));
}

class StoredField final : public FieldReader {
 public:
  StoredField(const Dataset& data, std::size_t index)
      : data_(data), index_(index), field_(data.fields()[index]) {}
  const Field& field() const override { return field_; }
  std::int64_t read(const SampleKey& key, std::span<std::byte>, std::span<std::byte> out) const override {
    data_.read(index_, key.sample, out);
    const std::int64_t length = data_.length(index_, key.sample);
    if (!field_.ragged) return length;
    fill_pad(field_, out.subspan(static_cast<std::size_t>(length) * field_.entry_bytes()));
    return length;
  }

 private:
  const Dataset& data_;
  std::size_t index_;
  Field field_;
};

class TransformedField final : public FieldReader {
 public:
  TransformedField(std::shared_ptr<const FieldReader> source,
                   std::vector<std::shared_ptr<const Transform>> transforms)
      : source_(std::move(source)), transforms_(std::move(transforms)) {
    fields_.push_back(source_->field());
    for (const auto& transform : transforms_) fields_.push_back(transform->output(fields_.back()));
    for (const Field& field : fields_) largest_ = std::max(largest_, aligned(field.bytes()));
  }
  const Field& field() const override { return fields_.back(); }
  std::size_t scratch_bytes() const override { return 2 * largest_ + source_->scratch_bytes(); }
  std::int64_t read(const SampleKey& key, std::span<std::byte> scratch,
                    std::span<std::byte> out) const override {
    // The results take turns in two halves of the scratch memory; the last one is `out`.
    const auto place = [&](std::size_t i) {
      if (i + 1 == fields_.size()) return out;
      return scratch.subspan(i % 2 * largest_, fields_[i].bytes());
    };
    std::int64_t length = source_->read(key, scratch.subspan(2 * largest_), place(0));
    for (std::size_t i = 0; i < transforms_.size(); ++i)
      length = transforms_[i]->apply(key, place(i), length, place(i + 1));
    return length;
  }

 private:
  static std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
  std::shared_ptr<const FieldReader> source_;
  std::vector<std::shared_ptr<const Transform>> transforms_;
  std::vector<Field> fields_;  // before the first, and behind each
  std::size_t largest_ = 0;
};

}  // namespace

std::shared_ptr<const FieldReader> stored_field(const Dataset& data, std::string_view name) {
  const auto found = find_field(data.fields(), name);
  require(found.has_value(), "a data set was asked for a field that it does not have");
  return std::make_shared<StoredField>(data, *found);
}

std::shared_ptr<const FieldReader> transformed(std::shared_ptr<const FieldReader> source,
                                               std::vector<std::shared_ptr<const Transform>> transforms) {
  if (transforms.empty()) return source;
  return std::make_shared<TransformedField>(std::move(source), std::move(transforms));
}

}  // namespace lockstep
