// Fields of a batch behind transforms of a program.

#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/field_reader.h"
#include "data/loader.h"
#include "data/memory_dataset.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;

/// Sequences 0; 10, 11; 20, 21, 22 and so on.
std::shared_ptr<const MemoryDataset> sequences(std::int64_t samples) {
  MemoryColumn column;
  column.field = {"tokens", DType::i32, Shape{4}, true, -1};
  column.begins = {0};
  for (std::int64_t i = 0; i < samples; ++i) {
    for (std::int64_t t = 0; t <= i; ++t) column.integers.push_back(static_cast<std::int32_t>(10 * i + t));
    column.begins.push_back(static_cast<std::int64_t>(column.integers.size()));
  }
  return std::make_shared<MemoryDataset>(samples, std::vector<MemoryColumn>{column}, "sequences", "s");
}

/// Adds 100 in every epoch to each number.
class Add final : public Transform {
 public:
  Field output(const Field& input) const override { return input; }
  std::int64_t apply(const SampleKey& key, std::span<const std::byte> in, std::int64_t length,
                     std::span<std::byte> out) const override {
    std::memcpy(out.data(), in.data(), out.size());
    for (std::int64_t i = 0; i < length; ++i) {
      std::int32_t value = 0;
      std::byte* at = out.data() + i * 4;
      std::memcpy(&value, at, 4);
      value += static_cast<std::int32_t>(100 * (key.epoch + 1));
      std::memcpy(at, &value, 4);
    }
    return length;
  }
};

/// Leaves out the first number.
class Behead final : public Transform {
 public:
  Field output(const Field& input) const override {
    Field field = input;
    field.shape = Shape{input.shape[0] - 1};
    return field;
  }
  std::int64_t apply(const SampleKey&, std::span<const std::byte> in, std::int64_t length,
                     std::span<std::byte> out) const override {
    std::memcpy(out.data(), in.data() + 4, out.size());
    return length - 1;
  }
};

std::vector<std::int32_t> read(const FieldReader& reader, const SampleKey& key, std::int64_t& length) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(reader.field().elements()), 77);
  std::vector<std::byte> scratch(reader.scratch_bytes());
  length = reader.read(key, scratch, std::as_writable_bytes(std::span(out)));
  return out;
}

TEST(DataTransform, AStoredFieldEndsInItsPad) {
  const auto data = sequences(4);
  std::int64_t length = 0;
  EXPECT_THAT(read(*stored_field(*data, "tokens"), {1, 0}, length), ElementsAre(10, 11, -1, -1));
  EXPECT_EQ(length, 2);
}

TEST(DataTransform, TransformsFollowEachOtherAndMayChangeTheLength) {
  const auto data = sequences(4);
  const auto reader =
      transformed(stored_field(*data, "tokens"),
                  {std::make_shared<Add>(), std::make_shared<Behead>(), std::make_shared<Add>()});
  EXPECT_EQ(reader->field().shape, Shape{3});
  std::int64_t length = 0;
  EXPECT_THAT(read(*reader, {3, 0}, length), ElementsAre(231, 232, 233));
  EXPECT_EQ(length, 3);
  EXPECT_THAT(read(*reader, {1, 1}, length), ElementsAre(411, -1, -1));
  EXPECT_EQ(length, 1);
}

TEST(DataTransform, TheLoaderGivesLengthsBesideTheNumbers) {
  const auto data = sequences(4);
  LoaderOptions options;
  options.data = data;
  options.fields = {transformed(stored_field(*data, "tokens"), {std::make_shared<Behead>()})};
  options.mine = {0, 2};
  Loader loader(EpochOrder(4, 4, 2, std::nullopt), options);
  const LoadedBatch& batch = loader.next();
  EXPECT_THAT(batch.slices[0].field(0).lengths, ElementsAre(0, 1));
  EXPECT_THAT(batch.slices[1].field(0).lengths, ElementsAre(2, 3));
  EXPECT_THAT(batch.slices[1].field(0).as<std::int32_t>(), ElementsAre(21, 22, -1, 31, 32, 33));
}

}  // namespace
}  // namespace lockstep
