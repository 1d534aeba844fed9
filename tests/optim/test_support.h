#pragma once

#include <cmath>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/numerics/philox.h"
#include "core/numerics/tree.h"
#include "optim/optimizer.h"
#include "trainer/config/config.h"

// What the tests of the update rules share: a layout, numbers, and a reference in float64.

namespace lockstep::test {

/// Numbers in (-1, 1) from a counter.
inline float number(std::uint64_t stream, std::int64_t i) {
  const PhiloxKey key = random_key(7, Purpose::synthetic, stream, 0);
  return 2 * uniform01(random_block(key, static_cast<std::uint64_t>(i), 0).v[0]) - 1;
}

inline std::vector<float> numbers(std::uint64_t stream, std::int64_t n) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(number(stream, i));
  return out;
}

/// Two parameters and a statistic, with gaps between them, over a bit more than three blocks.
inline FlatLayout example_layout() {
  using Kind = FlatSegment::Kind;
  FlatLayout layout;
  const auto add = [&](Kind kind, const char* name, std::int64_t begin, std::int64_t n, double momentum) {
    FlatSegment s;
    s.kind = kind;
    s.name = name;
    s.shape = Shape{n};
    s.storage = Range{begin, begin + n};
    s.momentum = momentum;
    layout.segments.push_back(s);
  };
  add(Kind::parameter, "w2", 0, 5003, 0);
  add(Kind::statistic, "bn.running_mean", 5008, 1000, 0.1);
  add(Kind::parameter, "w1", 6016, 6400, 0);
  layout.elements = 12416;
  return layout;
}

inline OptimizerOptions options_of(const std::string& name) {
  OptimizerOptions o;
  o.name = name;
  o.lr = 0.01;
  return o;
}

/// Whole views over `gradient`, cut at the given block numbers.
inline std::vector<TotalView> views_of(const std::vector<float>& gradient,
                                       const std::vector<std::int64_t>& cuts) {
  std::vector<TotalView> views;
  std::int64_t begin = 0;
  const auto n = static_cast<std::int64_t>(gradient.size());
  for (const std::int64_t cut : cuts) {
    views.push_back({Range{begin, cut * block_elements}, gradient.data() + begin});
    begin = cut * block_elements;
  }
  views.push_back({Range{begin, n}, gradient.data() + begin});
  return views;
}

constexpr std::int64_t test_steps = 7;
constexpr double inverse_count = 1.0 / 96;

inline UpdateScalars scalars_of(std::int64_t step, double clip = 0.75) {
  return {0.01 / static_cast<double>(step + 1), inverse_count, clip, step, inverse_count};
}

/// Several steps on the whole buffer in one piece, or cut and shared as asked.
inline std::vector<float> train(const OptimizerOptions& options, const std::vector<std::int64_t>& cuts = {},
                                int lanes = 1) {
  const FlatLayout layout = example_layout();
  const Range all{0, layout.elements};
  Optimizer optimizer(options, layout, {&all, 1});
  std::vector<float> parameters = numbers(1, layout.elements);
  for (std::int64_t step = 0; step < test_steps; ++step) {
    const std::vector<float> gradient = numbers(100 + static_cast<std::uint64_t>(step), layout.elements);
    const auto views = views_of(gradient, cuts);
    optimizer.begin_step(scalars_of(step));
    for (int lane = lanes; lane-- > 0;) optimizer.update_share(views, parameters, lane, lanes);
  }
  return parameters;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// The documentation of torch.optim.SGD, Adam, AdamW, RMSprop and Adagrad, and algorithm 2 of Lion's paper,
/// read line by line, in float64.
inline std::vector<double> reference(const OptimizerOptions& o) {
  std::vector<std::size_t> near_zero;
  const FlatLayout layout = example_layout();
  const std::vector<float> start = numbers(1, layout.elements);
  std::vector<double> p(start.begin(), start.end()), buffer(p.size()), exp_avg(p.size()),
      exp_avg_sq(p.size());
  for (std::int64_t step = 0; step < test_steps; ++step) {
    const auto t = static_cast<double>(step + 1);
    const UpdateScalars s = scalars_of(step);
    for (const FlatSegment& segment : layout.segments) {
      for (std::int64_t i = segment.storage.begin; i < segment.storage.end; ++i) {
        const auto k = static_cast<std::size_t>(i);
        const double sum = number(100 + static_cast<std::uint64_t>(step), i);
        if (segment.kind == FlatSegment::Kind::statistic) {
          p[k] = (1 - segment.momentum) * p[k] + segment.momentum * (sum * inverse_count);
          continue;
        }
        double g = sum * inverse_count * s.clip_scale;
        if (o.name == "sgd") {
          g += o.weight_decay * p[k];
          if (o.momentum != 0) {
            buffer[k] = step == 0 ? g : o.momentum * buffer[k] + g;
            g = o.nesterov ? g + o.momentum * buffer[k] : buffer[k];
          }
          p[k] -= s.lr * g;
          continue;
        }
        if (o.name == "adamw" || o.name == "lion")
          p[k] -= s.lr * o.weight_decay * p[k];
        else
          g += o.weight_decay * p[k];
        if (o.name == "rmsprop") {
          exp_avg_sq[k] = o.beta2 * exp_avg_sq[k] + (1 - o.beta2) * g * g;
          buffer[k] = o.momentum * buffer[k] + g / (std::sqrt(exp_avg_sq[k]) + o.epsilon);
          p[k] -= s.lr * buffer[k];
          continue;
        }
        if (o.name == "adagrad") {
          exp_avg_sq[k] += g * g;
          p[k] -= s.lr * g / (std::sqrt(exp_avg_sq[k]) + o.epsilon);
          continue;
        }
        if (o.name == "lion") {
          const double mixed = o.beta1 * exp_avg[k] + (1 - o.beta1) * g;
          // In float32 a sum so near to 0 may have the other sign.
          if (std::abs(mixed) < 1e-9) near_zero.push_back(k);
          p[k] -= s.lr * (mixed > 0 ? 1 : mixed < 0 ? -1 : 0);
          exp_avg[k] = o.beta2 * exp_avg[k] + (1 - o.beta2) * g;
          continue;
        }
        exp_avg[k] = o.beta1 * exp_avg[k] + (1 - o.beta1) * g;
        exp_avg_sq[k] = o.beta2 * exp_avg_sq[k] + (1 - o.beta2) * g * g;
        const double corrected1 = exp_avg[k] / (1 - std::pow(o.beta1, t));
        const double corrected2 = exp_avg_sq[k] / (1 - std::pow(o.beta2, t));
        p[k] -= s.lr * corrected1 / (std::sqrt(corrected2) + o.epsilon);
      }
    }
  }
  EXPECT_TRUE(near_zero.empty()) << "the test's numbers leave the sign of " << near_zero.size()
                                 << " steps open";
  return p;
}

inline std::vector<OptimizerOptions> all_kinds() {
  std::vector<OptimizerOptions> kinds;
  kinds.push_back(options_of("sgd"));
  kinds.push_back(options_of("sgd"));
  kinds.back().weight_decay = 0.1;
  kinds.push_back(kinds.back());
  kinds.back().momentum = 0.9;
  kinds.push_back(kinds.back());
  kinds.back().nesterov = true;
  kinds.push_back(options_of("adam"));
  kinds.push_back(options_of("adam"));
  kinds.back().weight_decay = 0.1;
  kinds.push_back(options_of("adamw"));
  kinds.back().weight_decay = 0.1;
  kinds.back().beta2 = 0.95;
  kinds.back().epsilon = 1e-3;  // as large as the gradients: where it is added shows
  for (const double momentum : {0.0, 0.9}) {
    kinds.push_back(options_of("rmsprop"));
    kinds.back().momentum = momentum;
    kinds.back().weight_decay = 0.1;
    kinds.back().beta2 = 0.9;
    kinds.back().epsilon = 1e-3;
  }
  kinds.push_back(options_of("adagrad"));
  kinds.back().weight_decay = 0.1;
  kinds.back().epsilon = 1e-3;
  kinds.push_back(options_of("lion"));
  kinds.back().weight_decay = 0.1;
  kinds.back().beta2 = 0.99;
  return kinds;
}

inline std::string describe(const OptimizerOptions& o) {
  return o.name + " momentum " + std::to_string(o.momentum) + (o.nesterov ? " nesterov" : "") + " decay " +
         std::to_string(o.weight_decay);
}

// Parameters stay below 1.2 in size, and a step changes one by at most about lr: each of the 7 steps rounds p
// once or twice by at most 2^-24 * 1.2, and the update, of at most 0.01 in size, by a few more relative
// 2^-24. The state carries rounding on by at most 1 / (1 - 0.9). Twenty units in the last place of 1 bound
// all of it.
constexpr double tolerance = 20 * 5.97e-8;

}  // namespace lockstep::test
