// Sequences of different lengths: the order by classes, and a family of plans that shares parameters.

#include "data/length_classes.h"

#include <cmath>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "comm/threads/thread_communicator.h"
#include "data/loader.h"
#include "data/normalized_field.h"
#include "device/lane_pool.h"
#include "support/token_model.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t samples = 130, batch = 24, slices = 6;

TEST(LengthClasses, EverySampleComesOnceAnEpochInABatchOfItsClass) {
  const auto data = test::token_data(samples);
  const EpochOrder order = test::token_order(*data, batch, slices, 5);
  std::int64_t position = 0;
  std::set<std::vector<std::int64_t>> orders;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::multiset<std::int64_t> seen;
    std::vector<std::int64_t> in_order;
    std::int64_t batches = 0;
    while (position < (epoch + 1) * samples) {
      const BatchRange range = order.batch_at(position);
      EXPECT_EQ(range.epoch, epoch);
      ASSERT_GE(range.count, 1);
      ASSERT_LE(range.count, batch);
      const std::int64_t most = order.class_bound(range.length_class);
      const std::int64_t least = range.length_class == 0 ? 0 : order.class_bound(range.length_class - 1);
      const EpochOrder::Epoch of = order.epoch(epoch);
      for (std::int64_t i = 0; i < range.count; ++i) {
        const std::int64_t sample = of.sample(range.first + i);
        EXPECT_LE(data->length(0, sample), most);
        EXPECT_GT(data->length(0, sample), least);
        seen.insert(sample);
        in_order.push_back(sample);
      }
      position = range.next();
      ++batches;
    }
    EXPECT_EQ(batches, order.batches_per_epoch());
    EXPECT_EQ(seen.size(), static_cast<std::size_t>(samples));
    EXPECT_EQ(std::set<std::int64_t>(seen.begin(), seen.end()).size(), seen.size());
    orders.insert(in_order);
  }
  EXPECT_EQ(orders.size(), 3u) << "every epoch has an order of its own";
  EXPECT_THROW((void)order.batch_at(1), InternalError) << "no batch begins there";
}

TEST(LengthClasses, WhatFitsNoClassAndClassesThatDoNotAscendAreRefused) {
  const auto data = test::token_data(samples);
  const auto refusal = [&](std::vector<std::int64_t> bounds, std::int64_t window) -> std::string {
    try {
      (void)LengthClasses::of(*data, "tokens", std::move(bounds), window);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(refusal({8, 16}, 10), HasSubstr("'tokens' sample"));
  EXPECT_THAT(refusal({8, 16}, 10), HasSubstr("the longest class holds 16"));
  EXPECT_THAT(refusal({16, 8, 64}, 10), HasSubstr("must ascend"));
  EXPECT_THAT(refusal({}, 10), HasSubstr("0 length classes"));
  EXPECT_THAT(refusal({64}, 0), HasSubstr("window"));
  EXPECT_EQ(refusal({64}, 1), "");
}

/// A training so far: what a checkpoint would hold.
struct Saved {
  std::int64_t step = 0, position = 0;
  std::map<std::string, std::vector<float>> tensors;
};

struct Placement {
  int ranks = 1, lanes = 1;
  std::int64_t bucket = 4096;
  bool sharded = true;
};

/// Trains from `from` up to `steps`, and gives what is then to be saved.
Saved train(const Saved& from, std::int64_t steps, const Placement& placement) {
  const auto data = test::token_data(samples);
  const EpochOrder order = test::token_order(*data, batch, slices, 5);
  Saved out;
  run_ranks(placement.ranks, {}, [&](Communicator& comm) {
    const std::vector<Graph> graphs = test::token_graphs(0.2);
    TrainStepOptions options;
    options.seed = 5;
    options.slice_rows = batch / slices;
    options.optimizer.name = "adam";
    options.sync.slices = slices;
    options.sync.bucket_elements = placement.bucket;
    options.sync.sharded = placement.sharded;
    options.classes = graphs;
    LanePool lanes(placement.lanes);
    const std::unique_ptr<TrainStep> made = make_train_step(graphs.back(), options, comm, lanes);
    TrainStep& step = *made;
    if (from.tensors.empty()) {
      initialise_model(graphs.back(), step.executor(), 5, step.writable_parameters());
    } else {
      const TensorReader read = [&](const std::string& name, const Shape&, std::span<float> to) {
        std::copy_n(from.tensors.at(name).begin(), to.size(), to.begin());
      };
      load_model(comm, step.executor(), read, step.writable_parameters());
      load_optimizer_state(comm, step.executor(), read, step.writable_optimizer());
    }
    comm.barrier();
    LoaderOptions loading;
    loading.data = data;
    loading.fields = batch_fields(graphs.back().fields, *data, {}).readers;
    loading.mine = step.slices();
    loading.position = from.position;
    loading.workers = placement.lanes % 2;
    Loader loader(order, std::move(loading));
    std::vector<SliceResult> results(static_cast<std::size_t>(step.slices().size()));
    std::int64_t position = from.position;
    for (std::int64_t now = from.step; now < steps; ++now) {
      const LoadedBatch& loaded = loader.next();
      EXPECT_EQ(step.run(loaded.slices, loaded.range.count, now, 0.01, results).fault, StepFault::none);
      position = loaded.range.next();
    }
    const auto state = gather_optimizer_state(comm, step.executor(), step.optimizer());
    if (comm.rank() == 0) {
      out.step = steps;
      out.position = position;
      for (const auto* list : {&state})
        for (const PlainTensor& t : *list) out.tensors[t.name] = t.data;
      for (const PlainTensor& t : export_model(step.executor(), step.parameters()))
        out.tensors[t.name] = t.data;
    }
    comm.barrier();
  });
  return out;
}

bool same(const Saved& a, const Saved& b) {
  if (a.position != b.position || a.tensors.size() != b.tensors.size()) return false;
  for (const auto& [name, data] : a.tensors) {
    const auto& other = b.tensors.at(name);
    if (data.size() != other.size() ||
        std::memcmp(data.data(), other.data(), data.size() * sizeof(float)) != 0)
      return false;
  }
  return true;
}

TEST(LengthClasses, TrainingHasTheSameBitsAtAnyPlacementAndAfterAResumeInTheMiddleOfAnEpoch) {
  const Saved whole = train({}, 11, {});
  ASSERT_GT(whole.tensors.size(), 5u);
  for (const Placement& p : {Placement{2, 1, 4096, true}, Placement{3, 2, 1, false},
                             Placement{4, 3, 1 << 20, true}, Placement{1, 3, 4096, false}})
    EXPECT_TRUE(same(train({}, 11, p), whole)) << p.ranks << " ranks, " << p.lanes << " lanes";
  const Saved half = train({}, 4, {3, 1});
  EXPECT_NE(half.position % samples, 0) << "in the middle of an epoch";
  EXPECT_TRUE(same(train(half, 11, {2, 2}), whole));
}

/// The output and, in training, the gradient of one sequence in a slice of `rows` rows at place `row`.
std::vector<float> compute(const std::vector<Graph>& graphs, int length_class, const Dataset& data,
                           std::int64_t sample, std::int64_t rows, std::int64_t row, bool training,
                           int lane_count) {
  LanePool lanes(lane_count);
  ExecutorOptions options;
  options.slice_rows = rows;
  options.training = training;
  options.classes = graphs;
  const auto executor = compile_cpu(graphs.back(), options, lanes);
  std::vector<float> flat(static_cast<std::size_t>(executor->layout().elements));
  initialise_model(graphs.back(), *executor, 5, flat);
  const std::int64_t extent = test::token_classes[static_cast<std::size_t>(length_class)];
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows * extent), 0),
      lengths(static_cast<std::size_t>(rows)), labels(static_cast<std::size_t>(rows), 1);
  std::vector<std::int64_t> ids(static_cast<std::size_t>(rows));
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t of = sample;  // the others are any that fit
    for (std::int64_t next = r; r != row && data.length(0, of = next % data.size()) > extent; ++next) {
    }
    const auto at = static_cast<std::size_t>(r);
    ids[at] = of;
    lengths[at] = static_cast<std::int32_t>(data.length(0, of));
    data.read(0, of,
              std::as_writable_bytes(std::span(tokens))
                  .subspan(at * static_cast<std::size_t>(extent) * 4, static_cast<std::size_t>(extent) * 4));
  }
  FieldRows fields[] = {FieldRows(std::span<const std::int32_t>(tokens)),
                        FieldRows(std::span<const std::int32_t>(labels))};
  fields[0].lengths = lengths;
  Batch slice;
  slice.rows = rows;
  slice.valid = rows;
  slice.length_class = length_class;
  slice.samples = ids;
  slice.fields = fields;
  SliceResult result;
  std::vector<float> root(flat.size()), output(static_cast<std::size_t>(rows * test::token_labels));
  const std::span<float> roots[] = {root}, outputs[] = {output};
  StepInputs inputs;
  inputs.parameters = flat;
  inputs.slices = {&slice, 1};
  inputs.results = {&result, 1};
  if (training) {
    inputs.roots = roots;
    executor->train(inputs);
    return root;
  }
  executor->infer(inputs, outputs);
  const auto first = output.begin() + static_cast<std::ptrdiff_t>(row * test::token_labels);
  return {first, first + test::token_labels};
}

TEST(LengthClasses, APredictionHasTheSameBitsInEveryClassAndCompany) {
  const auto data = test::token_data(40);
  const std::vector<Graph> graphs = test::token_graphs();
  int classes_tried = 0;
  for (std::int64_t sample = 0; sample < 40; sample += 3) {
    std::vector<float> alone;
    for (int c = 0; c < static_cast<int>(graphs.size()); ++c) {
      if (data->length(0, sample) > test::token_classes[static_cast<std::size_t>(c)]) continue;
      for (const auto& [rows, row] : {std::pair(1, 0), {3, 2}, {16, 5}, {17, 16}})
        for (const int lanes : {1, 3}) {
          const std::vector<float> got = compute(graphs, c, *data, sample, rows, row, false, lanes);
          if (alone.empty()) alone = got;
          ASSERT_EQ(std::memcmp(got.data(), alone.data(), got.size() * sizeof(float)), 0)
              << "sample " << sample << ", class " << c << ", row " << row << " of " << rows;
        }
      ++classes_tried;
    }
  }
  EXPECT_GT(classes_tried, 20);
}

TEST(LengthClasses, GradientsOfTwoClassesAgreeWithinRounding) {
  const auto data = test::token_data(40);
  const std::vector<Graph> graphs = test::token_graphs();
  for (std::int64_t sample = 0; sample < 40; sample += 7) {
    if (data->length(0, sample) > 32) continue;
    const std::vector<float> a = compute(graphs, 2, *data, sample, 1, 0, true, 1);
    const std::vector<float> b = compute(graphs, 3, *data, sample, 1, 0, true, 1);
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
      norm += std::pow(static_cast<double>(a[i]), 2);
    }
    // Both are sums of at most 64 x 192 rounded products, added in orders of their own: twice the bound of
    // such a sum, sqrt(n) u where roundings are independent (Higham 2002, section 4.2), over four layers.
    EXPECT_LE(std::sqrt(error), 2 * 4 * std::sqrt(64.0 * 192) * 0x1p-24 * std::sqrt(norm)) << sample;
    EXPECT_GT(norm, 0);
  }
}

}  // namespace
}  // namespace lockstep
