#include "trainer/memory_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "model/layers_line.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string refusal(const std::string& layers, std::int64_t batch, std::int64_t slices, double memory) {
  const Graph graph = build_layers(layers, Shape{1, 6, 6}, 3, LossKind::cross_entropy);
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

TEST(MemoryCheck, TheMachineHasSomeMemory) {
  EXPECT_GT(machine_memory(), 1e8);
}

}  // namespace
}  // namespace lockstep
