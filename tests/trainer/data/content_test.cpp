// The digests by which data are known again.

#include "trainer/data/content.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/test_support.h"

namespace lockstep::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

MemoryContent images(std::int64_t samples, std::int64_t elements) {
  MemoryContent read;
  read.file = "/data/a-images-idx3-ubyte";
  read.labels_file = "/data/a-labels-idx1-ubyte";
  read.samples = samples;
  read.sample_shape = Shape{elements};
  read.bytes.resize(static_cast<std::size_t>(samples * elements));
  for (std::size_t i = 0; i < read.bytes.size(); ++i) read.bytes[i] = static_cast<std::uint8_t>(i % 251);
  read.labels.assign(static_cast<std::size_t>(samples), 1);
  read.image_file_bytes = read.bytes.size();
  return read;
}

TEST(DataContent, EveryValueCountsAndNoNameDoes) {
  MemoryContent read = images(50, 40);
  const DataContent was = content_of("data.train", read, 1);
  EXPECT_TRUE(was.whole);
  EXPECT_EQ(was.name, "a-images-idx3-ubyte");
  read.file = "/elsewhere/b";
  read.labels_file = "/elsewhere/c";
  EXPECT_THAT(differences({was}, {content_of("data.train", read, 9)}), IsEmpty());
  for (const std::size_t at : {std::size_t{0}, std::size_t{777}, read.bytes.size() - 1}) {
    read.bytes[at] ^= 1;
    EXPECT_THAT(differences({was}, {content_of("data.train", read, 1)}),
                ElementsAre(HasSubstr("data.train: the inputs in 'b' are others")));
    read.bytes[at] ^= 1;
  }
  read.labels[49] = 0;
  EXPECT_THAT(differences({was}, {content_of("data.train", read, 1)}),
              ElementsAre(HasSubstr("the labels or targets in 'c' are others")));
}

TEST(DataContent, BytesAndFloatsOfOneValueAreTwoThings) {
  MemoryContent read = images(4, 3);
  const DataContent bytes = content_of("data.train", read, 1);
  read.floats.assign(read.bytes.begin(), read.bytes.end());
  read.bytes.clear();
  EXPECT_THAT(differences({bytes}, {content_of("data.train", read, 1)}), ElementsAre(HasSubstr("inputs")));
}

TEST(DataContent, ALargeImageFileIsKnownByItsSizeAndByBlocksOfTheSeed) {
  constexpr std::int64_t block = 65536;
  MemoryContent read = images(4000, block);  // 4,000 blocks, of which 1,024 are looked at
  const DataContent was = content_of("data.train", read, 5, 1000);
  EXPECT_FALSE(was.whole);
  EXPECT_EQ(was, content_of("data.train", read, 5, 1000));
  EXPECT_NE(was.inputs, content_of("data.train", read, 6, 1000).inputs);
  int seen = 0;
  const int tried = 12;
  for (int i = 0; i < tried; ++i) {
    const auto at = static_cast<std::size_t>((i * 331 + 7) * block + i);
    read.bytes[at] ^= 1;
    seen += content_of("data.train", read, 5, 1000).inputs != was.inputs ? 1 : 0;
    read.bytes[at] ^= 1;
  }
  EXPECT_GT(seen, 0);  // 3 are expected
  EXPECT_LT(seen, 9);
  // The ends always count, and so does every label.
  for (const std::size_t at : {std::size_t{0}, read.bytes.size() - 1}) {
    read.bytes[at] ^= 1;
    EXPECT_NE(content_of("data.train", read, 5, 1000).inputs, was.inputs);
    read.bytes[at] ^= 1;
  }
  read.labels[1234] = 0;
  EXPECT_THAT(differences({was}, {content_of("data.train", read, 5, 1000)}),
              ElementsAre(HasSubstr("labels")));
  // Tables are digested whole, whatever their size.
  read.image_file_bytes = 0;
  EXPECT_TRUE(content_of("data.train", read, 5, 1000).whole);
}

TEST(DataContent, ARecordComesBackAsItWasAndNonsenseIsRefused) {
  const DataContent content = content_of("data.train", images(5, 4), 1);
  const DataRecord record{{content}, {{7, {"data.train: …"}, {content}}}};
  const DataRecord back = DataRecord::from_json(record.to_json(), "data.json");
  EXPECT_EQ(back.files, record.files);
  ASSERT_EQ(back.changes.size(), 1u);
  EXPECT_EQ(back.changes[0].step, 7);
  EXPECT_EQ(back.changes[0].files, record.files);
  const std::string good = record.to_json();
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  for (const std::string& bad :
       {std::string(), std::string("[]"), std::string("{}"), good.substr(0, good.size() / 2),
        with("\"samples\": 5", "\"samples\": 5.5"), with("\"samples\": 5", "\"samples\": 1e300"),
        with("\"samples\": 5", "\"samples\": -5"),
        with("\"samples\": 5", "\"samples\": 18446744073709551615"), with(content.inputs, "xyz"),
        with("\"whole\": true", "\"whole\": 1"), with("\"step\": 7", "\"step\": null")})
    EXPECT_THAT(error_of([&] { DataRecord::from_json(bad, "data.json"); }), HasSubstr("data.json")) << bad;
}

}  // namespace
}  // namespace lockstep::test
