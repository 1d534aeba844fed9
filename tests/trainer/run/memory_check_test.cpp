#include "trainer/run/memory_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <sys/resource.h>

#include "core/error.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string refusal(const std::string& layers, std::int64_t batch, std::int64_t slices, double memory) {
  const Graph graph = build_layers(layers, Shape{1, 6, 6}, 3, CrossEntropyAttrs{});
  try {
    check_memory(graph, "train.global_batch", batch, slices, memory);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

TEST(MemoryCheck, RefusesWhatCannotFit) {
  // 36 x 3 + 3 parameters and their gradient: 888 bytes. A row: input and flattened input, 288 bytes.
  EXPECT_EQ(refusal("flatten dense:3", 24, 3, 888 + 8 * 288), "");
  EXPECT_THAT(refusal("flatten dense:3", 24, 3, 888 + 8 * 288 - 1),
              AllOf(HasSubstr("train.global_batch = 24"), HasSubstr("8 samples"), HasSubstr("train.slices")));
  EXPECT_THAT(refusal("flatten dense:3", 24, 3, 887), HasSubstr("111 parameters"));
  // Products beyond 2^63 are no small numbers.
  EXPECT_NE(refusal("conv:1000000000x1 gap flatten dense:3", std::int64_t{1} << 62, 1, 1e15), "");
}

TEST(MemoryCheck, AnEvaluationIsCounted) {
  const auto refusal_of = [](std::int64_t outputs, int ranks, std::int64_t samples, double memory) {
    const Graph graph =
        build_layers("dense:" + std::to_string(outputs), Shape{1}, outputs, CrossEntropyAttrs{});
    try {
      check_evaluation_memory(graph, 24, 3, ranks, samples, memory);
    } catch (const ConfigError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  // 2 parameters an output, and 24 outputs of a batch: 104,000 bytes. Of 90 samples, at most 90 pairs.
  const double all = 1000 * (2 + 24) * 4 + 90 * 64;
  EXPECT_EQ(refusal_of(1000, 1, 90, all), "");
  EXPECT_THAT(refusal_of(1000, 1, 90, all - 1),
              AllOf(HasSubstr("train.eval_batch = 24"), HasSubstr("1,000 numbers a sample")));
  EXPECT_EQ(refusal_of(1000, 3, 90, all - 1000 * 16 * 4), "") << "of three ranks each holds a slice";
  // Classes squared would be 8 TB.
  EXPECT_EQ(refusal_of(1'000'000, 1, 90, 200e6), "");
}

TEST(MemoryCheck, ALimitOfTheShellCounts) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  const rlimit low{rlim_t{1} << 40, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &low), 0);
  EXPECT_LE(machine_memory(), 0x1p40);
  setrlimit(RLIMIT_AS, &before);
}

TEST(MemoryCheck, TheMachineHasSomeMemory) {
  EXPECT_GT(machine_memory(), 1e8);
}

}  // namespace
}  // namespace lockstep
