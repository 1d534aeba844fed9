// The scale of the loss where it lies in the device's memory, with the host in the part of a GPU.

#include <cmath>
#include <gtest/gtest.h>
#include <memory>
#include <vector>

#include "model/cuda/host_engine.h"
#include "model/cuda/late_machine.h"
#include "model/executor_check.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"

namespace lockstep::cuda {
namespace {

constexpr float scales[] = {1, 256, 16777216, 256, 4096, 64};

/// The gradients of steps with these scales, one after the other; where the host knows the scale, or the
/// device alone.
std::vector<std::vector<float>> gradients(const lockstep::Graph& graph, const test::Data& data,
                                          bool on_device, bool whole, bool graphs) {
  ExecutorOptions options;
  options.slice_rows = 4;
  options.slices = 3;
  options.mine = {0, 3};
  options.device_buffers = true;
  options.whole_step = whole;
  CudaOptions cuda;
  cuda.precision = Precision::fp16;
  const auto streams = std::make_shared<test::LateStreams>(test::LateStreams::Order::at_random);
  const test::HostEngine engine =
      make_host_engine(graph, options, cuda, std::make_unique<test::LateMachine>(streams, graphs), 500);
  const std::vector<float> flat = test::initial_flat(graph, *engine);
  std::vector<float> roots(2 * flat.size());
  const std::span<float> all(roots);
  const std::span<float> views[] = {all.first(flat.size()), all.last(flat.size())};
  std::vector<SliceResult> results(3);
  float scale = 0;  // the device's
  StepInputs inputs;
  inputs.seed = 9;
  inputs.parameters = flat;
  inputs.slices = data.batches;
  inputs.roots = std::span(views, engine->schedule().roots.size());
  inputs.results = results;
  inputs.only_enqueue = true;
  if (on_device) inputs.device_loss_scale = &scale;
  std::vector<std::vector<float>> out;
  for (const float s : scales) {
    inputs.loss_scale = on_device ? -1.0f : s;
    if (on_device) scale = s;
    engine->train(inputs);
    engine.machine.finish();
    out.push_back(roots);
    inputs.step++;
  }
  EXPECT_EQ(streams->launches > 0, graphs);
  return out;
}

bool finite(const std::vector<float>& values) {
  for (const float v : values)
    if (!std::isfinite(v)) return false;
  return true;
}

TEST(CudaLossScale, OnTheDeviceItIsReadInEveryStep) {
  for (const OpAttrs& loss : {OpAttrs(CrossEntropyAttrs{}), OpAttrs(MeanSquaredErrorAttrs{})}) {
    const auto graph = test::zoo_of_ops(loss);
    const test::Data data(graph, 3, 4, {4, 4, 3});
    const std::vector<std::vector<float>> wanted = gradients(graph, data, false, false, false);
    EXPECT_TRUE(finite(wanted[1]));
    EXPECT_FALSE(finite(wanted[2]));
    EXPECT_TRUE(finite(wanted[3]));
    for (const auto& [whole, graphs] :
         {std::pair(false, false), {false, true}, {true, false}, {true, true}}) {
      if (!loss.is<CrossEntropyAttrs>() && !(whole && graphs)) continue;
      const std::vector<std::vector<float>> found = gradients(graph, data, true, whole, graphs);
      for (std::size_t i = 0; i < found.size(); ++i)
        EXPECT_EQ(0, std::memcmp(found[i].data(), wanted[i].data(), wanted[i].size() * sizeof(float)))
            << scales[i] << " whole " << whole << " graphs " << graphs;
    }
  }
}

}  // namespace
}  // namespace lockstep::cuda
