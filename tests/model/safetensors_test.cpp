#include "model/files/safetensors.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <random>
#include <utility>

#include "core/error.h"
#include "support/temp_dir.h"

namespace lockstep {
namespace {

using test::read_file_bytes;
using test::TempDir;
using test::write_file_bytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string u64(std::uint64_t n) {
  std::string s(8, '\0');
  std::memcpy(s.data(), &n, 8);
  return s;
}

// A file with this header, as it is, and so many bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  return u64(header.size()) + header + std::string(data_bytes, '\1');
}

SafetensorsHeader parse(const std::string& file) {
  // A heap block of exactly the file's size: the address sanitizer sees every byte read outside it.
  const std::vector<char> exact(file.begin(), file.end());
  return parse_safetensors(std::as_bytes(std::span(exact)), "weights.safetensors");
}

std::string refusal(const std::string& file) {
  try {
    parse(file);
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

struct Lie {
  const char* name;
  std::string file;
  std::string message;  // a part of it
};
std::ostream& operator<<(std::ostream& out, const Lie& lie) {
  return out << lie.name;
}

const std::string f32x2 = R"("dtype":"F32","shape":[2])";

std::string entry(const std::string& name, const std::string& body) {
  return "\"" + name + "\":{" + body + "}";
}

std::vector<Lie> lies() {
  const std::string a = entry("a", f32x2 + R"(,"data_offsets":[0,8])");
  std::string deep = R"({"a":{"dtype":"F32","shape":)" + std::string(1'000'000, '[');
  deep += std::string(1'000'000, ']') + "}}";
  std::string objects = "{";
  for (int i = 0; i < 300'000; ++i) objects += "\"a\":{";
  objects += std::string(300'001, '}');
  return {
      {"empty_file", "", "holds 0 bytes"},
      {"shorter_than_the_size", "1234567", "holds 7 bytes"},
      {"header_longer_than_the_file", u64(100) + "{}", "claims 100 bytes, but only 2 follow"},
      {"header_past_the_limit", u64(100'000'001) + "{}", "more than the 100000000 allowed"},
      {"header_size_that_wraps", u64(~std::uint64_t{0}) + "{}", "more than the 100000000 allowed"},
      {"header_size_near_wrap", u64(~std::uint64_t{0} - 7) + "{}", "more than the 100000000 allowed"},
      {"empty_header", u64(0), "does not begin with '{'"},
      {"header_begins_with_space", file_of(" {}", 0), "does not begin with '{'"},
      {"header_is_a_list", file_of("[]", 0), "does not begin with '{'"},
      {"byte_order_mark", file_of("\xEF\xBB\xBF{}", 0), "does not begin with '{'"},
      {"padded_with_newline", file_of("{}\n", 0), "does not end with '}' and spaces"},
      {"padded_with_zero", file_of(std::string("{}\0", 3), 0), "does not end with '}' and spaces"},
      {"hidden_after_a_zero", file_of(std::string("{}\0}", 4), 0), "zero byte"},
      {"two_objects", file_of("{}{}", 0), "not JSON from byte 10"},
      {"not_json", file_of("{a}", 0), "not JSON"},
      {"comment", file_of("{/* */}", 0), "not JSON"},
      {"not_utf8", file_of("{\"\xff\":1}", 0), "not JSON"},
      {"cut_json", file_of(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,0]})", 0), "not JSON"},
      {"deep_lists", file_of(deep, 0), "'shape' holds a list"},
      {"deep_objects", file_of(objects, 0), "unknown key 'a'"},
      {"entry_is_a_number", file_of(R"({"a":1})", 0), "'a' is a number instead of an object"},
      {"entry_is_null", file_of(R"({"a":null})", 0), "'a' is null instead of an object"},
      {"entry_is_a_list", file_of(R"({"a":[]})", 0), "'a' is a list instead of an object"},
      {"dtype_missing", file_of(R"({"a":{"shape":[],"data_offsets":[0,0]}})", 0), "'dtype' is missing"},
      {"shape_missing", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,0]}})", 0), "'shape' is missing"},
      {"offsets_missing", file_of(R"({"a":{"dtype":"F32","shape":[]}})", 0), "'data_offsets' is missing"},
      {"key_too_many", file_of("{" + entry("a", f32x2 + R"(,"data_offsets":[0,8],"x":1)") + "}", 8),
       "unknown key 'x'"},
      {"dtype_twice",
       file_of("{" + entry("a", R"("dtype":"F32",)" + f32x2 + R"(,"data_offsets":[0,8])") + "}", 8),
       "'dtype' stands twice"},
      {"offsets_twice",
       file_of("{" + entry("a", f32x2 + R"(,"data_offsets":[0,8],"data_offsets":[0,8])") + "}", 8),
       "'data_offsets' stands twice"},
      {"dtype_unknown", file_of(R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", 8),
       "'a' has the unknown dtype 'F31'"},
      {"dtype_lower_case", file_of(R"({"a":{"dtype":"f32","shape":[2],"data_offsets":[0,8]}})", 8),
       "unknown dtype"},
      {"dtype_number", file_of(R"({"a":{"dtype":1,"shape":[2],"data_offsets":[0,8]}})", 8),
       "'dtype' holds a number"},
      {"dtype_bf16", file_of(R"({"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}})", 8),
       "dtype BF16, which Lockstep does not load; convert the file to F32"},
      {"dtype_f16", file_of(R"({"a":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}})", 8),
       "convert the file to F32"},
      {"shape_negative", file_of(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8),
       "'shape' holds a negative number"},
      {"shape_minus_zero", file_of(R"({"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}})", 0),
       "'shape' holds a negative number"},
      {"shape_fraction", file_of(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8),
       "not an integer"},
      {"shape_text", file_of(R"({"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}})", 8),
       "holds a string"},
      {"shape_no_list", file_of(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8),
       "holds a number"},
      {"shape_past_2_64",
       file_of(R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}})", 8),
       "not an integer below 2^64"},
      {"shape_past_2_63",
       file_of(R"({"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8]}})", 8),
       "more than 2^63 bytes"},
      {"shape_overflows_to_8",
       file_of(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}})", 8),
       "more than 2^63 bytes"},
      {"shape_overflows_by_the_dtype",
       file_of(R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", 0),
       "more than 2^63 bytes"},
      {"overflow_hidden_by_zero",
       file_of(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})", 0),
       "more than 2^63 bytes"},
      {"too_many_dimensions",
       file_of(
           R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}})",
           8),
       "more than 32 numbers"},
      {"size_too_small", file_of(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
       "'a' of shape 3 and dtype F32 needs 12 bytes, but its data_offsets span 8"},
      {"size_too_large", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 8),
       "needs 4 bytes"},
      {"one_offset", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8]}})", 8),
       "1 numbers instead of 2"},
      {"three_offsets", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}})", 8),
       "3 numbers instead of 2"},
      {"offsets_reversed", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8),
       "claims bytes 8 to 0"},
      {"offset_past_the_data", file_of("{" + a + "}", 7), "claims bytes 0 to 8 of 7 bytes"},
      {"offset_near_2_64",
       file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,0]}})", 8),
       "claims bytes"},
      {"begins_past_the_data",
       file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[1000000,1000008]}})", 8), "claims bytes"},
      {"overlap", file_of("{" + a + "," + entry("b", f32x2 + R"(,"data_offsets":[4,12])") + "}", 12),
       "tensors 'a' and 'b' overlap"},
      {"the_same_bytes", file_of("{" + a + "," + entry("b", f32x2 + R"(,"data_offsets":[0,8])") + "}", 8),
       "overlap"},
      {"empty_tensor_inside_another",
       file_of("{" + a + R"(,"b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})", 8),
       "'a' and 'b' overlap"},
      {"hole", file_of("{" + a + "," + entry("b", f32x2 + R"(,"data_offsets":[12,20])") + "}", 20),
       "bytes 8 to 12 before tensor 'b' belong to no tensor"},
      {"hole_at_the_front", file_of("{" + entry("a", f32x2 + R"(,"data_offsets":[4,12])") + "}", 12),
       "bytes 0 to 4 before tensor 'a'"},
      {"data_too_long", file_of("{" + a + "}", 9), "end at byte 8 of the data, but it holds 9 bytes"},
      {"data_without_tensors", file_of("{}", 1), "end at byte 0 of the data, but it holds 1 byte"},
      {"name_twice", file_of("{" + a + "," + entry("a", f32x2 + R"(,"data_offsets":[8,16])") + "}", 16),
       "tensor 'a' stands twice"},
      {"name_twice_by_escape",
       file_of("{" + a + "," + entry("\\u0061", f32x2 + R"(,"data_offsets":[8,16])") + "}", 16),
       "tensor 'a' stands twice"},
      {"metadata_number", file_of(R"({"__metadata__":{"a":1}})", 0), "'a' is a number instead of a string"},
      {"metadata_nested", file_of(R"({"__metadata__":{"a":{}}})", 0), "'a' is an object instead of a string"},
      {"metadata_list", file_of(R"({"__metadata__":[]})", 0), "__metadata__ is a list instead of an object"},
      {"metadata_twice", file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "__metadata__ stands twice"},
      {"metadata_key_twice", file_of(R"({"__metadata__":{"a":"1","a":"2"}})", 0),
       "__metadata__ holds 'a' twice"},
  };
}

class HostileSafetensors : public ::testing::TestWithParam<Lie> {};

TEST_P(HostileSafetensors, IsRefusedBecauseOfItsLie) {
  EXPECT_THAT(refusal(GetParam().file),
              AllOf(HasSubstr("weights.safetensors"), HasSubstr(GetParam().message)));
}
INSTANTIATE_TEST_SUITE_P(Lies, HostileSafetensors, ::testing::ValuesIn(lies()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Safetensors, AHostileNameReachesTheTerminalNeitherRawNorLong) {
  const std::string name = "\\u001b[2J" + std::string(5000, 'x');
  const std::string message = refusal(file_of("{\"" + name + "\":1}", 0));
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
  EXPECT_THAT(message, HasSubstr("\\x1b[2J"));
  EXPECT_LT(message.size(), 400u);
}

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

// Every file that is accepted must be described by tensors that tile its data, whatever was done to it.
void expect_tiled(const std::string& file) {
  SafetensorsHeader h;
  try {
    h = parse(file);
  } catch (const InputError&) {
    return;
  }
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const TensorInfo& t : h.tensors) {
    ranges.emplace_back(t.begin, t.end);
    ASSERT_EQ(static_cast<std::uint64_t>(t.shape.elements()) * size_of(t.dtype), t.bytes());
  }
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    ASSERT_EQ(begin, at);
    at = end;
  }
  ASSERT_EQ(h.data_offset + at, file.size());
}

TEST_F(SafetensorsFiles, MutatedFilesNeverCrashAndAreNeverTakenWithOverlaps) {
  const std::vector<float> v(40, 1.0f);
  write_safetensors(dir_ / "w",
                    {view_of("conv1.weight", {4, 1, 3, 3}, std::span(v).first(36)),
                     view_of("conv1.bias", {4}, std::span(v).first(4)), view_of("empty", {0}, {}),
                     view_of("fc.weight", {2, 10}, std::span(v).first(20)),
                     view_of("fc.bias", {10}, std::span(v).first(10))},
                    {{"format", "pt"}});
  const std::string valid = read_file_bytes(dir_ / "w");
  std::uint64_t n = 0;
  std::memcpy(&n, valid.data(), 8);
  const std::size_t front = 8 + n;
  std::mt19937_64 random(20240);
  const auto below = [&](std::size_t limit) { return static_cast<std::size_t>(random() % limit); };
  const std::string json("{}[]\",:0123456789-.eEtrufalsn \\\xff\0", 33);
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string file = valid;
    for (std::size_t edits = 1 + below(4); edits > 0 && !file.empty(); --edits) {
      const std::size_t at = below(std::min(front, file.size()));
      switch (below(7)) {
        case 0:
          file[at] = static_cast<char>(random());
          break;
        case 1:
          file[at] = static_cast<char>(file[at] ^ (1 << below(8)));
          break;
        case 2:
          file[at] = json[below(json.size())];
          break;
        case 3:
          file.insert(at, 1 + below(3), json[below(json.size())]);
          break;
        case 4:
          file.erase(at, 1 + below(8));
          break;
        case 5:
          file.insert(at, file.substr(below(file.size()), below(40)));
          break;
        default:
          file.resize(1 + below(file.size()));
          break;
      }
      // Keep the announced size right in half of the cases, so that mutations reach the checks behind it.
      if (file.size() > 8 && below(2) == 0) {
        const std::size_t end = file.rfind('}');
        if (end != std::string::npos && end > 8) file.replace(0, 8, u64((end + 1 - 8 + 7) / 8 * 8));
      }
    }
    ASSERT_NO_FATAL_FAILURE(expect_tiled(file)) << "round " << round;
    accepted += refusal(file) == "accepted" ? 1 : 0;
  }
  // Some mutations (of names, of padding) leave a valid file: the walk does reach the last check.
  EXPECT_GT(accepted, 20);
  EXPECT_LT(accepted, 10'000);
}

TEST_F(SafetensorsFiles, AFileCutAnywhereIsRefused) {
  const std::vector<float> v(8, 1.0f);
  write_safetensors(dir_ / "w", {view_of("a", {4}, std::span(v).first(4)), view_of("b", {8}, v)});
  const std::string valid = read_file_bytes(dir_ / "w");
  for (std::size_t n = 0; n < valid.size(); ++n) EXPECT_NE(refusal(valid.substr(0, n)), "accepted") << n;
  EXPECT_EQ(refusal(valid), "accepted");
}

}  // namespace
}  // namespace lockstep
