// Images that the loader varies: each pixel against a plain reference, and who gets what at any placement.

#include <algorithm>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <string>

#include "data/loader.h"
#include "data/memory_dataset.h"
#include "data/normalized_field.h"
#include "data/test_support.h"
#include "device/lane_pool.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "trainer/step/augmentation_choice.h"

namespace lockstep {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// Gives its samples neither as bytes nor as floats in place.
class Computed final : public Dataset {
 public:
  explicit Computed(const Dataset& from) : from_(from) {}
  std::int64_t size() const override { return from_.size(); }
  std::span<const Field> fields() const override { return from_.fields(); }
  void read(std::size_t field, std::int64_t i, std::span<std::byte> out) const override {
    from_.read(field, i, out);
  }
  std::string describe() const override { return "computed"; }

 private:
  const Dataset& from_;
};

MemoryContent content(const Shape& shape, std::int64_t n) {
  MemoryContent c;
  c.description = c.file = "images";
  c.samples = n;
  c.sample_shape = shape;
  for (std::int64_t i = 0; i < n; ++i) c.labels.push_back(static_cast<std::int32_t>(i % 3));
  return c;
}

std::shared_ptr<const MemoryDataset> byte_images(const Shape& shape, std::int64_t n) {
  MemoryContent c = content(shape, n);
  std::mt19937 random(5);
  for (std::int64_t i = 0; i < n * shape.elements(); ++i)
    c.bytes.push_back(static_cast<std::uint8_t>(random()));
  return std::make_shared<MemoryDataset>(std::move(c));
}

std::shared_ptr<const MemoryDataset> float_images(const Shape& shape, std::int64_t n) {
  MemoryContent c = content(shape, n);
  std::mt19937 random(6);
  std::normal_distribution<float> draw;
  for (std::int64_t i = 0; i < n * shape.elements(); ++i) c.floats.push_back(draw(random));
  return std::make_shared<MemoryDataset>(std::move(c));
}

/// Pads the raw image with zeros, cuts the crop out, mirrors it, and normalises what came out: one after the
/// other, and in the words of docs/data.md.
std::vector<float> plain(const Dataset& data, const Normalizer& n, std::int64_t sample, const ImageMove& m) {
  const Shape& shape = data.fields()[0].shape;
  const std::int64_t channels = shape[0], height = shape[1], width = shape[2], p = std::max(height, width);
  std::vector<float> raw(static_cast<std::size_t>(shape.elements()));
  FieldColumn(data, input_field).read(sample, raw);
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  const std::int64_t high = height + 2 * p, wide = width + 2 * p;
  std::vector<float> padded(at(channels * high * wide), 0.0f);
  for (std::int64_t c = 0; c < channels; ++c)
    for (std::int64_t y = 0; y < height; ++y)
      for (std::int64_t x = 0; x < width; ++x)
        padded[at((c * high + y + p) * wide + x + p)] = raw[at((c * height + y) * width + x)];
  std::vector<float> out;
  for (std::int64_t c = 0; c < channels; ++c)
    for (std::int64_t y = 0; y < height; ++y) {
      const auto begin = padded.begin() + ((c * high + p + m.dy + y) * wide + p + m.dx);
      std::vector<float> row(begin, begin + width);
      if (m.flip) std::reverse(row.begin(), row.end());
      for (const float v : row) {
        double value = static_cast<double>(v) / n.divisor();
        if (n.kind() == Normalizer::Kind::standard) value = (value - n.mean()[at(c)]) / n.deviation()[at(c)];
        out.push_back(static_cast<float>(value));
      }
    }
  return out;
}

void expect_bits(std::span<const float> got, std::span<const float> want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  EXPECT_EQ(0, std::memcmp(got.data(), want.data(), got.size_bytes())) << what;
}

TEST(DataAugmentation, EveryPixelIsThatOfThePlainReference) {
  for (const Shape& shape : {Shape{3, 4, 6}, Shape{1, 2, 2}, Shape{2, 5, 3}}) {
    const auto bytes = byte_images(shape, 3), floats = float_images(shape, 3);
    const Computed computed(*floats);
    for (const Dataset* data :
         {static_cast<const Dataset*>(bytes.get()), static_cast<const Dataset*>(floats.get()),
          static_cast<const Dataset*>(&computed)})
      for (const char* method : {"none", "unit", "standard"}) {
        const Normalizer n = Normalizer::fit(method, *data);
        const NormalizedField reader(*data, n);
        const auto elements = static_cast<std::size_t>(shape.elements());
        std::vector<float> scratch(elements), got(elements), still(elements);
        const auto most = static_cast<std::int32_t>(std::min(shape[1], shape[2]) - 1);
        for (std::int32_t dy = -most; dy <= most; ++dy)
          for (std::int32_t dx = -most; dx <= most; ++dx)
            for (const bool flip : {false, true}) {
              const std::string what = shape.text() + " " + method + " " + std::to_string(dy) + " " +
                                       std::to_string(dx) + (flip ? " flip" : "");
              std::fill(got.begin(), got.end(), -77.0f);
              reader.read(1, {dy, dx, flip}, scratch, got);
              expect_bits(got, plain(*data, n, 1, {dy, dx, flip}), what);
            }
        reader.read(2, {}, scratch, got);
        reader.read(2, still);
        expect_bits(got, still, "nothing to do");
      }
  }
}

TEST(DataAugmentation, PaddingIsWhatARawZeroBecomes) {
  const auto data = byte_images(Shape{3, 4, 4}, 5);
  const Normalizer n = Normalizer::fit("standard", *data);
  const std::vector<float> padding = NormalizedField(*data, n).padding();
  ASSERT_EQ(padding.size(), 3u);
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_EQ(padding[c], static_cast<float>((0.0 - n.mean()[c]) / n.deviation()[c]));
    EXPECT_LT(padding[c], -0.5f);  // black, not grey
  }
  EXPECT_NE(padding[0], padding[1]);
}

LoaderOptions options_for(const std::shared_ptr<const Dataset>& data, Node mine,
                          const Augmentation& augmentation = {true, 2, 9}) {
  LoaderOptions options;
  options.data = data;
  std::vector<Field> wanted(data->fields().begin(), data->fields().end());
  wanted[0].type = DType::f32;
  options.fields = batch_fields(wanted, *data, Normalizer::fit("standard", *data), augmentation).readers;
  options.mine = mine;
  options.workers = 0;
  return options;
}

/// (epoch, sample) to the image as the model sees it.
using Images = std::map<std::pair<std::int64_t, std::int64_t>, std::vector<float>>;

void collect(Loader& loader, std::int64_t epochs, Images& images, std::size_t elements) {
  while (true) {
    const LoadedBatch& batch = loader.next();
    if (batch.range.epoch >= epochs) return;
    for (const Batch& s : batch.slices)
      for (std::size_t row = 0; row < static_cast<std::size_t>(s.rows); ++row) {
        const std::span<const float> image = s.field(0).as<float>().subspan(row * elements, elements);
        if (s.samples[row] < 0) {
          EXPECT_THAT(image, ::testing::Each(0.0f));
          continue;
        }
        const auto [at, fresh] = images.try_emplace({batch.range.epoch, s.samples[row]});
        EXPECT_TRUE(fresh);
        at->second.assign(image.begin(), image.end());
      }
  }
}

TEST(DataAugmentation, AnImageIsAFunctionOfSeedEpochAndSampleAlone) {
  const Shape shape{2, 6, 5};
  const auto data = byte_images(shape, 37);
  const auto elements = static_cast<std::size_t>(shape.elements());
  Images want;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch)
    for (std::int64_t i = 0; i < 37; ++i) {
      const Augmentation a{true, 2, 9};
      want[{epoch, i}] =
          plain(*data, Normalizer::fit("standard", *data), i, image_move(a, augmentation_key(a, epoch), i));
    }
  struct Case {
    std::int64_t batch, slices;
    int ranks, workers;
  };
  for (const Case& c : {Case{8, 4, 1, 0},
                        {8, 4, 1, 1},
                        {8, 4, 1, 3},
                        {8, 4, 3, 1},
                        {12, 2, 2, 0},
                        {37, 1, 1, 1},
                        {5, 5, 4, 2},
                        {64, 8, 2, 1}}) {
    Images got;
    const EpochOrder order(37, c.batch, c.slices, 9);
    for (int r = 0; r < c.ranks; ++r) {
      LoaderOptions options = options_for(data, {c.slices * r / c.ranks, c.slices * (r + 1) / c.ranks});
      options.workers = c.workers;
      Loader loader(order, options);
      collect(loader, 3, got, elements);
    }
    EXPECT_EQ(got == want, true) << c.batch << " in " << c.slices << ", ranks " << c.ranks;
  }
  // Begun in the middle of the second epoch.
  LoaderOptions options = options_for(data, {0, 4});
  options.position = 37 + 16;
  Images rest;
  Loader loader(EpochOrder(37, 8, 4, 9), options);
  collect(loader, 3, rest, elements);
  EXPECT_EQ(rest.size(), 21u + 37u);
  for (const auto& [key, image] : rest) EXPECT_TRUE(image == want[key]);
  // Another seed of the augmentation alone.
  options = options_for(data, {0, 4}, {true, 2, 10});
  Images other;
  Loader seeded(EpochOrder(37, 8, 4, 9), options);
  collect(seeded, 3, other, elements);
  int same = 0;
  for (const auto& [key, image] : other) same += image == want[key];
  EXPECT_LT(same, 37 * 3 / 8);  // of 50 moves one is the same by chance
}

TEST(DataAugmentation, ForADeviceBytesStayAsTheyAreAndTheTableIsTold) {
  const Shape shape{2, 6, 5};
  const auto data = byte_images(shape, 11);
  const Normalizer n = Normalizer::fit("standard", *data);
  const Field wanted[] = {{"input", DType::f32, shape}, {"label", DType::i32, Shape{}}};
  const BatchFields fields = batch_fields(wanted, *data, n, {true, 2, 9}, true);
  ASSERT_EQ(fields.transforms.size(), 2u);
  EXPECT_TRUE(fields.transforms[0].augmentation.any());
  EXPECT_FALSE(fields.transforms[1].any());
  expect_bits(fields.transforms[0].padding, NormalizedField(*data, n).padding(), "padding");
  ASSERT_EQ(fields.transforms[0].table.size(), 2u * 256);
  for (std::size_t v = 0; v < 256; ++v)
    EXPECT_EQ(fields.transforms[0].table[256 + v], n.normalized(static_cast<double>(v), 1));
  LoaderOptions options = options_for(data, {0, 2});
  options.fields = fields.readers;
  Loader loader(EpochOrder(11, 8, 2, 9), options);  // 8, then 3 = 1 + 2 in slices of 4
  for (int i = 0; i < 6; ++i) {
    const LoadedBatch& batch = loader.next();
    for (const Batch& slice : batch.slices) {
      EXPECT_EQ(slice.epoch, batch.range.epoch);
      for (std::size_t row = 0; row < static_cast<std::size_t>(slice.valid); ++row) {
        const auto stored = data->view(0, slice.samples[row]);
        EXPECT_EQ(
            0, std::memcmp(slice.field(0).data.data() + row * stored.size(), stored.data(), stored.size()));
      }
    }
  }
}

TEST(DataAugmentation, TheCpuRefusesWhatIsForADevice) {
  const Graph graph = build_layers("flatten dense:3", {2, 6, 5}, 3, CrossEntropyAttrs{});
  const auto data = byte_images({2, 6, 5}, 11);
  const BatchFields fields = batch_fields(graph.fields, *data, Normalizer::fit("standard", *data), {}, true);
  LanePool lanes(1);
  ExecutorOptions options;
  options.slice_rows = 4;
  options.transforms = fields.transforms;
  EXPECT_THROW(compile_cpu(graph, options, lanes), InternalError);
  options.transforms.clear();
  const auto executor = compile_cpu(graph, options, lanes);
  LoaderOptions loading = options_for(data, {0, 1});
  loading.fields = fields.readers;
  Loader loader(EpochOrder(11, 4, 1, 9), loading);
  std::vector<float> flat(static_cast<std::size_t>(executor->layout().elements)), root(flat.size());
  const std::span<float> roots[] = {root};
  SliceResult result;
  StepInputs inputs;
  inputs.parameters = flat;
  inputs.slices = loader.next().slices;
  inputs.roots = roots;
  inputs.results = {&result, 1};
  EXPECT_THROW(executor->train(inputs), InternalError);
}

TEST(DataAugmentation, WhatIsNoImageOrTooSmallIsRefused) {
  const auto refusal = [](bool flip, std::int64_t padding, const Shape& shape) {
    Config config;
    config.data.flip = flip;
    config.data.crop_padding = padding;
    return error_of([&] { check_augmentation(config, shape); });
  };
  EXPECT_THAT(refusal(true, 0, {784}),
              AllOf(HasSubstr("data.flip = true"), HasSubstr("samples are 784"), HasSubstr("data.shape")));
  EXPECT_THAT(refusal(false, 2, {784}), HasSubstr("data.crop_padding = 2"));
  EXPECT_THAT(refusal(true, 0, {3, 1, 8}), HasSubstr("3x1x8"));
  EXPECT_THAT(refusal(true, 0, {3, 8, 1}), HasSubstr("3x8x1"));
  EXPECT_THAT(refusal(true, 6, {3, 6, 8}),
              AllOf(HasSubstr("data.crop_padding = 6"), HasSubstr("3x6x8"), HasSubstr("at most 5")));
  EXPECT_EQ(refusal(true, 5, {3, 6, 8}), "");
  EXPECT_EQ(refusal(true, 1, {1, 2, 2}), "");
  EXPECT_EQ(refusal(false, 0, {784}), "");
}

TEST(DataAugmentation, LoaderAndReaderWantWhatTheConfigWasCheckedFor) {
  const auto data = byte_images({2, 6, 5}, 11);
  const EpochOrder order(11, 4, 1, 9);
  for (const std::int32_t padding : {-1, 5})
    EXPECT_THROW(Loader(order, options_for(data, {0, 1}, {true, padding, 9})), InternalError);
  MemoryContent flat = content({7}, 11);
  flat.bytes.assign(77, 1);
  EXPECT_THROW(Loader(order, options_for(std::make_shared<MemoryDataset>(std::move(flat)), {0, 1})),
               InternalError);
  const NormalizedField reader(*data, {});
  std::vector<float> out(60), scratch(60);
  EXPECT_NO_THROW(reader.read(0, {-5, 4, true}, scratch, out));
  EXPECT_THROW(reader.read(0, {6, 0, false}, scratch, out), InternalError);
  EXPECT_THROW(reader.read(0, {0, -5, false}, scratch, out), InternalError);
}

TEST(DataAugmentation, TheDryRunSaysWhatIsDoneAndWhere) {
  Config config;
  ComputeDevice cpu, gpu;
  gpu.transforms_fields = true;
  EXPECT_EQ(augmentation_text(config, cpu), "");
  config.data.flip = true;
  EXPECT_EQ(augmentation_text(config, cpu),
            "training images: mirrored with probability 1/2, by the loader's threads\n");
  config.data.crop_padding = 4;
  EXPECT_EQ(
      augmentation_text(config, gpu),
      "training images: cropped out of 4 pixels of padding, mirrored with probability 1/2, by the device "
      "where it takes them in\n");
}

}  // namespace
}  // namespace lockstep
