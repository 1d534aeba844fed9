#include "trainer/config/slices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "trainer/config/refusal.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Graph graph_of(const std::string& layers, const Shape& input) {
  return build_layers(layers, input, 3, CrossEntropyAttrs{});
}
const Shape flat{8}, image{3, 8, 8};
const std::string plain = "dense:4 relu dense:3", dense_norm = "dense:4 bn relu dense:3",
                  conv_norm = "conv:4x3 bn relu flatten dense:3",
                  pooled_norm = "conv:4x3 gap bn flatten dense:3";

std::int64_t slices(const std::string& layers, std::int64_t batch, const std::string& device = "cpu",
                    std::int64_t samples = 100000, std::int64_t eval_batch = 0) {
  Config config;
  config.train.global_batch = batch;
  config.train.eval_batch = eval_batch;
  const bool flat_input = layers.find("conv") == std::string::npos;
  return resolve_slices(config, graph_of(layers, flat_input ? flat : image), device, samples);
}

TEST(DefaultSlices, BatchesWithManyRowsKeepWhatTheyHad) {
  EXPECT_EQ(slices(plain, 128), 8);
  EXPECT_EQ(slices(plain, 256), 8);
  EXPECT_EQ(slices(plain, 64), 4);
  EXPECT_EQ(slices(plain, 100), 4);
}

TEST(DefaultSlices, FourRanksHaveWorkAtEveryBatchThatHasAFittingDivisor) {
  for (const char* device : {"cpu", "cuda"})
    for (const std::string& layers : {plain, conv_norm})
      for (const std::int64_t batch :
           {4, 5, 6, 7, 8, 10, 12, 16, 25, 30, 32, 37, 48, 50, 90, 96, 127, 250, 1000}) {
        const std::int64_t s = slices(layers, batch, device);
        EXPECT_GE(s, 4) << layers << " " << batch;
        EXPECT_EQ(batch % s, 0) << layers << " " << batch;
      }
  EXPECT_EQ(slices(plain, 3), 3);
  EXPECT_EQ(slices(plain, 1), 1);
  EXPECT_EQ(slices(plain, 131), 1) << "no divisor but itself";
}

TEST(DefaultSlices, BatchNormNeverSeesFewValuesOfAChannel) {
  for (std::int64_t batch = 1; batch <= 300; ++batch)
    for (const std::string& layers : {dense_norm, pooled_norm}) {
      const std::int64_t s = slices(layers, batch);
      EXPECT_TRUE(s == 1 || batch / s >= 4) << layers << " " << batch;
    }
  EXPECT_EQ(slices(dense_norm, 2), 1);
  EXPECT_EQ(slices(dense_norm, 16), 4);
  EXPECT_EQ(slices(dense_norm, 15), 3);
  EXPECT_EQ(slices(dense_norm, 32, "cpu", 10), 2) << "a set that is smaller than a batch";
  EXPECT_EQ(slices(conv_norm, 128), 4);
}

TEST(DefaultSlices, BatchNormNeverSeesOneValueOfTheLastBatchWhereAnySplitAllowsIt) {
  EXPECT_EQ(slices(dense_norm, 12, "cpu", 63), 1);
  EXPECT_EQ(slices(dense_norm, 20, "cpu", 63), 1);
  EXPECT_EQ(slices(dense_norm, 10, "cpu", 63), 1);
  EXPECT_EQ(slices(dense_norm, 12, "cpu", 64), 2) << "four samples are two in each of two slices";
  EXPECT_EQ(slices(dense_norm, 12, "cpu", 61), 3) << "one sample is alone in any slices";
  EXPECT_EQ(slices(dense_norm, 12, "cpu", 60), 3) << "every batch is whole";
  EXPECT_EQ(slices(plain, 12, "cpu", 63), 4) << "no batch norm";
  EXPECT_EQ(slices(conv_norm, 12, "cpu", 63), 4) << "a row has many values";
  Config config;
  const Graph graph = graph_of(dense_norm, flat);
  for (std::int64_t batch = 4; batch <= 40; ++batch)
    for (std::int64_t samples = batch; samples <= 130; ++samples) {
      if (samples % batch == 1) continue;
      config.train.global_batch = batch;
      config.train.slices = 0;
      config.train.slices = resolve_slices(config, graph, "cpu", samples);
      EXPECT_EQ(norm_remark(config, graph, samples, false), "") << batch << " of " << samples;
    }
}

TEST(DefaultSlices, EvaluationBatchesAreDividedToo) {
  EXPECT_EQ(slices(plain, 64, "cpu", 1000, 50), 2);
  EXPECT_EQ(slices(plain, 100, "cpu", 1000, 30), 5);
}

TEST(DefaultSlices, WhatIsStatedStays) {
  Config config;
  config.train.slices = 2;
  EXPECT_EQ(resolve_slices(config, graph_of(plain, flat), "cuda", 100), 2);
}

TEST(EnoughSlices, TooFewNameValuesThatWouldDo) {
  Config config;
  config.train.global_batch = 32;
  config.train.slices = 4;
  const auto refusal = [&](const std::string& layers, int ranks) {
    return refusal_of([&] { check_enough_slices(config, graph_of(layers, flat), ranks); });
  };
  EXPECT_EQ(refusal(plain, 4), "nothing was refused");
  EXPECT_THAT(refusal(plain, 5), AllOf(HasSubstr("ranks (5)"), HasSubstr("slices (4)"),
                                       HasSubstr("8, 16, 32"), HasSubstr("changes the result")));
  EXPECT_THAT(refusal(dense_norm, 5), AllOf(HasSubstr("8, 16 would do"), Not(HasSubstr("32 would"))));
  EXPECT_THAT(refusal(plain, 33), HasSubstr("larger train.global_batch"));
  config.run.resume = true;
  EXPECT_THAT(refusal(plain, 5), HasSubstr("--allow-slices-change"));
}

TEST(NormRemark, OneValueAChannelIsRefusedAndInAResumeToldOf) {
  Config config;
  config.train.global_batch = config.train.slices = 16;
  const Graph graph = graph_of(dense_norm, flat);
  EXPECT_THAT(refusal_of([&] { norm_remark(config, graph, 160, false); }),
              AllOf(HasSubstr("train.slices = 4"), HasSubstr("one value a channel"), HasSubstr("bn")));
  EXPECT_THAT(norm_remark(config, graph, 160, true), HasSubstr("one value a channel"));
  EXPECT_THAT(refusal_of([&] { norm_remark(config, graph_of(pooled_norm, image), 160, false); }),
              HasSubstr("one value"));
  EXPECT_EQ(norm_remark(config, graph_of(conv_norm, image), 160, false), "");
  EXPECT_EQ(norm_remark(config, graph_of(plain, flat), 160, false), "");
}

TEST(NormRemark, TheLastBatchOfAnEpochIsLookedAtToo) {
  Config config;
  config.train.global_batch = 32;
  config.train.slices = 4;
  const Graph graph = graph_of(dense_norm, flat);
  const auto remark = [&](std::int64_t samples) { return norm_remark(config, graph, samples, false); };
  EXPECT_EQ(remark(64), "");
  EXPECT_EQ(remark(72), "") << "two rows in each of four slices";
  EXPECT_THAT(remark(69), AllOf(HasSubstr("has 5 samples in 4 slices"), HasSubstr("in 3 of them"),
                                HasSubstr("train.slices = 2 is sound"), HasSubstr("data.limit = 64")));
  EXPECT_THAT(remark(65), AllOf(HasSubstr("has 1 sample in 4 slices"), HasSubstr("in 1 of them")));
  EXPECT_THAT(remark(6), AllOf(HasSubstr("every batch has 6 samples"), HasSubstr("in 2 of them")));
  EXPECT_THAT(refusal_of([&] { remark(4); }), HasSubstr("one value a channel"));
}

}  // namespace
}  // namespace lockstep
