#include "data/normalize.h"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <random>

#include "data/memory_dataset.h"
#include "data/test_support.h"

namespace lockstep {
namespace {

using test::error_of;
using test::targets_only;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

MemoryDataset floats(const Shape& shape, std::vector<float> values) {
  MemoryContent content;
  content.file = "f";
  content.sample_shape = shape;
  content.samples = static_cast<std::int64_t>(values.size()) / shape.elements();
  content.floats = std::move(values);
  return MemoryDataset(std::move(content));
}

MemoryDataset bytes(const Shape& shape, std::vector<std::uint8_t> values) {
  MemoryContent content;
  content.file = "b";
  content.sample_shape = shape;
  content.samples = static_cast<std::int64_t>(values.size()) / shape.elements();
  content.bytes = std::move(values);
  return MemoryDataset(std::move(content));
}

std::vector<float> read(const Dataset& data, const Normalizer& normalizer, std::int64_t index) {
  std::vector<float> out(static_cast<std::size_t>(data.sample_shape().elements()));
  NormalizedReader(data, normalizer).read(index, out);
  return out;
}

TEST(DataNormalize, PerFeature) {
  const MemoryDataset data = floats(Shape{3}, {1, 10, 0.1f, 3, 10, 0.1f, 5, 40, 0.1f});
  const Normalizer n = Normalizer::fit("auto", data);
  EXPECT_EQ(n.kind(), Normalizer::Kind::standard);
  EXPECT_EQ(n.mean(), (std::vector<double>{3, 20, static_cast<double>(0.1f)}));
  EXPECT_THAT(n.deviation(),
              ElementsAre(std::sqrt(8.0 / 3), std::sqrt(200.0), 1.0));  // constant: 1, not a tiny rest
  const std::vector<float> first = read(data, n, 0);
  EXPECT_EQ(first[0], static_cast<float>((1.0 - 3.0) / std::sqrt(8.0 / 3)));
  EXPECT_EQ(first[2], 0.0f);
}

TEST(DataNormalize, PerChannelOfBytes) {
  // Two channels of 1 x 2; the second is constant.
  const MemoryDataset data = bytes(Shape{2, 1, 2}, {0, 255, 7, 7, 0, 255, 7, 7});
  const Normalizer n = Normalizer::fit("standard", data);
  EXPECT_EQ(n.divisor(), 255);
  EXPECT_THAT(n.mean(), ElementsAre(0.5, 7.0 / 255));
  EXPECT_THAT(n.deviation(), ElementsAre(0.5, 1.0));
  EXPECT_THAT(read(data, n, 1), ElementsAre(-1.0f, 1.0f, 0.0f, 0.0f));
  EXPECT_THAT(read(data, Normalizer::fit("unit", data), 0),
              ElementsAre(0.0f, 1.0f, static_cast<float>(7.0 / 255), static_cast<float>(7.0 / 255)));
  EXPECT_THAT(read(data, Normalizer::fit("none", data), 0), ElementsAre(0, 255, 7, 7));
}

TEST(DataNormalize, BytesAndFloatsGiveTheSameBits) {
  std::mt19937 random(1);
  std::vector<std::uint8_t> raw(3 * 5 * 5 * 20);
  for (std::uint8_t& v : raw) v = static_cast<std::uint8_t>(random());
  const MemoryDataset b = bytes(Shape{3, 5, 5}, raw);
  const MemoryDataset f = floats(Shape{3, 5, 5}, std::vector<float>(raw.begin(), raw.end()));
  for (const char* method : {"none", "unit", "standard"}) {
    const Normalizer n = Normalizer::fit(method, b);
    for (std::int64_t i = 0; i < b.size(); ++i) EXPECT_EQ(read(b, n, i), read(f, n, i)) << method;
  }
  // Two ways to the same mean and deviation.
  const Normalizer of_bytes = Normalizer::fit("standard", b);
  const Normalizer of_floats = Normalizer::fit("standard", f);
  for (std::size_t g = 0; g < 3; ++g) {
    EXPECT_NEAR(of_bytes.mean()[g] * 255, of_floats.mean()[g], 1e-10);
    EXPECT_NEAR(of_bytes.deviation()[g] * 255, of_floats.deviation()[g], 1e-10);
  }
}

TEST(DataNormalize, ASmallDeviationOnALargeMeanSurvives) {
  std::vector<float> values(1000, 1.0e6f);
  for (std::size_t i = 0; i < values.size(); i += 2) values[i] += 1.0f;
  EXPECT_DOUBLE_EQ(Normalizer::fit("standard", floats(Shape{1}, values)).deviation()[0], 0.5);
}

TEST(DataNormalize, WhatDiffersByRoundingAloneCountsAsConstant) {
  const auto deviation = [](std::vector<float> values) {
    return Normalizer::fit("standard", floats(Shape{1}, std::move(values))).deviation()[0];
  };
  EXPECT_EQ(deviation({0.1f, 0.10000001f, 0.1f}), 1);
  EXPECT_EQ(deviation({0.0f, 1e-40f, 0.0f}), 1);
  EXPECT_EQ(deviation({-1e-39f, 1e-39f}), 1);
  EXPECT_EQ(deviation({1e8f, 1e8f + 8}), 1e8 + 8) << "so that a value of the column stays small";
  EXPECT_EQ(deviation({1e8f, 1e8f}), 1e8);
  EXPECT_EQ(deviation({-3e38f, -2.9999999e38f}), 3e38f);
  // And what varies little, but does vary, is left as it was.
  EXPECT_DOUBLE_EQ(deviation({1e8f, 1e8f + 64}), 32);
  EXPECT_NEAR(deviation({0.1f, 0.100001f}), 5e-7, 1e-8);
  EXPECT_NEAR(deviation({0.0f, 1e-30f}), 5e-31, 1e-36);
  EXPECT_TRUE(is_rounding(5, 5));
  EXPECT_FALSE(is_rounding(-1, 1));
  const float size = 1024, unit = 0x1p-13f;  // of rounding
  EXPECT_TRUE(is_rounding(size - 4 * unit, size));
  EXPECT_FALSE(is_rounding(size - 5 * unit, size));
}

TEST(DataNormalize, TargetsAreScaledWhereAskedForAndComeBack) {
  const MemoryDataset data = targets_only(2, {1, 7, 3, 7, 5, 7});
  Normalizer n = Normalizer::fit("none", data);
  EXPECT_FALSE(n.scales_targets());
  EXPECT_EQ(n.in_units_of_data(4.5f, 0), 4.5);
  EXPECT_EQ(n.to_json().find("target"), std::string::npos) << "old files keep their bytes";
  n.fit_targets(data);
  EXPECT_THAT(n.target_mean(), ElementsAre(3, 7));
  EXPECT_THAT(n.target_deviation(), ElementsAre(std::sqrt(8.0 / 3), 7)) << "the second is constant";
  std::vector<float> out(2);
  NormalizedReader(data, n).read_target(2, out);
  EXPECT_THAT(out, ElementsAre(static_cast<float>(2 / std::sqrt(8.0 / 3)), 0.0f));
  EXPECT_NEAR(n.in_units_of_data(out[0], 0), 5, 1e-6);
  EXPECT_EQ(n.in_units_of_data(0, 1), 7);
  EXPECT_EQ(Normalizer::from_json(n.to_json(), "x"), n);
  EXPECT_THAT(error_of([&] { n.check(Shape{1}, 3); }), HasSubstr("3 targets"));
  for (const char* text : {R"({"kind":"none","divisor":1,"target_mean":[1]})",
                           R"({"kind":"none","divisor":1,"target_mean":[1],"target_deviation":[0]})",
                           R"({"kind":"none","divisor":1,"target_mean":[1,2],"target_deviation":[1]})",
                           R"({"kind":"none","divisor":1,"target_mean":[],"target_deviation":[]})"})
    EXPECT_THAT(error_of([&] { Normalizer::from_json(text, "data.json"); }), HasSubstr("data.json")) << text;
}

TEST(DataNormalize, StoredValuesComeBackAsTheSameBits) {
  std::mt19937 random(3);
  std::vector<float> values(700);
  for (float& v : values) v = static_cast<float>(random()) * 1.7e-9f;
  const MemoryDataset data = floats(Shape{7}, values);
  for (const char* method : {"none", "unit", "standard"}) {
    const Normalizer n = Normalizer::fit(method, data);
    EXPECT_EQ(Normalizer::from_json(n.to_json(), "data.json"), n);
  }
}

TEST(DataNormalize, BadInputIsRefused) {
  const MemoryDataset data = floats(Shape{2}, {1, 2});
  EXPECT_THAT(error_of([&] { Normalizer::fit("whiten", data); }), HasSubstr("data.normalize = whiten"));
  EXPECT_THAT(error_of([&] { Normalizer::fit("standard", floats(Shape{2}, {})); }), HasSubstr("empty"));
  for (const char* text :
       {"", "{", "[]", "{}", R"({"kind":"other","divisor":1})", R"({"kind":"unit","divisor":0})",
        R"({"kind":"unit"})", R"({"kind":"standard","divisor":1,"mean":[1],"deviation":[0]})",
        R"({"kind":"standard","divisor":1,"mean":[1],"deviation":[1,2]})",
        R"({"kind":"standard","divisor":1,"mean":[],"deviation":[]})",
        R"({"kind":"standard","divisor":1,"mean":["a"],"deviation":[1]})"}) {
    EXPECT_THAT(error_of([&] { Normalizer::from_json(text, "data.json"); }), HasSubstr("data.json")) << text;
  }
  const Normalizer two = Normalizer::fit("standard", data);
  EXPECT_THAT(error_of([&] { two.check(Shape{3}); }), HasSubstr("fitted on 2 features"));
}

TEST(DataNormalize, SyntheticDataAreLeftAloneByAuto) {
  EXPECT_EQ(Normalizer::fit("auto", floats(Shape{2}, {1, 2}), true).kind(), Normalizer::Kind::none);
}

}  // namespace
}  // namespace lockstep
