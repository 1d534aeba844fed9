// Sets of files beyond memory: their order, what is read of them mapped or not, and files that shrink.

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <set>
#include <thread>

#include "data/epoch_order.h"
#include "data/guarded_map.h"
#include "data/loader.h"
#include "data/normalized_field.h"
#include "data/readers/idx.h"
#include "data/readers/idx_shards.h"
#include "data/readers/shard_names.h"
#include "data/shard_order.h"
#include "data/test_support.h"

namespace lockstep {
namespace {

using test::error_of;
using test::idx_bytes;
using test::put_file;
using test::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<std::int64_t> order_of(const EpochOrder& order, std::int64_t epoch) {
  const EpochOrder::Epoch e = order.epoch(epoch);
  std::vector<std::int64_t> samples;
  for (std::int64_t i = 0; i < order.samples(); ++i) samples.push_back(e.sample(i));
  return samples;
}

TEST(ShardOrder, HasEverySampleOnceInEveryEpochForAnyFilesAndWindow) {
  std::uint64_t state = 1;
  const auto below = [&](std::int64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::int64_t>(state >> 33) % n;
  };
  for (int round = 0; round < 200; ++round) {
    ShardWindows shards;
    for (std::int64_t i = 1 + below(12); i > 0; --i) shards.sizes.push_back(1 + below(30));
    shards.window = 1 + below(14);
    const EpochOrder order(shards, 8, 4, 7);
    std::set<std::vector<std::int64_t>> different;
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<std::int64_t> samples = order_of(order, epoch);
      different.insert(samples);
      // Another object, as after a resume, and asked from the middle on.
      const EpochOrder resumed(shards, 8, 4, 7);
      const EpochOrder::Epoch again = resumed.epoch(epoch);
      for (std::int64_t i = order.samples() / 2; i < order.samples(); ++i)
        EXPECT_EQ(again.sample(i), samples[static_cast<std::size_t>(i)]);
      std::sort(samples.begin(), samples.end());
      for (std::size_t i = 0; i < samples.size(); ++i) ASSERT_EQ(samples[i], static_cast<std::int64_t>(i));
    }
    if (order.samples() > 10) {
      EXPECT_EQ(different.size(), 3u);
    }
  }
}

TEST(ShardOrder, ReadsTheFilesOfOneWindowAtATimeAndMixesThem) {
  const ShardWindows shards{std::vector<std::int64_t>(12, 50), 3};
  const EpochOrder order(shards, 10, 2, 3);
  const std::vector<std::int64_t> samples = order_of(order, 0);
  std::set<std::int64_t> seen;
  for (std::size_t window = 0; window < 4; ++window) {
    std::set<std::int64_t> files, early;
    for (std::size_t i = 0; i < 150; ++i) {
      files.insert(samples[window * 150 + i] / 50);
      if (i < 50) early.insert(samples[window * 150 + i] / 50);
    }
    EXPECT_EQ(files.size(), 3u);
    EXPECT_EQ(early, files) << "the samples of a window are not mixed";
    seen.insert(files.begin(), files.end());
  }
  EXPECT_EQ(seen.size(), 12u);
  EXPECT_NE(samples, order_of(EpochOrder(shards, 10, 2, 4), 0)) << "the seed does not enter";
  EXPECT_NE(samples, order_of(EpochOrder({shards.sizes, 4}, 10, 2, 3), 0)) << "the window does not enter";
}

/// `files` files of samples as they stand in one file, cut at unequal places; and that one file.
class Files {
 public:
  Files(std::uint8_t type, std::vector<std::uint32_t> sample, std::size_t element, bool targets = false)
      : sample_(std::move(sample)), type_(type) {
    std::size_t bytes = element;
    for (const std::uint32_t extent : sample_) bytes *= extent;
    std::string all, answers;
    std::uint32_t total = 0;
    for (std::size_t f = 0; f < 5; ++f) {
      const auto samples = static_cast<std::uint32_t>(3 + 2 * f);
      std::string values, labels;
      for (std::size_t i = 0; i < samples * bytes; ++i)
        values += static_cast<char>(element == 4 && i % 4 == 0 ? 0x3f : (i * 37 + f * 11) % 120);
      for (std::uint32_t i = 0; i < samples; ++i) {
        if (targets)
          labels += std::string("\x40\x49\x0f", 3) + static_cast<char>(total + i);
        else
          labels += static_cast<char>((total + i) % 4);
      }
      put(std::to_string(f), samples, values, labels, targets);
      all += values;
      answers += labels;
      total += samples;
    }
    put("whole", total, all, answers, targets);
  }
  OpenedShards open(FileAccess access, LabelUse use = LabelUse::classes,
                    AxisOrder order = AxisOrder::unsaid) const {
    return open_idx_shards(folder / "part-?-images-idx3", "data.train", "", "data.train_labels", use,
                           {std::nullopt, order, std::nullopt}, access, 1);
  }
  MemoryContent whole(LabelUse use = LabelUse::classes, AxisOrder order = AxisOrder::unsaid) const {
    return load_idx(folder / "part-whole-images-idx3", "data.train", "", "", use,
                    {std::nullopt, order, std::nullopt});
  }
  TempDir folder;

 private:
  void put(const std::string& name, std::uint32_t samples, const std::string& values,
           const std::string& labels, bool targets) {
    std::vector<std::uint32_t> dims{samples};
    dims.insert(dims.end(), sample_.begin(), sample_.end());
    put_file(folder / ("part-" + name + "-images-idx3"), idx_bytes(type_, dims, values));
    put_file(folder / ("part-" + name + "-labels-idx1"), idx_bytes(targets ? 0x0d : 0x08, {samples}, labels));
  }
  std::vector<std::uint32_t> sample_;
  std::uint8_t type_;
};

void expect_same(const Dataset& a, const Dataset& b) {
  ASSERT_EQ(a.size(), b.size());
  ASSERT_EQ(a.fields().size(), b.fields().size());
  for (std::size_t f = 0; f < a.fields().size(); ++f) {
    EXPECT_EQ(a.fields()[f].name, b.fields()[f].name);
    EXPECT_EQ(a.fields()[f].type, b.fields()[f].type);
    EXPECT_EQ(a.fields()[f].shape, b.fields()[f].shape);
    std::vector<std::byte> x(a.fields()[f].bytes()), y(x.size());
    for (std::int64_t i = 0; i < a.size(); ++i) {
      a.read(f, i, x);
      b.read(f, i, y);
      EXPECT_EQ(x, y) << a.fields()[f].name << " of sample " << i;
      const auto view = a.view(f, i);
      if (!view.empty()) {
        EXPECT_TRUE(std::equal(view.begin(), view.end(), y.begin(), y.end()));
      }
    }
  }
}

TEST(IdxShards, GiveWhatOneFileOfAllTheirSamplesGives) {
  for (const FileAccess access : {FileAccess::map, FileAccess::read}) {
    const Files grey(0x08, {6, 5}, 1);
    const OpenedShards opened = grey.open(access);
    expect_same(*opened.data, MemoryDataset(grey.whole()));
    EXPECT_EQ(opened.data->shards().size(), 5u);
    EXPECT_EQ(opened.content.labels, grey.whole().labels);
    EXPECT_EQ(opened.data->view(0, 0).empty(), access == FileAccess::read);
    EXPECT_EQ(opened.data->where(9), "'" + (grey.folder / "part-2-images-idx3") + "' sample 1");

    const Files colour(0x08, {4, 3, 3}, 1);
    expect_same(*colour.open(access, LabelUse::classes, AxisOrder::channels_last).data,
                MemoryDataset(colour.whole(LabelUse::classes, AxisOrder::channels_last)));
    const Files floats(0x0d, {7}, 4, true);
    expect_same(*floats.open(access, LabelUse::targets).data, MemoryDataset(floats.whole(LabelUse::targets)));
    const Files shorts(0x0b, {8, 9}, 2);
    expect_same(*shorts.open(access).data, MemoryDataset(shorts.whole()));
  }
}

TEST(IdxShards, AreNormalisedAsOneFileIs) {
  const Files files(0x08, {3, 6, 5}, 1);
  const MemoryDataset whole(files.whole());
  const Normalizer expected = Normalizer::fit("standard", whole);
  for (const FileAccess access : {FileAccess::map, FileAccess::read}) {
    const OpenedShards opened = files.open(access);
    EXPECT_EQ(Normalizer::fit("standard", *opened.data), expected);
    for (const Augmentation& moved : {Augmentation{}, Augmentation{true, 2, 5}}) {
      const NormalizedField a(*opened.data, expected, moved), b(whole, expected, moved);
      std::vector<std::byte> scratch(a.scratch_bytes() + b.scratch_bytes()), x(a.field().bytes()), y(x);
      for (std::int64_t i = 0; i < whole.size(); ++i) {
        a.read({i, 1}, scratch, x);
        b.read({i, 1}, scratch, y);
        EXPECT_EQ(x, y) << i;
      }
    }
  }
}

TEST(IdxShards, AreKnownAgainBySizesHeadersAndBlocks) {
  const Files files(0x08, {6, 5}, 1);
  const std::string before = files.open(FileAccess::map).content.identity;
  EXPECT_EQ(files.open(FileAccess::read).content.identity, before);
  std::string bytes = test::read_file_bytes(files.folder / "part-3-images-idx3");
  bytes.back() = static_cast<char>(bytes.back() + 1);
  put_file(files.folder / "part-3-images-idx3", bytes);
  EXPECT_NE(files.open(FileAccess::map).content.identity, before);
}

TEST(IdxShards, WhatDoesNotBelongTogetherIsNamed) {
  const auto refusal = [](const Files& files) { return error_of([&] { files.open(FileAccess::map); }); };
  {
    const Files files(0x08, {6, 5}, 1);
    put_file(files.folder / "part-3-images-idx3", idx_bytes(8, {9, 5, 6}, std::string(270, 'a')));
    EXPECT_THAT(refusal(files), AllOf(HasSubstr("part-3-images-idx3"), HasSubstr("9x5x6 u8"),
                                      HasSubstr("one shape and type")));
  }
  {
    const Files files(0x08, {6, 5}, 1);
    put_file(files.folder / "part-2-labels-idx1", idx_bytes(8, {6}, std::string(6, '\0')));
    EXPECT_THAT(refusal(files), AllOf(HasSubstr("part-2-labels-idx1"), HasSubstr("do not belong together")));
    std::filesystem::remove(files.folder / "part-2-labels-idx1");
    EXPECT_THAT(refusal(files), AllOf(HasSubstr("part-2-labels-idx1"), HasSubstr("data.train_labels")));
  }
  {
    const Files files(0x08, {6, 5}, 1);
    const std::string path = files.folder / "part-1-images-idx3";
    const std::string bytes = test::read_file_bytes(path);
    put_file(path, bytes.substr(0, bytes.size() - 1));
    EXPECT_THAT(refusal(files), AllOf(HasSubstr("part-1-images-idx3"), HasSubstr("cut short")));
    put_file(path, bytes + "x");
    EXPECT_THAT(refusal(files), AllOf(HasSubstr("part-1-images-idx3"), HasSubstr("goes on after")));
    put_file(path, test::gzip_bytes(bytes));
    EXPECT_THAT(refusal(files), AllOf(HasSubstr("part-1-images-idx3"), HasSubstr("unpack it")));
  }
  {
    const Files files(0x0d, {7}, 4);
    std::string bytes = test::read_file_bytes(files.folder / "part-4-images-idx3");
    bytes.replace(bytes.size() - 4, 4, std::string("\x7f\xc0\0\0", 4));
    put_file(files.folder / "part-4-images-idx3", bytes);
    const OpenedShards opened = files.open(FileAccess::map);
    std::vector<std::byte> out(28);
    EXPECT_THAT(error_of([&] { opened.data->read(0, opened.data->size() - 1, out); }),
                AllOf(HasSubstr("part-4-images-idx3' sample 10"), HasSubstr("NaN")));
  }
}

TEST(ShardNames, PatternsAndListsAreFilesInTheOrderOfTheirBytes) {
  const TempDir folder;
  for (const char* name : {"b-2", "b-10", "a,b", "c"}) put_file(folder / name, "x");
  EXPECT_FALSE(names_shards(folder / "a,b")) << "a file of just this name";
  EXPECT_FALSE(names_shards(folder / "none"));
  EXPECT_TRUE(names_shards(folder / "b-*"));
  const std::vector<std::string> expected{folder / "c", folder / "b-10", folder / "b-2"};
  EXPECT_EQ(shard_names((folder / "c") + ", " + (folder / "b-*"), "data.train"), expected);
  EXPECT_THAT(error_of([&] { shard_names(folder / "x*", "data.train"); }),
              AllOf(HasSubstr("data.train"), HasSubstr("no file matches")));
  EXPECT_THAT(error_of([&] { shard_names((folder / "c") + "," + (folder / "?"), "data.train"); }),
              HasSubstr("named twice"));
  EXPECT_THAT(error_of([&] { shard_names("a,,b", "data.train"); }), HasSubstr("part without a name"));
}

/// Loads batches until an error comes.
std::string error_of_loading(const OpenedShards& opened, int workers, std::int64_t batches) {
  std::vector<Field> wanted(opened.data->fields().begin(), opened.data->fields().end());
  LoaderOptions options;
  options.data = opened.data;
  options.fields = batch_fields(wanted, *opened.data, Normalizer()).readers;
  options.mine = Node{0, 1};
  options.workers = workers;
  const auto sizes = opened.data->shards();
  const EpochOrder order(ShardWindows{{sizes.begin(), sizes.end()}, 2}, 4, 1, 1);
  return error_of([&] {
    Loader loader(order, options);
    for (std::int64_t b = 0; b < batches; ++b) loader.next();
  });
}

TEST(IdxShards, AFileThatShrinksEndsTheLoadingWithItsName) {
  for (const FileAccess access : {FileAccess::map, FileAccess::read}) {
    for (const int workers : {0, 1, 3}) {
      // Samples of 16 KiB: whole pages are lost. And samples within the last page, which a map still shows.
      for (const std::uint32_t side : {128u, 4u}) {
        const Files files(0x08, {side, side}, 1);
        const OpenedShards opened = files.open(access);
        EXPECT_EQ(error_of_loading(opened, workers, 20), "");
        const std::string path = files.folder / "part-3-images-idx3";
        std::filesystem::resize_file(path, std::filesystem::file_size(path) - side * side / 2);
        EXPECT_THAT(error_of_loading(opened, workers, 20),
                    AllOf(HasSubstr("part-3-images-idx3"), HasSubstr("cut short")))
            << workers << " workers, side " << side;
      }
    }
  }
}

TEST(GuardedMap, LostPagesAreZerosAndToldOf) {
  const TempDir folder;
  put_file(folder / "file", std::string(10 * 4096 + 100, 'a'));
  const FileDescriptor fd(::open((folder / "file").c_str(), O_RDONLY));
  GuardedMap map(fd.get(), 10 * 4096 + 100, folder / "file");
  std::filesystem::resize_file(folder / "file", 2 * 4096);
  const auto at = [&](std::size_t i) { return std::to_integer<int>(map.bytes()[i]); };
  EXPECT_EQ(at(0), 'a');
  EXPECT_FALSE(map.lost());
  EXPECT_EQ(at(10 * 4096 + 99), 0);
  EXPECT_TRUE(map.lost());
  EXPECT_EQ(at(3 * 4096), 0);
  EXPECT_EQ(at(4096), 'a');
  GuardedMap moved(std::move(map));
  EXPECT_TRUE(moved.lost());
  EXPECT_FALSE(map.lost());  // NOLINT(bugprone-use-after-move): it holds nothing
}

}  // namespace
}  // namespace lockstep
