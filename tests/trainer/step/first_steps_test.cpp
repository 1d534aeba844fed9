// The first training steps against a float64 implementation that shares nothing with Lockstep's ops: plain
// loops over a small convolutional net (conv 3x3, ReLU, max pool 2, dense, cross-entropy) with SGD and
// momentum, whole batch at once.

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <vector>

#include "comm/threads/thread_communicator.h"
#include "device/lane_pool.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/make_batch.h"
#include "trainer/guard/loss_log.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

constexpr int batch = 12, channels = 2, side = 8, filters = 5, classes = 4;
constexpr int conv_side = side - 2, pool_side = conv_side / 2;
constexpr int features = filters * pool_side * pool_side;

struct Weights {
  std::vector<double> conv_w = std::vector<double>(filters * channels * 9),
                      conv_b = std::vector<double>(filters), fc_w = std::vector<double>(classes * features),
                      fc_b = std::vector<double>(classes);
  std::vector<std::vector<double>*> all() { return {&conv_w, &conv_b, &fc_w, &fc_b}; }
};

/// Loss sum over the batch; `grad` gets the gradient of the sum.
double plain_step(const std::vector<float>& x, const std::vector<std::int32_t>& y, const Weights& w,
                  Weights& grad) {
  for (auto* g : grad.all()) std::fill(g->begin(), g->end(), 0.0);
  double loss = 0;
  for (int n = 0; n < batch; ++n) {
    const float* image = &x[static_cast<std::size_t>(n) * channels * side * side];
    double conv[filters][conv_side][conv_side];
    double pooled[features];
    int where[features][2];
    for (int f = 0; f < filters; ++f)
      for (int i = 0; i < conv_side; ++i)
        for (int j = 0; j < conv_side; ++j) {
          double s = w.conv_b[f];
          for (int c = 0; c < channels; ++c)
            for (int a = 0; a < 3; ++a)
              for (int b = 0; b < 3; ++b)
                s +=
                    w.conv_w[((f * channels + c) * 3 + a) * 3 + b] * image[(c * side + i + a) * side + j + b];
          conv[f][i][j] = std::max(s, 0.0);
        }
    for (int f = 0; f < filters; ++f)
      for (int i = 0; i < pool_side; ++i)
        for (int j = 0; j < pool_side; ++j) {
          const int k = (f * pool_side + i) * pool_side + j;
          pooled[k] = -1;
          for (int a = 0; a < 2; ++a)
            for (int b = 0; b < 2; ++b)
              if (conv[f][2 * i + a][2 * j + b] > pooled[k]) {
                pooled[k] = conv[f][2 * i + a][2 * j + b];
                where[k][0] = 2 * i + a;
                where[k][1] = 2 * j + b;
              }
        }
    double logit[classes], sum = 0;
    for (int o = 0; o < classes; ++o) {
      logit[o] = w.fc_b[o];
      for (int k = 0; k < features; ++k) logit[o] += w.fc_w[o * features + k] * pooled[k];
    }
    for (double l : logit) sum += std::exp(l);
    loss += std::log(sum) - logit[y[n]];
    double d_pooled[features] = {};
    for (int o = 0; o < classes; ++o) {
      const double d = std::exp(logit[o]) / sum - (o == y[n] ? 1 : 0);
      grad.fc_b[o] += d;
      for (int k = 0; k < features; ++k) {
        grad.fc_w[o * features + k] += d * pooled[k];
        d_pooled[k] += d * w.fc_w[o * features + k];
      }
    }
    for (int k = 0; k < features; ++k) {
      if (pooled[k] <= 0) continue;
      const int f = k / (pool_side * pool_side), i = where[k][0], j = where[k][1];
      grad.conv_b[f] += d_pooled[k];
      for (int c = 0; c < channels; ++c)
        for (int a = 0; a < 3; ++a)
          for (int b = 0; b < 3; ++b)
            grad.conv_w[((f * channels + c) * 3 + a) * 3 + b] +=
                d_pooled[k] * image[(c * side + i + a) * side + j + b];
    }
  }
  return loss;
}

/// |a - b| / |b| in the Euclidean norm; fails on values that are not finite.
double error_of(const std::vector<float>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  EXPECT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < b.size(); ++i) {
    EXPECT_TRUE(std::isfinite(a[i]));
    difference += std::pow(a[i] - b[i], 2);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

TEST(FirstSteps, LossesGradientsAndWeightsEqualThoseOfPlainFloat64) {
  std::mt19937 random(17);
  std::normal_distribution<float> draw;
  constexpr int steps = 4;
  std::vector<std::vector<float>> inputs(steps);
  std::vector<std::vector<std::int32_t>> labels(steps);
  for (int s = 0; s < steps; ++s) {
    for (int i = 0; i < batch * channels * side * side; ++i)
      inputs[static_cast<std::size_t>(s)].push_back(draw(random));
    for (int i = 0; i < batch; ++i)
      labels[static_cast<std::size_t>(s)].push_back(static_cast<std::int32_t>(random() % classes));
  }
  // Every product-sum has at most max(features, batch * conv_side^2) = 432 terms, each rounded once with
  // 2^-24, errors adding like a random walk; forward, backward and update make about 8 such stages, and a
  // step inherits the error of those before it: 2^-24 * sqrt(432) * 8 * steps = 4e-5.
  const double bound = std::ldexp(1.0, -24) * std::sqrt(432.0) * 8 * steps;

  for (const int ranks : {1, 3})
    run_ranks(ranks, {}, [&](Communicator& comm) {
      const std::int64_t slices = 6;
      const Graph graph = build_layers("conv:5x3 relu maxpool:2 flatten dense:4", {channels, side, side},
                                       classes, CrossEntropyAttrs{});
      TrainStepOptions options;
      options.slice_rows = batch / slices;
      options.optimizer.momentum = 0.9;
      options.sync.slices = slices;
      options.sync.bucket_elements = 4096;
      LanePool lanes(2);
      const std::unique_ptr<TrainStep> made_step = make_train_step(graph, options, comm, lanes);
      TrainStep& step = *made_step;
      initialise_model(graph, step.executor(), 3, step.writable_parameters());
      comm.barrier();
      Weights w, grad, velocity;
      const std::vector<std::string> names = {"conv1.weight", "conv1.bias", "dense1.weight", "dense1.bias"};
      const auto by_name = [&](const std::vector<PlainTensor>& tensors, const std::string& name) {
        return std::find_if(tensors.begin(), tensors.end(),
                            [&](const PlainTensor& t) { return t.name == name; })
            ->data;
      };
      const auto initial = export_model(step.executor(), step.parameters());
      for (std::size_t p = 0; p < names.size(); ++p) {
        const auto data = by_name(initial, names[p]);
        std::copy(data.begin(), data.end(), w.all()[p]->begin());
      }
      LossLog log(comm, slices, 1);
      std::vector<SliceResult> results(static_cast<std::size_t>(step.slices().size()));
      std::vector<std::int64_t> ids = {0, 1};
      for (int s = 0; s < steps; ++s) {
        const auto& x = inputs[static_cast<std::size_t>(s)];
        const auto& y = labels[static_cast<std::size_t>(s)];
        std::vector<Batch> batches;
        const std::size_t rows = batch / slices, width = x.size() / batch;
        for (std::int64_t i = step.slices().begin; i < step.slices().end; ++i) {
          const auto at = static_cast<std::size_t>(i) * rows;
          batches.push_back(test::make_batch(
              i, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(rows), ids,
              std::span(x).subspan(at * width, rows * width), std::span(y).subspan(at, rows)));
        }
        step.run(batches, batch, s, 0.1, results);
        log.record(s, results);
        const double loss = log.flush()[0].loss;
        const double want = plain_step(x, y, w, grad);
        EXPECT_NEAR(loss, want, bound * want) << "step " << s;
        // The totals of this rank's shard are the gradient sums.
        std::vector<float> total(static_cast<std::size_t>(step.executor().layout().elements), 0.0f);
        std::vector<bool> held(total.size(), false);
        for (const TotalView& view : step.sync().totals())
          for (std::int64_t e = view.range.begin; e < view.range.end; ++e) {
            total[static_cast<std::size_t>(e)] = view.data[e - view.range.begin];
            held[static_cast<std::size_t>(e)] = true;
          }
        const auto gradients = export_model(step.executor(), total);
        for (std::size_t p = 0; p < names.size(); ++p) {
          const auto segment =
              std::find_if(step.executor().layout().segments.begin(), step.executor().layout().segments.end(),
                           [&](const FlatSegment& f) { return f.name == names[p]; });
          if (held[static_cast<std::size_t>(segment->storage.begin)]) {
            EXPECT_LT(error_of(by_name(gradients, names[p]), *grad.all()[p]), bound)
                << names[p] << " step " << s;
          }
          auto& v = *velocity.all()[p];
          auto& value = *w.all()[p];
          for (std::size_t i = 0; i < v.size(); ++i) {
            v[i] = 0.9 * v[i] + (*grad.all()[p])[i] / batch;
            value[i] -= 0.1 * v[i];
          }
        }
        const auto now = export_model(step.executor(), step.parameters());
        for (std::size_t p = 0; p < names.size(); ++p)
          EXPECT_LT(error_of(by_name(now, names[p]), *w.all()[p]), bound) << names[p] << " step " << s;
        comm.barrier();
      }
    });
}

}  // namespace
}  // namespace lockstep
