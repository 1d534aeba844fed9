#include "data/loader.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <sys/resource.h>
#include <thread>

#include "data/memory_dataset.h"
#include "data/normalized_field.h"
#include "data/test_support.h"

namespace lockstep {
namespace {

using test::error_of;
using ::testing::HasSubstr;

std::shared_ptr<const Dataset> sample_set(std::int64_t n, bool regression = false) {
  MemoryContent content;
  content.description = "test set";
  content.file = "test set";
  content.samples = n;
  content.sample_shape = Shape{1, 3, 5};
  for (std::int64_t i = 0; i < n * 15; ++i) content.bytes.push_back(static_cast<std::uint8_t>(i * 31 % 256));
  for (std::int64_t i = 0; i < n; ++i) {
    if (regression) {
      content.targets.push_back(static_cast<float>(i));
      content.targets.push_back(static_cast<float>(-i));
    } else {
      content.labels.push_back(static_cast<std::int32_t>(i % 10));
    }
  }
  content.target_width = regression ? 2 : 0;
  return std::make_shared<MemoryDataset>(std::move(content));
}

/// All fields of the set, inputs normalised.
std::vector<std::shared_ptr<const FieldReader>> fields_of(const Dataset& data) {
  std::vector<Field> wanted(data.fields().begin(), data.fields().end());
  wanted[0].type = DType::f32;
  return batch_fields(wanted, data, Normalizer::fit("standard", data)).readers;
}

LoaderOptions options_for(const std::shared_ptr<const Dataset>& data, Node mine, int workers,
                          std::int64_t position = 0) {
  LoaderOptions options;
  options.data = data;
  options.fields = fields_of(*data);
  options.mine = mine;
  options.workers = workers;
  options.position = position;
  return options;
}

template <class T>
void append(std::string& out, std::span<const T> values) {
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

/// All that an executor would see of some batches, as bytes.
std::string bytes_of(Loader& loader, int batches) {
  std::string out;
  for (int i = 0; i < batches; ++i) {
    const LoadedBatch& batch = loader.next();
    const std::int64_t numbers[] = {batch.range.position, batch.range.epoch, batch.range.first,
                                    batch.range.count};
    append(out, std::span<const std::int64_t>(numbers));
    for (const Batch& s : batch.slices) {
      const std::int64_t place[] = {s.slice, s.rows, s.valid};
      append(out, std::span<const std::int64_t>(place));
      append(out, s.samples);
      for (const FieldRows& field : s.fields) append(out, field.data);
    }
  }
  return out;
}

TEST(DataLoader, BitsDoNotDependOnWorkers) {
  for (const bool regression : {false, true}) {
    const auto data = sample_set(101, regression);
    const EpochOrder order(101, 24, 4, 7);
    Loader reference(order, options_for(data, Node{0, 4}, 0));
    const std::string expected = bytes_of(reference, 40);
    for (const int workers : {1, 2, 5}) {
      Loader loader(order, options_for(data, Node{0, 4}, workers));
      EXPECT_EQ(bytes_of(loader, 40), expected) << workers;
    }
  }
}

TEST(DataLoader, RanksTogetherGiveWhatOneRankGives) {
  const auto data = sample_set(50);
  const EpochOrder order(50, 24, 6, 3);
  Loader alone(order, options_for(data, Node{0, 6}, 1));
  Loader left(order, options_for(data, Node{0, 4}, 1));
  Loader right(order, options_for(data, Node{4, 6}, 0));
  Loader nothing(order, options_for(data, Node{6, 6}, 1));  // a rank without slices
  for (int i = 0; i < 10; ++i) {
    const LoadedBatch& whole = alone.next();
    std::vector<Batch> parts;
    for (Loader* loader : {&left, &right, &nothing}) {
      const LoadedBatch& part = loader->next();
      EXPECT_EQ(part.range, whole.range);
      parts.insert(parts.end(), part.slices.begin(), part.slices.end());
    }
    ASSERT_EQ(parts.size(), whole.slices.size());
    for (std::size_t s = 0; s < parts.size(); ++s) {
      EXPECT_EQ(parts[s].slice, whole.slices[s].slice);
      for (const std::size_t f : {0u, 1u})
        EXPECT_TRUE(std::equal(parts[s].field(f).data.begin(), parts[s].field(f).data.end(),
                               whole.slices[s].field(f).data.begin()));
      EXPECT_TRUE(
          std::equal(parts[s].samples.begin(), parts[s].samples.end(), whole.slices[s].samples.begin()));
    }
  }
}

TEST(DataLoader, ResumesInTheMiddleOfAnEpoch) {
  const auto data = sample_set(50);
  const EpochOrder order(50, 16, 4, 3);  // 16 16 16 2
  Loader straight(order, options_for(data, Node{0, 4}, 1));
  bytes_of(straight, 6);
  const std::string expected = bytes_of(straight, 5);
  Loader resumed(order, options_for(data, Node{0, 4}, 2, 50 + 32));
  EXPECT_EQ(bytes_of(resumed, 5), expected);
}

TEST(DataLoader, EmptyRowsAreZeroAndNamedSo) {
  const auto data = sample_set(13, true);
  const EpochOrder order(13, 8, 2, 1);  // 8, then 5 = 2 + 3 in slices of 4
  Loader loader(order, options_for(data, Node{0, 2}, 0));
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::set<std::int64_t> seen;
    for (int i = 0; i < 2; ++i) {
      const LoadedBatch& batch = loader.next();
      EXPECT_EQ(batch.range.count, i == 0 ? 8 : 5);
      for (const Batch& s : batch.slices) {
        EXPECT_EQ(s.rows, 4);
        EXPECT_EQ(s.valid, i == 0 ? 4 : 2 + s.slice);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(s.field(0).data.data()) % 64, 0u);
        for (std::int64_t row = 0; row < s.rows; ++row) {
          const std::int64_t sample = s.samples[static_cast<std::size_t>(row)];
          const auto input = s.field(0).as<float>().subspan(static_cast<std::size_t>(row) * 15, 15);
          const auto target = s.field(1).as<float>().subspan(static_cast<std::size_t>(row) * 2, 2);
          if (row < s.valid) {
            EXPECT_TRUE(seen.insert(sample).second);
            EXPECT_EQ(target[0], static_cast<float>(sample));
            EXPECT_EQ(target[1], -static_cast<float>(sample));
          } else {
            EXPECT_EQ(sample, -1);
            EXPECT_THAT(input, ::testing::Each(0.0f));
            EXPECT_THAT(target, ::testing::Each(0.0f));
          }
        }
      }
    }
    EXPECT_EQ(seen.size(), 13u);
  }
}

TEST(DataLoader, EvaluationCountsEverySampleOnceAlsoWithMoreRanksThanSamples) {
  const auto data = sample_set(3);
  const EpochOrder order(3, 8, 8, std::nullopt);
  std::multiset<std::int64_t> seen;
  for (std::int64_t rank = 0; rank < 8; ++rank) {
    Loader loader(order, options_for(data, Node{rank, rank + 1}, 1));
    ASSERT_EQ(order.batches_per_epoch(), 1);
    for (const Batch& s : loader.next().slices) {
      seen.insert(s.samples.begin(), s.samples.begin() + s.valid);
    }
    EXPECT_EQ(loader.next().range.epoch, 1);  // goes on: the next pass begins
  }
  EXPECT_EQ(seen, (std::multiset<std::int64_t>{0, 1, 2}));
}

TEST(DataLoader, AnswersCanBeLeftOut) {
  LoaderOptions options = options_for(sample_set(10), Node{0, 2}, 1);
  options.fields[1] = nullptr;
  Loader loader(EpochOrder(10, 4, 2, std::nullopt), options);
  EXPECT_TRUE(loader.next().slices[0].field(1).empty());
}

TEST(DataLoader, MemoryIsTakenOnceAndABatchStaysUntilTheNextCall) {
  const auto data = sample_set(100);
  Loader loader(EpochOrder(100, 10, 2, 1), options_for(data, Node{0, 2}, 1));
  std::set<const float*> places;
  for (int i = 0; i < 200; ++i) {
    const LoadedBatch& batch = loader.next();
    places.insert(batch.slices[0].field(0).as<float>().data());
    const std::vector<float> before(batch.slices[0].field(0).as<float>().begin(),
                                    batch.slices[0].field(0).as<float>().end());
    if (i % 20 == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the worker runs ahead meanwhile
    ASSERT_TRUE(std::equal(before.begin(), before.end(), batch.slices[0].field(0).as<float>().begin()));
  }
  EXPECT_LE(places.size(), 3u);
}

/// Fails at one sample, and counts reads.
class Failing final : public Dataset {
 public:
  explicit Failing(std::int64_t bad) : bad_(bad) {}
  std::int64_t size() const override { return 40; }
  std::span<const Field> fields() const override { return {&field_, 1}; }
  void read(std::size_t, std::int64_t index, std::span<std::byte> out) const override {
    ++reads;
    if (index == bad_) throw InputError("sample 17 cannot be read");
    const auto value = static_cast<float>(index);
    std::memcpy(out.data(), &value, sizeof value);
  }
  std::string describe() const override { return "failing"; }
  mutable std::atomic<int> reads{0};

 private:
  std::int64_t bad_;
  Field field_{"input", DType::f32, Shape{1}};
};

TEST(DataLoader, WhatAWorkerThrowsSurfacesInItsBatch) {
  for (const int workers : {0, 1, 3}) {
    LoaderOptions options;
    options.data = std::make_shared<Failing>(17);
    options.fields = {stored_field(*options.data, "input")};
    options.mine = Node{0, 2};
    options.workers = workers;
    Loader loader(EpochOrder(40, 4, 2, std::nullopt), options);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(loader.next().range.first, 4 * i);  // the batches before are whole
    EXPECT_THAT(error_of([&] { loader.next(); }), HasSubstr("sample 17"));
    EXPECT_THAT(error_of([&] { loader.next(); }), HasSubstr("sample 17"));
  }
}

TEST(DataLoader, WorkersRunAheadByTheirBuffersAndThenSleep) {
  const auto data = std::make_shared<Failing>(-1);
  LoaderOptions options;
  options.data = data;
  options.fields = {stored_field(*data, "input")};
  options.mine = Node{0, 2};
  options.workers = 1;
  Loader loader(EpochOrder(40, 4, 2, 1), options);
  for (int waited = 0; data->reads < 12 && waited < 5000; ++waited) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  rusage before{};
  getrusage(RUSAGE_SELF, &before);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  rusage after{};
  getrusage(RUSAGE_SELF, &after);
  EXPECT_EQ(data->reads, 12);  // three buffers of four samples, and no more before next()
  const auto micros = [](const rusage& u) {
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1'000'000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
  };
  EXPECT_LT(micros(after) - micros(before), 50'000);  // a spinning worker would burn 200,000
}

TEST(DataLoader, EndsWhileWorkersWaitOrLoad) {
  const auto data = sample_set(100);
  for (int i = 0; i < 50; ++i) {
    Loader loader(EpochOrder(100, 20, 2, 1), options_for(data, Node{0, 2}, 1 + i % 4));
    if (i % 2 == 0) loader.next();
  }
}

}  // namespace
}  // namespace lockstep
