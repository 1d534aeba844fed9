#pragma once

#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "device/lane_pool.h"
#include "model/graph/graph.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/plan/executor.h"
#include "model/plan/init.h"
#include "model/plan/reference.h"
#include "model/zoo/graph_builder.h"

// What the tests of executors share, for any device: data, a graph with every op, the comparison with the
// float64 reference.

namespace lockstep::test {

/// How a device compiles a graph.
using Compile = std::function<std::unique_ptr<Executor>(const Graph&, const ExecutorOptions&)>;

/// One slice: every field of a graph, and what the batch points into.
struct SliceData {
  std::vector<std::vector<std::byte>> fields;      // as Graph::fields
  std::vector<std::vector<std::int32_t>> lengths;  // of ragged ones
  std::vector<DType> types;
  std::vector<std::int64_t> samples;
  std::vector<FieldRows> views;
  std::int64_t rows = 0, valid = 0;

  template <class T>
  std::span<T> as(std::size_t field) {
    return {reinterpret_cast<T*>(fields[field].data()), fields[field].size() / sizeof(T)};
  }
  Batch batch(std::int64_t slice) {
    views.resize(fields.size());
    for (std::size_t f = 0; f < fields.size(); ++f) {
      views[f].type = types[f];
      views[f].data = fields[f];
      views[f].lengths = lengths[f];
    }
    Batch out;
    out.slice = slice;
    out.rows = rows;
    out.valid = valid;
    out.samples = samples;
    out.fields = views;
    return out;
  }
};

/// Whole numbers of made-up fields lie in [0, this).
inline constexpr std::uint32_t whole_numbers = 3;

/// Slices of random data for a graph. Sequences have between 0 and all positions.
struct Data {
  std::int64_t rows;
  std::vector<SliceData> slices;
  std::vector<Batch> batches;

  Data(const Graph& graph, std::int64_t count, std::int64_t rows_, const std::vector<std::int64_t>& valid)
      : rows(rows_), slices(static_cast<std::size_t>(count)) {
    std::mt19937 random(11);
    std::normal_distribution<float> draw;
    const std::int64_t outputs = graph.shape_of(graph.output).elements();
    const auto below = static_cast<std::uint32_t>(graph.shape_of(graph.output).dims().back());
    for (std::int64_t s = 0; s < count; ++s) {
      SliceData& slice = slices[static_cast<std::size_t>(s)];
      slice.rows = rows;
      slice.valid = valid[static_cast<std::size_t>(s)];
      slice.samples.assign(static_cast<std::size_t>(rows), -1);
      for (const Field& field : graph.fields) {
        slice.fields.emplace_back(static_cast<std::size_t>(rows) * field.bytes(), std::byte{0});
        slice.lengths.emplace_back(field.ragged ? static_cast<std::size_t>(rows) : 0, 0);
        slice.types.push_back(field.type);
      }
      for (std::int64_t r = 0; r < slice.valid; ++r) {
        slice.samples[static_cast<std::size_t>(r)] = s * rows + r;
        for (std::size_t f = 0; f < graph.fields.size(); ++f) {
          const Field& field = graph.fields[f];
          const bool answers = static_cast<int>(f) == graph.loss.fields.at(0);
          // As many numbers are drawn for labels as for targets, so that inputs are the same for every loss.
          for (std::int64_t i = 0; answers && field.type == DType::i32 && i < outputs; ++i) draw(random);
          fill_row(slice, f, field, r, answers ? below : whole_numbers, draw, random);
          if (answers && field.type == DType::f32) random();
        }
      }
      batches.push_back(slice.batch(s));
    }
  }
  Data(const Data&) = delete;

 private:
  static void fill_row(SliceData& slice, std::size_t f, const Field& field, std::int64_t r,
                       std::uint32_t below, std::normal_distribution<float>& draw, std::mt19937& random) {
    std::int64_t length = field.shape.rank() == 0 ? 1 : field.shape[0];
    if (field.ragged) {
      length = slice.samples[static_cast<std::size_t>(r)] * 5 % (field.shape[0] + 1);
      slice.lengths[f][static_cast<std::size_t>(r)] = static_cast<std::int32_t>(length);
    }
    const auto entry = static_cast<std::int64_t>(field.entry_bytes() / size_of(field.type));
    for (std::int64_t i = 0; i < length * entry; ++i) {
      const auto at = static_cast<std::size_t>(r * field.elements() + i);
      if (field.type == DType::i32)
        slice.as<std::int32_t>(f)[at] = static_cast<std::int32_t>(random() % below);
      else
        slice.as<float>(f)[at] = draw(random);
    }
  }
};

struct Trained {
  std::vector<std::vector<float>> roots;
  std::vector<SliceResult> results;
  FlatLayout layout;
};

inline std::vector<float> initial_flat(const Graph& graph, const Executor& executor) {
  std::vector<float> flat(static_cast<std::size_t>(executor.layout().elements));
  for (const FlatSegment& segment : executor.layout().segments) {
    std::vector<float> plain(static_cast<std::size_t>(segment.shape.elements()));
    if (segment.kind == FlatSegment::Kind::parameter)
      initialise_plain(graph, static_cast<std::size_t>(segment.index), 5, plain);
    else
      std::fill(plain.begin(), plain.end(),
                graph.statistics[static_cast<std::size_t>(segment.index)].initial);
    executor.import_plain(segment, plain,
                          std::span(flat).subspan(static_cast<std::size_t>(segment.storage.begin),
                                                  static_cast<std::size_t>(segment.storage.size())));
  }
  return flat;
}

/// Checks that ready() tiles the flat gradient exactly once.
class TilingListener final : public GradientListener {
 public:
  explicit TilingListener(std::int64_t elements) : hits_(static_cast<std::size_t>(elements)) {
    for (auto& h : hits_) h.store(0);
  }
  void ready(Range range) override {
    for (std::int64_t i = range.begin; i < range.end; ++i) hits_[static_cast<std::size_t>(i)].fetch_add(1);
  }
  void progress() override {}
  bool tiled() const {
    for (const auto& h : hits_)
      if (h.load() != 1) return false;
    return true;
  }

 private:
  std::vector<std::atomic<int>> hits_;
};

inline Trained train_once(const Compile& compile, const Graph& graph, const Data& data, std::int64_t slices,
                          Node mine, int repeats = 1, float loss_scale = 1.0f) {
  ExecutorOptions options;
  options.slice_rows = data.rows;
  options.slices = slices;
  options.mine = mine;
  auto executor = compile(graph, options);
  Trained out;
  out.layout = executor->layout();
  const std::vector<float> flat = initial_flat(graph, *executor);
  std::vector<std::span<float>> roots;
  for (std::size_t i = 0; i < executor->schedule().roots.size(); ++i)
    out.roots.emplace_back(static_cast<std::size_t>(out.layout.elements), 0.0f);
  for (auto& r : out.roots) roots.emplace_back(r);
  out.results.resize(static_cast<std::size_t>(mine.size()));
  for (int i = 0; i < repeats; ++i) {
    TilingListener listener(out.layout.elements);
    StepInputs inputs;
    inputs.seed = 9;
    inputs.step = 3;
    inputs.parameters = flat;
    inputs.slices = std::span(data.batches)
                        .subspan(static_cast<std::size_t>(mine.begin), static_cast<std::size_t>(mine.size()));
    inputs.roots = roots;
    inputs.results = out.results;
    inputs.listener = &listener;
    inputs.loss_scale = loss_scale;
    executor->train(inputs);
    EXPECT_TRUE(listener.tiled());
  }
  return out;
}

/// A DAG with every op: residuals, a value used twice, an unfused add, dropout, both pools.
inline Graph zoo_of_ops(const OpAttrs& loss = CrossEntropyAttrs{}) {
  GraphBuilder b("everything");
  ValueId x = b.input({3, 12, 12});
  ValueId c = b.conv2d(x, {.out_channels = 16, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1});
  c = b.relu(b.batch_norm(c));
  ValueId r =
      b.conv2d(c, {.out_channels = 16, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1, .bias = false});
  r = b.relu(b.add(b.batch_norm(r), c));
  ValueId d = b.conv2d(r, {.out_channels = 32, .kernel_h = 1, .kernel_w = 1, .stride_h = 2, .stride_w = 2});
  ValueId m =
      b.conv2d(b.max_pool(r, {3, 3, 2, 2, 1, 1}),
               {.out_channels = 32, .kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1, .groups = 2});
  ValueId s = b.add(d, m);
  s = b.gelu(b.avg_pool(s, {2, 2, 2, 2, 0, 0}));
  ValueId f = b.flatten(s);
  ValueId h = b.relu(b.dense(f, {.out_features = 20}));
  h = b.dropout(h, {0.25});
  ValueId g = b.flatten(b.global_avg_pool(r));
  ValueId k = b.dense(g, {.out_features = 20, .bias = false});
  ValueId q = b.dense(b.gelu(b.dense(f, {.out_features = 24})), {.out_features = 20});
  ValueId o = b.dense(b.add(b.add(h, k), q), {.out_features = 7});
  return b.finish(o, loss);
}

inline void expect_matches_reference(const Compile& compile, const Graph& graph, std::int64_t rows,
                                     const std::vector<std::int64_t>& valid, double tolerance,
                                     float loss_scale = 1.0f, double floor = 1e-2) {
  const auto slices = static_cast<std::int64_t>(valid.size());
  const Data data(graph, slices, rows, valid);
  const ReferenceExecutor reference(graph);
  ExecutorOptions options;
  options.slice_rows = rows;
  options.slices = slices;
  for (std::int64_t s = 0; s < slices; ++s) {
    const Trained got = train_once(compile, graph, data, slices, {s, s + 1}, 2, loss_scale);
    const auto want =
        reference.train(data.batches[static_cast<std::size_t>(s)], initial_parameters(graph, 5), 9, 3);
    ASSERT_TRUE(std::isfinite(got.results[0].loss));
    EXPECT_NEAR(got.results[0].loss, want.loss, tolerance * (1.0 + std::abs(want.loss)));
    EXPECT_EQ(got.results[0].weight, want.weight);
    ExecutorOptions one = options;
    one.mine = {s, s + 1};
    auto executor = compile(graph, one);
    for (const FlatSegment& segment : got.layout.segments) {
      std::vector<float> plain(static_cast<std::size_t>(segment.shape.elements()));
      executor->export_plain(segment,
                             std::span<const float>(got.roots[0])
                                 .subspan(static_cast<std::size_t>(segment.storage.begin),
                                          static_cast<std::size_t>(segment.storage.size())),
                             plain);
      const bool statistic = segment.kind == FlatSegment::Kind::statistic;
      const Tensor64& expected =
          statistic ? want.statistics.at(segment.name) : want.gradients.at(segment.name);
      const double weight = statistic ? static_cast<double>(valid[static_cast<std::size_t>(s)]) : 1.0;
      double error = 0, norm = 0;
      for (std::size_t i = 0; i < plain.size(); ++i) {
        ASSERT_TRUE(std::isfinite(plain[i])) << segment.name;
        error += std::pow(plain[i] - weight * expected[i], 2);
        norm += std::pow(weight * expected[i], 2);
      }
      // The floor is for gradients that are 0 by cancellation (a bias in front of batch norm): what is left
      // of their terms, which are of order 1e-2 in the graphs used here, is rounding.
      EXPECT_LE(std::sqrt(error), tolerance * (std::sqrt(norm) + floor)) << segment.name;
    }
  }
}

}  // namespace lockstep::test
