#include "core/digest.h"

#include <bit>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <vector>

#include "core/error.h"

namespace lockstep {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// FIPS 180-4's examples and the vector of a million "a".
TEST(Sha256, GivesTheStandardsAnswers) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, DoesNotCareHowTheStreamIsCut) {
  const std::string text(100'003, 'x');
  Sha256 hash;
  for (std::size_t at = 0; at < text.size(); at += 977) hash.update(std::string_view(text).substr(at, 977));
  EXPECT_EQ(hash.hex(), sha256_hex(text));
}

TEST(Sha256, EndsOnce) {
  Sha256 hash;
  hash.update("abc");
  const std::string first = hash.hex();
  EXPECT_EQ(hash.hex(), first);
  EXPECT_THROW(hash.update("d"), InternalError);
}

TEST(Sha256, WritesLengthsInLittleEndian) {
  Sha256 a, b;
  a.update_u64(0x0102030405060708u);
  b.update("\x08\x07\x06\x05\x04\x03\x02\x01");
  EXPECT_EQ(a.hex(), b.hex());
}

class TensorDigestTest : public testing::Test {
 protected:
  std::vector<float> weights{0, 1, 2, 3, 4, 5};
  std::int64_t count = -7;
  std::span<const std::byte> weight_bytes() { return std::as_bytes(std::span(weights)); }

  std::string with(const std::string& name, DType dtype, const Shape& shape) {
    TensorDigest digest;
    digest.add("bn.count", DType::i64, {}, std::as_bytes(std::span(&count, 1)));
    digest.add(name, dtype, shape, weight_bytes());
    return digest.hex();
  }
};

// Both values were computed by a few lines of Python (hashlib, struct) from the format that digest.h states.
TEST_F(TensorDigestTest, FollowsTheStatedFormat) {
  EXPECT_EQ(TensorDigest().hex(), "9f73614af8f9dc8b4c8557f99cf798d8937bf909bad35cd51c2b60ccbde91fcb");
  EXPECT_EQ(with("conv1.weight", DType::f32, {2, 3}),
            "442f5b52bcb84958eced86ed183288de326387c1365a27094a8dd1c778de82f3");
}

TEST_F(TensorDigestTest, DoesNotDependOnTheOrderOfAdding) {
  TensorDigest forwards, backwards;
  for (int i = 0; i < 20; ++i) forwards.add(fmt::format("t{}", i), DType::f32, {6}, weight_bytes());
  for (int i = 20; i-- > 0;) backwards.add(fmt::format("t{}", i), DType::f32, {6}, weight_bytes());
  EXPECT_EQ(forwards.hex(), backwards.hex());
  EXPECT_EQ(forwards.size(), 20u);
}

TEST_F(TensorDigestTest, DependsOnNameTypeShapeAndEveryBit) {
  const std::string base = with("w", DType::f32, {2, 3});
  EXPECT_NE(with("v", DType::f32, {2, 3}), base);
  EXPECT_NE(with("w", DType::i32, {2, 3}), base);
  EXPECT_NE(with("w", DType::f32, {3, 2}), base);
  EXPECT_NE(with("w", DType::f32, {6}), base);
  EXPECT_NE(with("w", DType::f32, {2, 3, 1}), base);
  for (std::size_t element = 0; element < weights.size(); ++element) {
    for (int bit = 0; bit < 32; ++bit) {
      const float kept = weights[element];
      weights[element] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(kept) ^ 1u << bit);
      EXPECT_NE(with("w", DType::f32, {2, 3}), base) << "bit " << bit << " of element " << element;
      weights[element] = kept;
    }
  }
  EXPECT_EQ(with("w", DType::f32, {2, 3}), base);
}

TEST_F(TensorDigestTest, KeepsTheEdgesOfItsPartsApart) {
  const auto one = [](const std::string& name, std::string_view data) {
    TensorDigest digest;
    digest.add(name, DType::u8, {static_cast<std::int64_t>(data.size())}, bytes_of(data));
    return digest.hex();
  };
  EXPECT_NE(one("ab", "c"), one("a", "bc"));
  EXPECT_NE(one("abc", ""), one("", "abc"));
  EXPECT_NE(one("a", std::string_view("\0", 1)), one(std::string("a\0", 2), ""));

  TensorDigest two, joined;
  two.add("a", DType::u8, {1}, bytes_of("x"));
  two.add("b", DType::u8, {1}, bytes_of("y"));
  joined.add("ab", DType::u8, {2}, bytes_of("xy"));
  EXPECT_NE(two.hex(), joined.hex());

  TensorDigest swapped;
  swapped.add("a", DType::u8, {1}, bytes_of("y"));
  swapped.add("b", DType::u8, {1}, bytes_of("x"));
  EXPECT_NE(two.hex(), swapped.hex());
}

TEST_F(TensorDigestTest, TellsAnEmptyTensorFromNone) {
  TensorDigest empty;
  empty.add("w", DType::f32, {0}, {});
  EXPECT_NE(empty.hex(), TensorDigest().hex());
}

TEST_F(TensorDigestTest, RefusesTheSameNameTwiceAndBytesThatDoNotFit) {
  TensorDigest digest;
  digest.add("w", DType::f32, {6}, weight_bytes());
  EXPECT_THROW(digest.add("w", DType::f32, {6}, weight_bytes()), InternalError);
  EXPECT_THROW(digest.add("v", DType::f32, {7}, weight_bytes()), InternalError);
  EXPECT_THROW(digest.add("v", DType::f64, {6}, weight_bytes()), InternalError);
}

}  // namespace
}  // namespace lockstep
