// In which order an IDX file holds its axes and its bytes.

#include <algorithm>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>

#include "data/readers/idx.h"
#include "data/test_support.h"

namespace lockstep {
namespace {

using test::counting_bytes;
using test::error_of;
using test::gzip_bytes;
using test::idx_bytes;
using test::put_file;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Values as they lie in the memory of this little-endian machine, or in the order of IDX.
template <class T>
std::string bytes_of(const std::vector<T>& values, bool big_endian) {
  std::string out;
  for (const T& value : values) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    if (big_endian) std::reverse(bytes.begin(), bytes.end());
    out += bytes;
  }
  return out;
}

class DataIdxAxes : public ::testing::Test {
 protected:
  MemoryContent load(const std::vector<std::uint32_t>& dims, ImageOptions options = {},
                     std::uint8_t type = 0x08) {
    std::size_t bytes = type == 0x0D ? 4 : 1;
    for (const std::uint32_t d : dims) bytes *= d;
    put_file(dir_ / "images",
             idx_bytes(type, dims, type == 0x0D ? std::string(bytes, '\0') : counting_bytes(bytes)));
    return load_idx(dir_ / "images", "data.train", "", "", LabelUse::none, options);
  }
  Shape shape(const std::vector<std::uint32_t>& dims, ImageOptions options = {}) {
    return load(dims, options).sample_shape;
  }
  std::string refused(const std::vector<std::uint32_t>& dims, ImageOptions options = {}) {
    return error_of([&] { load(dims, options); });
  }
  static ImageOptions said(AxisOrder order) { return {{}, order, {}}; }
  static ImageOptions shaped(const Shape& shape) { return {shape, AxisOrder::unsaid, {}}; }
  test::TempDir dir_;
};

TEST_F(DataIdxAxes, ChannelsFirstIsTakenWhereOnlyThatMakesSense) {
  EXPECT_EQ(shape({2, 3, 8, 8}), (Shape{3, 8, 8}));
  EXPECT_EQ(shape({2, 1, 8, 6}), (Shape{1, 8, 6}));
  EXPECT_EQ(shape({2, 16, 2, 2}), (Shape{16, 2, 2}));
  EXPECT_EQ(shape({2, 3, 4, 4}), (Shape{3, 4, 4}));
  EXPECT_EQ(shape({2, 1, 9, 1}), (Shape{1, 9, 1}));
  EXPECT_EQ(shape({2, 4, 6, 7}), (Shape{4, 6, 7}));
}

TEST_F(DataIdxAxes, WhatLooksLikeChannelsLastIsRefused) {
  for (const std::vector<std::uint32_t>& dims :
       {std::vector<std::uint32_t>{2, 8, 8, 3}, {2, 28, 28, 1}, {2, 9, 7, 4}, {2, 8, 8, 2}, {2, 8, 8, 12}})
    EXPECT_THAT(refused(dims),
                AllOf(HasSubstr("(data.train)"), HasSubstr("look like height x width x channels"),
                      HasSubstr("data.layout = hwc"), HasSubstr("or chw")))
        << dims[3];
  for (const std::vector<std::uint32_t>& dims :
       {std::vector<std::uint32_t>{2, 3, 3, 3}, {2, 4, 4, 4}, {2, 3, 8, 3}, {2, 3, 5, 1}})
    EXPECT_THAT(refused(dims), AllOf(HasSubstr("may be"), HasSubstr("data.layout"))) << dims[3];
}

TEST_F(DataIdxAxes, AShapeThatWouldScramblePixelsIsRefused) {
  EXPECT_THAT(refused({2, 8, 8, 3}, shaped(Shape{3, 8, 8})), HasSubstr("data.layout"));
  EXPECT_EQ(shape({2, 8, 8, 3}, shaped(Shape{8, 8, 3})), (Shape{8, 8, 3}));
  EXPECT_EQ(shape({2, 8, 8, 3}, shaped(Shape{192})), (Shape{192}));
  // A run that began with the one reading keeps it, and takes no file of the other.
  EXPECT_EQ(shape({2, 8, 8, 3}, {{}, AxisOrder::unsaid, Shape{8, 8, 3}}), (Shape{8, 8, 3}));
  EXPECT_THAT(refused({2, 8, 8, 3}, {{}, AxisOrder::unsaid, Shape{3, 8, 8}}), HasSubstr("data.layout = hwc"));
  EXPECT_THAT(refused({2, 3, 8, 8}, {{}, AxisOrder::channels_last, Shape{3, 8, 8}}),
              HasSubstr("only with data.layout = chw"));
}

TEST_F(DataIdxAxes, ChannelsLastAreReordered) {
  const MemoryContent last = load({2, 2, 2, 3}, said(AxisOrder::channels_last));
  EXPECT_EQ(last.sample_shape, (Shape{3, 2, 2}));
  EXPECT_THAT(last.bytes, ElementsAre(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, 12, 15, 18, 21, 13, 16, 19, 22,
                                      14, 17, 20, 23));
  EXPECT_EQ(load({2, 2, 2, 3}, said(AxisOrder::channels_first)).bytes[1], 1);
  put_file(dir_ / "f", idx_bytes(0x0D, {1, 1, 2, 2}, bytes_of<float>({1, 2, 3, 4}, true)));
  EXPECT_THAT(load_idx(dir_ / "f", "", "", "", LabelUse::none, said(AxisOrder::channels_last)).floats,
              ElementsAre(1, 3, 2, 4));
  EXPECT_THAT(refused({2, 5, 5}, said(AxisOrder::channels_last)),
              AllOf(HasSubstr("data.layout"), HasSubstr("2x5x5 u8"), HasSubstr("remove it")));
}

class DataIdxBytes : public ::testing::Test {
 protected:
  DataIdxBytes() { put_file(images_, idx_bytes(0x08, {4, 2, 2}, counting_bytes(16))); }
  MemoryContent load(LabelUse use = LabelUse::classes) {
    return load_idx(images_, "data.train", labels_, "data.train_labels", use, {});
  }
  std::string refused(LabelUse use = LabelUse::classes) {
    return error_of([&] { load(use); });
  }
  test::TempDir dir_;
  const std::string images_ = dir_ / "x", labels_ = dir_ / "y";
};

TEST_F(DataIdxBytes, LittleEndianExtentsNameTheFileThatHasThem) {
  const auto reversed = [](std::uint32_t n) { return __builtin_bswap32(n); };
  const auto names = [&](const std::string& file, const std::string& key) {
    return AllOf(HasSubstr(file + "' (" + key + ")"), HasSubstr("little-endian"),
                 HasSubstr("IDX is big-endian"));
  };
  put_file(labels_, idx_bytes(0x08, {reversed(4)}, std::string("\0\1\2\1", 4)));
  EXPECT_THAT(refused(), names(labels_, "data.train_labels"));
  put_file(labels_, gzip_bytes(idx_bytes(0x08, {reversed(4)}, std::string("\0\1\2\1", 4))));
  EXPECT_THAT(refused(), names(labels_, "data.train_labels"));
  put_file(labels_, idx_bytes(0x08, {4}, std::string("\0\1\2\1", 4)));
  EXPECT_EQ(refused(), "");
  put_file(images_, idx_bytes(0x08, {reversed(4), reversed(2), reversed(2)}, counting_bytes(16)));
  EXPECT_THAT(refused(), AllOf(names(images_, "data.train"), HasSubstr("4x2x2")));
  // Cut short, and no more than that.
  put_file(images_, idx_bytes(0x08, {4, 2, 2}, counting_bytes(9)));
  EXPECT_THAT(refused(), ::testing::Not(HasSubstr("endian")));
}

TEST_F(DataIdxBytes, LittleEndianLabelsNameTheLabelsFile) {
  const auto names = AllOf(HasSubstr(labels_ + "' (data.train_labels)"), HasSubstr("little-endian"));
  put_file(labels_, idx_bytes(0x0C, {4}, bytes_of<std::int32_t>({0, 1, 2, 1}, false)));
  EXPECT_THAT(refused(), AllOf(names, HasSubstr("33554432 is 2 with its bytes reversed")));
  put_file(labels_, idx_bytes(0x0B, {4}, bytes_of<std::int16_t>({0, 1, 2, 1}, false)));
  EXPECT_THAT(refused(), names);
  put_file(labels_, idx_bytes(0x0D, {4}, bytes_of<float>({0, 1, 2, 1}, false)));
  EXPECT_THAT(refused(), names);
  EXPECT_THAT(refused(LabelUse::targets), names);
  put_file(labels_, idx_bytes(0x0E, {4}, bytes_of<double>({0.5, -1, 2, 1e3}, false)));
  EXPECT_THAT(refused(LabelUse::targets), names);
  for (const std::string& right : {idx_bytes(0x0C, {4}, bytes_of<std::int32_t>({0, 1, 2, 1}, true)),
                                   idx_bytes(0x0B, {4}, bytes_of<std::int16_t>({0, 300, 2, 1}, true)),
                                   idx_bytes(0x0D, {4}, bytes_of<float>({0, 1, 2, 1}, true)),
                                   idx_bytes(0x0E, {4}, bytes_of<double>({0, 1, 2, 1}, true))}) {
    put_file(labels_, right);
    EXPECT_EQ(refused(), "");
  }
}

TEST_F(DataIdxBytes, LittleEndianSamplesAreRefusedOrWarnedOf) {
  put_file(labels_, idx_bytes(0x08, {4}, std::string("\0\1\2\1", 4)));
  put_file(images_, idx_bytes(0x0D, {4, 2}, bytes_of<float>({1, 0.5, -2, 0, 3, 7, 1e-3f, 9}, false)));
  EXPECT_THAT(refused(), AllOf(HasSubstr(images_), HasSubstr("little-endian")));
  // Multiples of 65536 may be meant.
  put_file(images_, idx_bytes(0x0C, {4, 1}, bytes_of<std::int32_t>({1, 5, 9, 3}, false)));
  EXPECT_THAT(load().doubts, ElementsAre(AllOf(HasSubstr(images_), HasSubstr("little-endian"))));
  put_file(images_, idx_bytes(0x0C, {4, 1}, bytes_of<std::int32_t>({1, 5, 9, 300000}, true)));
  EXPECT_THAT(load().doubts, IsEmpty());
  put_file(images_, idx_bytes(0x0D, {4, 1}, bytes_of<float>({1e-30f, 1e-25f, 0, 2e-30f}, true)));
  EXPECT_EQ(refused(), "");
}

TEST_F(DataIdxBytes, LittleEndianFloatsAtRandomAreRefused) {
  std::mt19937 random(7);
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-24f; };
  for (int round = 0; round < 40; ++round) {
    std::vector<float> values;
    for (int i = 0; i < 240; ++i) values.push_back(uniform());
    put_file(labels_, idx_bytes(0x08, {60}, std::string(60, '\1')));
    put_file(images_, idx_bytes(0x0D, {60, 2, 2}, bytes_of<float>(values, false)));
    EXPECT_THAT(refused(), AllOf(HasSubstr(images_), HasSubstr("little-endian"))) << round;
    put_file(images_, idx_bytes(0x0D, {60, 2, 2}, bytes_of<float>(values, true)));
    EXPECT_EQ(refused(), "") << round;
    // Some as small as a softmax gives them.
    for (std::size_t i = 0; i < values.size(); i += 2) values[i] *= 1e-25f;
    put_file(images_, idx_bytes(0x0D, {60, 2, 2}, bytes_of<float>(values, true)));
    EXPECT_EQ(refused(), "") << round;
    values.resize(60);
    put_file(labels_, idx_bytes(0x0D, {60}, bytes_of<float>(values, true)));
    EXPECT_EQ(refused(LabelUse::targets), "") << round;
    for (float& v : values) v = uniform();
    put_file(labels_, idx_bytes(0x0D, {60}, bytes_of<float>(values, false)));
    EXPECT_THAT(refused(LabelUse::targets), AllOf(HasSubstr(labels_), HasSubstr("little-endian"))) << round;
  }
}

TEST_F(DataIdxBytes, LabelsOfFloatsAreWholeOrNamed) {
  put_file(labels_, idx_bytes(0x0E, {4}, bytes_of<double>({0, 1e300, 2, 1}, true)));
  EXPECT_THAT(refused(), AllOf(HasSubstr(labels_), HasSubstr("sample 1"), HasSubstr("too large")));
  put_file(labels_, idx_bytes(0x0E, {4}, bytes_of<double>({0, 1, -2, 1}, true)));
  EXPECT_THAT(refused(), AllOf(HasSubstr("sample 2 is -2"), HasSubstr("from 0")));
  put_file(labels_, idx_bytes(0x0D, {4}, bytes_of<float>({0, 1, 2, std::nanf("")}, true)));
  EXPECT_THAT(refused(), AllOf(HasSubstr("sample 3 is nan"), HasSubstr("as the other 3 are")));
}

}  // namespace
}  // namespace lockstep
