// Weight files made to do harm, or damaged.

#include <algorithm>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>
#include <utility>

#include "model/files/safetensors_support.h"
#include "support/temp_dir.h"

namespace lockstep {
namespace {

using test::file_of;
using test::parse;
using test::read_file_bytes;
using test::refusal;
using test::TempDir;
using test::u64;
using ::testing::AllOf;
using ::testing::HasSubstr;

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
       "1 number instead of 2"},
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

class DamagedSafetensors : public ::testing::Test {
 protected:
  TempDir dir_;
};

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

TEST_F(DamagedSafetensors, MutatedFilesNeverCrashAndAreNeverTakenWithOverlaps) {
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

TEST_F(DamagedSafetensors, AFileCutAnywhereIsRefused) {
  const std::vector<float> v(8, 1.0f);
  write_safetensors(dir_ / "w", {view_of("a", {4}, std::span(v).first(4)), view_of("b", {8}, v)});
  const std::string valid = read_file_bytes(dir_ / "w");
  for (std::size_t n = 0; n < valid.size(); ++n) EXPECT_NE(refusal(valid.substr(0, n)), "accepted") << n;
  EXPECT_EQ(refusal(valid), "accepted");
}

}  // namespace
}  // namespace lockstep
