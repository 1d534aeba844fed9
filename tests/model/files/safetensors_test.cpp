#include "model/files/safetensors.h"

#include <bit>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>

#include "core/error.h"
#include "model/files/safetensors_support.h"
#include "support/temp_dir.h"

namespace lockstep {
namespace {

using test::file_of;
using test::parse;
using test::read_file_bytes;
using test::TempDir;
using test::write_file_bytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Safetensors, TakesWhatTheFormatAllows) {
  const SafetensorsHeader h = parse(file_of(
      R"({ "b" : {"data_offsets":[0,8],"shape":[2],"dtype":"F32"},"a":{"dtype":"F64","shape":[],"data_offsets":[8,16]},)"
      R"("z":{"dtype":"I64","shape":[0,7],"data_offsets":[8,8]},"y":{"dtype":"U8","shape":[0],"data_offsets":[16,16]},)"
      R"("x":{"dtype":"I32","shape":[0],"data_offsets":[0,0]},"__metadata__":{"format":"pt"}}   )",
      16));
  ASSERT_EQ(h.tensors.size(), 5u);
  EXPECT_EQ(h.tensors[0].name, "a");
  EXPECT_EQ(h.tensors[0].shape, Shape{});
  EXPECT_EQ(h.tensors[0].dtype, DType::f64);
  EXPECT_EQ(h.tensors[1].begin, 0u);
  EXPECT_EQ(h.tensors[4].shape, (Shape{0, 7}));
  EXPECT_EQ(h.metadata.at("format"), "pt");
  EXPECT_TRUE(parse(file_of("{}", 0)).tensors.empty());
}

class SafetensorsFiles : public ::testing::Test {
 protected:
  TempDir dir_;
};

TEST_F(SafetensorsFiles, RoundTripKeepsEveryBit) {
  std::vector<float> weight(60);
  for (std::size_t i = 0; i < weight.size(); ++i)
    weight[i] = std::bit_cast<float>(0x9E3779B9u * unsigned(i + 1));
  weight[0] = std::numeric_limits<float>::quiet_NaN();
  weight[1] = -0.0f;
  weight[2] = std::numeric_limits<float>::denorm_min();
  const std::vector<double> d = {1.5, -2.5};
  const std::vector<std::uint8_t> odd = {1, 2, 3};
  const std::string path = dir_ / "w.safetensors";
  const std::vector<TensorView> tensors = {
      view_of("z.weight", {3, 4, 5}, weight),
      {"b.odd", DType::u8, {3}, std::as_bytes(std::span(odd))},
      {"c.double", DType::f64, {2, 1}, std::as_bytes(std::span(d))},
      view_of("e.empty", {0, 3}, {}),
      view_of("s.scalar", {}, std::span(weight).first(1)),
      view_of("quo\"te\n\xC3\xA9", {1}, std::span(weight).subspan(5, 1)),
  };
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"k", "v \"\\"}};
  const WrittenFile written = write_safetensors(path, tensors, metadata);

  const std::string bytes = read_file_bytes(path);
  EXPECT_EQ(written.bytes, bytes.size());
  EXPECT_EQ(written.bytes, safetensors_bytes(tensors, metadata));
  EXPECT_EQ(written.sha256, sha256_hex(bytes));
  std::uint64_t n = 0;
  std::memcpy(&n, bytes.data(), 8);
  EXPECT_EQ(n % 8, 0u);
  EXPECT_EQ(bytes[8], '{');

  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const TensorView& t : tensors) {
    const TensorInfo* info = file.find(t.name);
    ASSERT_NE(info, nullptr) << t.name;
    EXPECT_EQ(info->dtype, t.dtype);
    EXPECT_EQ(info->shape, t.shape);
    const auto read = file.bytes(*info);
    EXPECT_TRUE(std::equal(read.begin(), read.end(), t.data.begin(), t.data.end())) << t.name;
  }
  // The data lies in the order of the names.
  for (std::size_t i = 1; i < file.tensors().size(); ++i) {
    EXPECT_LT(file.tensors()[i - 1].name, file.tensors()[i].name);
    EXPECT_EQ(file.tensors()[i - 1].end, file.tensors()[i].begin);
  }
  std::vector<float> read(60);
  file.read_f32("z.weight", {3, 4, 5}, read);
  EXPECT_EQ(std::memcmp(read.data(), weight.data(), sizeof(float) * 60), 0);
  EXPECT_EQ(file.find("z.weigh"), nullptr);
}

TEST_F(SafetensorsFiles, TheOrderOfTheTensorsDoesNotChangeTheFile) {
  const std::vector<float> v = {1, 2, 3};
  const auto a = view_of("a", {3}, v);
  const auto b = view_of("b", {1, 2}, std::span(v).first(2));
  EXPECT_EQ(write_safetensors(dir_ / "1", {a, b}).sha256, write_safetensors(dir_ / "2", {b, a}).sha256);
  EXPECT_NE(write_safetensors(dir_ / "1", {a}).sha256, write_safetensors(dir_ / "2", {b}).sha256);
}

TEST_F(SafetensorsFiles, ReplacesAFileWholeAndLeavesNoOther) {
  const std::vector<float> v = {1, 2, 3};
  const std::string path = dir_ / "w.safetensors";
  write_safetensors(path, {view_of("a", {3}, v)});
  const SafetensorsFile old = SafetensorsFile::open(path);
  write_safetensors(path, {view_of("b", {2}, std::span(v).first(2))});
  EXPECT_EQ(old.bytes(*old.find("a")).size(), 12u);  // the mapping of the replaced file stays good
  EXPECT_NE(SafetensorsFile::open(path).find("b"), nullptr);
  std::vector<std::string> names;
  for (const auto& e : std::filesystem::directory_iterator(dir_.path())) names.push_back(e.path().filename());
  EXPECT_THAT(names, ElementsAre("w.safetensors"));
}

TEST_F(SafetensorsFiles, AWriterThatIsMisusedIsADefect) {
  const std::vector<float> v = {1, 2, 3};
  EXPECT_THROW(write_safetensors(dir_ / "w", {view_of("a", {3}, v), view_of("a", {3}, v)}), InternalError);
  EXPECT_THROW(write_safetensors(dir_ / "w", {view_of("a", {4}, v)}), InternalError);
  EXPECT_THROW(write_safetensors(dir_ / "w", {view_of("__metadata__", {3}, v)}), InternalError);
  EXPECT_THROW(write_safetensors(dir_ / "w", {view_of("\xff", {3}, v)}), InternalError);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "w"));
}

std::string message_of(const auto& call) {
  try {
    call();
  } catch (const InputError& e) {
    return e.what();
  }
  return "nothing thrown";
}

TEST_F(SafetensorsFiles, AnotherModelIsNamedWithTensorAndBothShapes) {
  const std::vector<float> v = {1, 2, 3, 4};
  const std::vector<double> d = {1};
  const std::string path = dir_ / "w.safetensors";
  write_safetensors(
      path, {view_of("fc.weight", {2, 2}, v), {"fc.bias", DType::f64, {1}, std::as_bytes(std::span(d))}});
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<float> out(4);
  EXPECT_THAT(message_of([&] {
                file.read_f32("fc.weight", {4, 1}, out);
              }),
              AllOf(HasSubstr(path), HasSubstr("'fc.weight'"), HasSubstr("2x2"), HasSubstr("4x1")));
  EXPECT_THAT(message_of([&] { file.read_f32("fc.bias", {1}, std::span(out).first(1)); }), HasSubstr("F64"));
  EXPECT_THAT(message_of([&] {
                file.read_f32("conv.weight", {2, 2}, out);
              }),
              HasSubstr("no tensor 'conv.weight'"));
  EXPECT_THAT(message_of([&] {
                file.check_names({"fc.bias", "fc.weight", "fc2.bias"});
              }),
              HasSubstr("no tensor 'fc2.bias'"));
  EXPECT_THAT(message_of([&] { file.check_names({"fc.weight"}); }),
              HasSubstr("the tensor 'fc.bias', which the model"));
  EXPECT_NO_THROW(file.check_names({"fc.weight", "fc.bias"}));
}

TEST_F(SafetensorsFiles, WhatIsNoWeightFileIsSaidSo) {
  EXPECT_THAT(message_of([&] { SafetensorsFile::open(dir_ / "none"); }), HasSubstr("does not exist"));
  EXPECT_THAT(message_of([&] { SafetensorsFile::open(dir_.path()); }), HasSubstr("is a directory"));
  write_file_bytes(dir_ / "empty", "");
  EXPECT_THAT(message_of([&] { SafetensorsFile::open(dir_ / "empty"); }), HasSubstr("is empty"));
  write_file_bytes(dir_ / "text", "label,x\n1,2\n3,4\n");
  EXPECT_THAT(message_of([&] { SafetensorsFile::open(dir_ / "text"); }),
              HasSubstr("not a valid safetensors file"));
  const std::vector<float> v = {1, 2, 3};
  EXPECT_THAT(message_of([&] { write_safetensors(dir_ / "text/w", {view_of("a", {3}, v)}); }),
              HasSubstr("text/w"));
}

TEST_F(SafetensorsFiles, TheDigestSeesNameDtypeShapeAndBytesAndNothingElse) {
  const std::vector<float> v = {1, 2, 3, 4};
  const std::vector<float> w = {1, 2, 3, -4};
  const auto digest = [&](const std::vector<TensorView>& tensors,
                          const std::map<std::string, std::string>& meta = {}) {
    write_safetensors(dir_ / "w", tensors, meta);
    TensorDigest d;
    add_to_digest(d, SafetensorsFile::open(dir_ / "w"));
    return d.hex();
  };
  const std::string base = digest({view_of("a", {4}, v)});
  EXPECT_EQ(base, digest({view_of("a", {4}, v)}, {{"format", "pt"}}));
  EXPECT_NE(base, digest({view_of("b", {4}, v)}));
  EXPECT_NE(base, digest({view_of("a", {2, 2}, v)}));
  EXPECT_NE(base, digest({view_of("a", {4}, w)}));
  EXPECT_NE(base, digest({{"a", DType::i32, {4}, std::as_bytes(std::span(v))}}));
}

}  // namespace
}  // namespace lockstep
