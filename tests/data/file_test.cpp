#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>
#include <sys/stat.h>

#include "data/readers/describe.h"
#include "data/readers/gzip.h"
#include "data/readers/idx.h"
#include "data/readers/idx_answers.h"
#include "data/test_support.h"

namespace lockstep {
namespace {

using test::counting_bytes;
using test::error_of;
using test::gzip_bytes;
using test::idx_bytes;
using test::put_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string content_of(const std::string& path) {
  InputFile file(path, "data.train");
  return read_all(file, 1 << 24);
}

TEST(DataGzip, ReadsPlainAndGzipAndConcatenatedMembers) {
  const test::TempDir dir;
  const std::string text = counting_bytes(700'000);  // several chunks
  put_file(dir / "plain", text);
  put_file(dir / "packed", gzip_bytes(text));
  put_file(dir / "members",
           gzip_bytes(text.substr(0, 1000)) + gzip_bytes("") + gzip_bytes(text.substr(1000)));
  EXPECT_EQ(content_of(dir / "plain"), text);
  EXPECT_EQ(content_of(dir / "packed"), text);
  EXPECT_EQ(content_of(dir / "members"), text);
}

TEST(DataGzip, EveryPrefixOfAGzipFileIsRefused) {
  const test::TempDir dir;
  const std::string packed = gzip_bytes(counting_bytes(600));
  for (std::size_t n = 2; n < packed.size(); ++n) {
    put_file(dir / "cut.gz", packed.substr(0, n));
    const std::string error = error_of([&] { content_of(dir / "cut.gz"); });
    EXPECT_THAT(error, AllOf(HasSubstr("cut.gz' (data.train) is cut short: gzip stream ends after"),
                             HasSubstr(std::to_string(n) + " bytes")));
  }
}

TEST(DataGzip, ChecksumLengthAndTrailingBytesAreChecked) {
  const test::TempDir dir;
  const std::string packed = gzip_bytes(counting_bytes(600));
  std::string crc = packed;
  crc[crc.size() - 8] ^= 1;
  std::string length = packed;
  length[length.size() - 1] ^= 1;
  put_file(dir / "crc.gz", crc);
  put_file(dir / "length.gz", length);
  put_file(dir / "tail.gz", packed + "tail");
  put_file(dir / "zeros.gz", packed + std::string(8, '\0'));
  EXPECT_THAT(error_of([&] { content_of(dir / "crc.gz"); }), HasSubstr("incorrect data check"));
  EXPECT_THAT(error_of([&] { content_of(dir / "length.gz"); }), HasSubstr("incorrect length check"));
  EXPECT_THAT(error_of([&] { content_of(dir / "tail.gz"); }),
              HasSubstr("goes on after the end of its gzip stream at byte " + std::to_string(packed.size())));
  EXPECT_NE(error_of([&] { content_of(dir / "zeros.gz"); }), "");
}

TEST(DataGzip, SaysWhyAFileCannotBeOpened) {
  const test::TempDir dir;
  put_file(dir / "empty", "");
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { content_of(dir / "missing"); }),
              AllOf(HasSubstr("missing' (data.train)"), HasSubstr("No such file")));
  EXPECT_THAT(error_of([&] { content_of(dir.path()); }), HasSubstr("is a directory"));
  EXPECT_THAT(error_of([&] { content_of(dir / "empty"); }), HasSubstr("is empty"));
  EXPECT_THAT(error_of([&] { content_of(dir / "pipe"); }), HasSubstr("is not a regular file"));
}

TEST(DataGzip, TextBeyondALimitIsRefusedBeforeItIsHeld) {
  const test::TempDir dir;
  put_file(dir / "bomb.gz", gzip_bytes(std::string(8'000'000, 'x')));
  InputFile file(dir / "bomb.gz", "data.train");
  EXPECT_THAT(error_of([&] { read_all(file, 1'000'000); }),
              HasSubstr("more than 1000000 bytes once unpacked"));
}

TEST(DataIdx, ReadsEveryTypeInItsByteOrder) {
  const test::TempDir dir;
  const auto value_of = [&](std::uint8_t type, const std::string& bytes) {
    put_file(dir / "x", idx_bytes(type, {1}, bytes));
    return read_idx(dir / "x", "").value(0);
  };
  using namespace std::string_literals;
  EXPECT_EQ(value_of(0x08, "\xff"s), 255.0);
  EXPECT_EQ(value_of(0x09, "\xff"s), -1.0);
  EXPECT_EQ(value_of(0x0B, "\xff\xfe"s), -2.0);
  EXPECT_EQ(value_of(0x0C, "\x01\x02\x03\x04"s), 0x01020304);
  EXPECT_EQ(value_of(0x0D, "\xc0\x20\x00\x00"s), -2.5);
  EXPECT_EQ(value_of(0x0E, "\xc0\x04\x00\x00\x00\x00\x00\x00"s), -2.5);
}

TEST(DataIdx, EveryPrefixAndEveryLongerFileIsRefused) {
  const test::TempDir dir;
  const std::string whole = idx_bytes(0x08, {3, 2, 2}, counting_bytes(12));
  for (std::size_t n = 0; n < whole.size(); ++n) {
    for (const bool packed : {false, true}) {
      const std::string bytes = whole.substr(0, n);
      put_file(dir / "cut", packed ? gzip_bytes(bytes) : bytes);
      const std::string error = error_of([&] { read_idx(dir / "cut", "data.train"); });
      EXPECT_THAT(error, HasSubstr("cut' (data.train)")) << n;
      EXPECT_THAT(error, ::testing::AnyOf(HasSubstr("cut short"), HasSubstr("is empty"))) << n;
    }
  }
  put_file(dir / "whole", whole);
  EXPECT_EQ(read_idx(dir / "whole", "").data.size(), 12u);
  put_file(dir / "long", whole + "x");
  EXPECT_THAT(error_of([&] { read_idx(dir / "long", ""); }), HasSubstr("goes on after the 12 bytes"));
  put_file(dir / "long.gz", gzip_bytes(whole + "x"));
  EXPECT_THAT(error_of([&] { read_idx(dir / "long.gz", ""); }), HasSubstr("goes on after the 12 bytes"));
}

TEST(DataIdx, AGzippedFileCutAnywhereIsRefused) {
  const test::TempDir dir;
  const std::string packed = gzip_bytes(idx_bytes(0x08, {30, 4, 4}, counting_bytes(480)));
  for (std::size_t n = 1; n < packed.size(); ++n) {
    put_file(dir / "cut.gz", packed.substr(0, n));
    EXPECT_NE(error_of([&] { read_idx(dir / "cut.gz", ""); }), "") << n;
  }
}

TEST(DataIdx, HeadersThatLieCostNothing) {
  const test::TempDir dir;
  const auto refused = [&](const std::string& bytes) {
    put_file(dir / "lie", bytes);
    return error_of([&] { read_idx(dir / "lie", ""); });
  };
  const std::uint32_t huge = 0xffffffff;
  EXPECT_THAT(refused(idx_bytes(0x08, {huge, huge, huge, huge}, "abc")), HasSubstr("promises"));
  EXPECT_THAT(refused(idx_bytes(0x0E, {1u << 31, 1u << 31}, "abc")),
              HasSubstr("promises"));  // wraps to 0 in 64 bits
  EXPECT_THAT(refused(idx_bytes(0x08, {huge}, "abc")), HasSubstr("promises 4294967295 u8"));
  EXPECT_THAT(refused(gzip_bytes(idx_bytes(0x08, {huge, 100}, "abc"))), HasSubstr("at most"));
  EXPECT_THAT(refused(idx_bytes(0x08, {0, 28, 28}, "")), HasSubstr("no samples"));
  EXPECT_THAT(refused(idx_bytes(0x08, {3, 0}, "")), HasSubstr("extent of 0"));
  EXPECT_THAT(refused(idx_bytes(0x08, {}, "")), HasSubstr("0 dimensions"));
  EXPECT_THAT(refused(idx_bytes(0x08, std::vector<std::uint32_t>(9, 1), "x")), HasSubstr("9 dimensions"));
  EXPECT_THAT(refused(idx_bytes(0x0A, {1}, "x")), HasSubstr("type code is 0x0a"));
  // A small file that unpacks to far more than its header says is not unpacked further than that.
  EXPECT_THAT(refused(gzip_bytes(idx_bytes(0x08, {4}, std::string(8'000'000, 'x')))),
              HasSubstr("goes on after the 4 bytes"));
}

TEST(DataIdx, SaysWhatAnotherFileLooksLike) {
  const test::TempDir dir;
  const auto looks = [&](const std::string& bytes) {
    put_file(dir / "other", bytes);
    return error_of([&] { read_idx(dir / "other", ""); });
  };
  EXPECT_THAT(looks("label,a,b\n1,2,3\n"),
              AllOf(HasSubstr("looks like a CSV file"), HasSubstr("data.format = csv")));
  EXPECT_THAT(looks("\x89PNG\r\n\x1a\n"), HasSubstr("a PNG image"));
  EXPECT_THAT(looks("\x93NUMPY"), HasSubstr("a NumPy array"));
  EXPECT_THAT(looks(gzip_bytes(gzip_bytes("abcdef"))), HasSubstr("gzip data"));
  EXPECT_THAT(looks("<!DOCTYPE html>\n<html>"), HasSubstr("an HTML or XML page"));
  EXPECT_THAT(looks(std::string("\x03\x08\0\0\0", 5)), HasSubstr("little-endian"));
}

TEST(DataIdx, ShapesOfSamples) {
  const test::TempDir dir;
  const auto shape_of = [&](const std::vector<std::uint32_t>& dims, std::size_t bytes,
                            const std::optional<Shape>& wanted = {}) {
    put_file(dir / "images", idx_bytes(0x08, dims, counting_bytes(bytes)));
    return load_idx(dir / "images", "data.train", "", "", LabelUse::none, {wanted, AxisOrder::unsaid, {}})
        .sample_shape;
  };
  EXPECT_EQ(shape_of({2, 3, 4}, 24), (Shape{1, 3, 4}));
  EXPECT_EQ(shape_of({2, 3, 2, 2}, 24), (Shape{3, 2, 2}));
  EXPECT_EQ(shape_of({2, 12}, 24), (Shape{12}));
  EXPECT_EQ(shape_of({24}, 24), (Shape{1}));
  EXPECT_EQ(shape_of({2, 12}, 24, Shape{3, 2, 2}), (Shape{3, 2, 2}));
  EXPECT_THAT(error_of([&] {
                shape_of({2, 12}, 24, Shape{3, 2, 3});
              }),
              AllOf(HasSubstr("3x2x3"), HasSubstr("are 12")));
  EXPECT_THAT(error_of([&] { shape_of({2, 1, 1, 2, 6}, 24); }), HasSubstr("4 dimensions"));
}

TEST(DataIdx, LabelsBelongToTheirImages) {
  const test::TempDir dir;
  const std::string images = dir / "train-images-idx3-ubyte.gz";
  put_file(images, gzip_bytes(idx_bytes(0x08, {3, 1, 2}, counting_bytes(6))));
  const auto load = [&](LabelUse use = LabelUse::classes) {
    return load_idx(images, "data.train", "", "data.train_labels", use, {});
  };
  EXPECT_THAT(error_of([&] { load(); }),
              AllOf(HasSubstr("train-images-idx3-ubyte.gz"), HasSubstr("train-labels-idx1-ubyte.gz"),
                    HasSubstr("data.train_labels")));
  // An unpacked labels file serves packed images.
  put_file(dir / "train-labels-idx1-ubyte", idx_bytes(0x08, {3}, std::string("\x02\x00\x01", 3)));
  EXPECT_EQ(load().labels, (std::vector<std::int32_t>{2, 0, 1}));
  const MemoryContent targets = load(LabelUse::targets);
  EXPECT_EQ(targets.targets, (std::vector<float>{2, 0, 1}));
  EXPECT_EQ(targets.target_width, 1);

  put_file(dir / "train-labels-idx1-ubyte.gz", idx_bytes(0x08, {2}, std::string("\x02\x00", 2)));
  EXPECT_THAT(error_of([&] { load(); }),
              AllOf(HasSubstr("train-images-idx3-ubyte.gz' (data.train) holds 3 samples"),
                    HasSubstr("holds 2 labels")));
  put_file(dir / "train-labels-idx1-ubyte.gz", idx_bytes(0x08, {3, 1}, "abc"));
  EXPECT_THAT(error_of([&] { load(); }), HasSubstr("one dimension"));
  put_file(dir / "train-labels-idx1-ubyte.gz", idx_bytes(0x09, {3}, std::string("\x00\xff\x00", 3)));
  EXPECT_THAT(error_of([&] { load(); }), HasSubstr("label of sample 1 is -1"));
  // 1.5 and twice 1 as big-endian float32.
  put_file(dir / "train-labels-idx1-ubyte.gz",
           idx_bytes(0x0D, {3}, std::string("\x3f\x80\0\0\x3f\xc0\0\0\x3f\x80\0\0", 12)));
  EXPECT_THAT(error_of([&] { load(); }),
              AllOf(HasSubstr("label of sample 1 is 1.5"), HasSubstr("as the other 2 are"),
                    HasSubstr("loss.name = mse")));
  put_file(dir / "train-labels-idx1-ubyte.gz",
           idx_bytes(0x0D, {3}, std::string("\x3f\x80\0\0\0\0\0\0\x40\0\0\0", 12)));
  EXPECT_EQ(load().labels, (std::vector<std::int32_t>{1, 0, 2}));
}

TEST(DataIdx, DefaultLabelsByName) {
  EXPECT_EQ(default_labels_path("/d/train-images-idx3-ubyte.gz"), "/d/train-labels-idx1-ubyte.gz");
  EXPECT_EQ(default_labels_path("images-idx3/t10k-images.idx3-ubyte"), "images-idx3/t10k-labels.idx1-ubyte");
  EXPECT_EQ(default_labels_path("images-idx3/data"), "");
  EXPECT_THAT(
      error_of([] { load_idx("none", "data.train", "", "data.train_labels", LabelUse::classes, {}); }),
      HasSubstr("none"));
}

TEST(DataIdx, NotFiniteValuesAreNamed) {
  const test::TempDir dir;
  using namespace std::string_literals;
  put_file(dir / "x", idx_bytes(0x0D, {2, 2}, "\0\0\0\0\0\0\0\0\0\0\0\0\x7f\xc0\0\0"s));
  EXPECT_THAT(error_of([&] { load_idx(dir / "x", "", "", "", LabelUse::none, {}); }),
              AllOf(HasSubstr("sample 1"), HasSubstr("value number 1 is NaN")));
  put_file(dir / "x", idx_bytes(0x0E, {1, 1}, "\x7f\x00\0\0\0\0\0\0"s));  // finite, beyond float32
  EXPECT_THAT(error_of([&] { load_idx(dir / "x", "", "", "", LabelUse::none, {}); }), HasSubstr("infinite"));
}

TEST(DataIdx, MutatedFilesNeverDoMoreThanThrow) {
  const test::TempDir dir;
  std::mt19937 random(20240607);
  const std::string plain = idx_bytes(0x08, {5, 3, 3}, counting_bytes(45));
  const std::string packed = gzip_bytes(plain);
  int accepted = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bytes = i % 2 == 0 ? plain : packed;
    const int changes = 1 + static_cast<int>(random() % 4);
    for (int c = 0; c < changes; ++c) {
      const std::size_t at =
          random() % (random() % 2 == 0 ? std::min<std::size_t>(bytes.size(), 16) : bytes.size());
      bytes[at] = static_cast<char>(random() % 4 == 0 ? 0xff : random());
    }
    if (random() % 8 == 0) bytes.resize(random() % (bytes.size() + 1));
    put_file(dir / "m", bytes);
    const std::string error = error_of([&] {
      const IdxArray array = read_idx(dir / "m", "");
      ASSERT_LE(array.data.size(), 45u);
    });
    accepted += error.empty() ? 1 : 0;
    EXPECT_THAT(error, ::testing::Not(HasSubstr("not an input error"))) << i;
  }
  EXPECT_GT(accepted, 100);  // mutated pixels are still pixels
}

TEST(DataDescribe, SaysWhatAFileHolds) {
  const test::TempDir dir;
  put_file(dir / "labels.gz", gzip_bytes(idx_bytes(0x08, {3}, std::string("\x02\x00\x02", 3))));
  EXPECT_THAT(
      describe_data_file(dir / "labels.gz"),
      AllOf(HasSubstr("IDX, 3 u8"), HasSubstr("gzip"), HasSubstr("2: 2 times"), HasSubstr("values 0 to 2")));
  put_file(dir / "a.csv", "a,b\n1,x\n2,y\n");
  EXPECT_THAT(describe_data_file(dir / "a.csv"),
              AllOf(HasSubstr("2 lines of data"), HasSubstr("0: 'a', numbers"),
                    HasSubstr("1: 'b', 2 not finite numbers")));
  put_file(dir / "x.png", "\x89PNG\r\n\x1a\n");
  EXPECT_THAT(error_of([&] { describe_data_file(dir / "x.png"); }), HasSubstr("a PNG image"));
}

}  // namespace
}  // namespace lockstep
