#pragma once

#include <cstdint>
#include <filesystem>
#include <gtest/gtest.h>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint/checkpoint.h"

// Shared by the tests of checkpoints.

namespace lockstep::checkpoint_test {

// Tensors whose values tell the step.
struct Tensors {
  std::vector<float> weight, bias, moment;
  std::vector<TensorView> model, optimizer;

  explicit Tensors(std::int64_t step, std::size_t size = 24)
      : weight(size, static_cast<float>(step)), bias(4, -static_cast<float>(step)), moment(size, 0.5f) {
    weight[0] = std::numeric_limits<float>::quiet_NaN();
    weight[1] = -0.0f;
    const auto n = static_cast<std::int64_t>(size);
    model = {view_of("fc.weight", {n / 4, 4}, weight), view_of("fc.bias", {4}, bias)};
    optimizer = {view_of("optimizer.exp_avg.fc.weight", {n / 4, 4}, moment)};
  }
};

inline RunState state_at(std::int64_t step) {
  RunState s;
  s.step = step;
  s.position = step * 32;
  s.epoch = step / 10;
  s.slices = 8;
  s.horizon = 100;
  s.config = "[train]\nepochs = 3\n";
  s.fingerprint = "cpu zen4\nbinary 12ab";
  return s;
}

inline std::string save(CheckpointStore& store, int generation, std::int64_t step) {
  const Tensors t(step);
  return store.save(generation, state_at(step), t.model, t.optimizer);
}

inline float first_bias(const Checkpoint& c) {
  std::vector<float> bias(4);
  c.model.read_f32("fc.bias", {4}, bias);
  return bias[0];
}

template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const InputError& e) {
    return e.what();
  }
  return "nothing thrown";
}

inline std::set<std::string> names_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& e : std::filesystem::directory_iterator(directory)) names.insert(e.path().filename());
  return names;
}

class Checkpoints : public ::testing::Test {
 protected:
  std::optional<CheckpointRef> newest() {
    passed_over_.clear();
    return store_.find_newest(passed_over_);
  }
  std::string gen(int n) const { return dir_ / ("checkpoints/gen-00000" + std::to_string(n)); }

  test::TempDir dir_;
  CheckpointStore store_{dir_.path()};
  std::vector<std::string> passed_over_;
};

}  // namespace lockstep::checkpoint_test
