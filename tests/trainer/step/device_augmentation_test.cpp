// Images that the device moves as it takes them in: the same bits as from the loader's threads, in training
// and in the checks that compute slices again.

#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <random>
#include <set>

#include "comm/threads/thread_communicator.h"
#include "core/error.h"
#include "data/loader.h"
#include "data/memory_dataset.h"
#include "data/normalized_field.h"
#include "device/lane_pool.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/process.h"
#include "trainer/guard/fault_search.h"
#include "trainer/guard/recompute_check.h"
#include "trainer/step/model_state.h"
#include "trainer/step/step_device.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

const Shape image{3, 8, 7};
constexpr std::int64_t samples = 22, batch = 12, slices = 3, classes = 4;
constexpr std::int64_t rows = batch / slices;
constexpr std::uint64_t seed = 3;

/// Bytes, so that padding is another number in every channel; `infinite`: floats, and the first pixel of
/// every image is infinite.
std::shared_ptr<const Dataset> images(bool infinite = false) {
  MemoryContent c;
  c.description = c.file = "images";
  c.samples = samples;
  c.sample_shape = image;
  std::mt19937 random(8);
  for (std::int64_t i = 0; i < samples; ++i) {
    c.labels.push_back(static_cast<std::int32_t>(i % classes));
    for (std::int64_t e = 0; e < image.elements(); ++e) {
      const auto v = static_cast<std::uint8_t>(random() % 200 + static_cast<unsigned>(e % 50));
      if (!infinite)
        c.bytes.push_back(v);
      else
        c.floats.push_back(e == 0 ? std::numeric_limits<float>::infinity() : static_cast<float>(v) / 256.0f);
    }
  }
  return std::make_shared<MemoryDataset>(std::move(c));
}

BatchFields fields_of(const Dataset& data, bool on_device) {
  const Field wanted[] = {{"input", DType::f32, image}, {"label", DType::i32, Shape{}}};
  const bool bytes = FieldColumn(data, input_field).is_bytes();
  return batch_fields(wanted, data, bytes ? Normalizer::fit("standard", data) : Normalizer{}, {true, 2, seed},
                      on_device);
}

LoaderOptions loading(const std::shared_ptr<const Dataset>& data, Node mine, bool on_device) {
  LoaderOptions options;
  options.data = data;
  options.fields = fields_of(*data, on_device).readers;
  options.mine = mine;
  options.workers = 0;
  return options;
}

class DeviceAugmentation : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = test::step_device_missing(); !missing.empty())
      LOCKSTEP_SKIP_WITHOUT("gpu", missing);
  }
};

/// What the first op puts out, channels-last.
class FirstOutput final : public OpInspector {
 public:
  void forward(std::span<const int> nodes, std::span<const float> output) override {
    if (nodes.front() == 0) seen.assign(output.begin(), output.end());
  }
  void backward(std::span<const int>, std::span<const float>,
                std::span<const std::span<const float>>) override {}
  std::vector<float> seen;
};

// A maximum over one pixel is that pixel: behind it stands what the device made of its input.
TEST_F(DeviceAugmentation, TheDeviceSeesTheImagesOfTheLoadersThreads) {
  const Graph graph = build_layers("maxpool:1 conv:4x3 flatten dense:4", image, classes, CrossEntropyAttrs{});
  const auto data = images();
  const EpochOrder order(samples, batch, 1, seed);
  Loader host(order, loading(data, {0, 1}, false)), device(order, loading(data, {0, 1}, true));
  LanePool lanes(1);
  ExecutorOptions options;
  options.slice_rows = batch;
  options.transforms = fields_of(*data, true).transforms;
  const auto executor =
      test::step_device(false, cuda::Precision::fp32).compile(graph, options, lanes, nullptr);
  std::vector<float> flat(static_cast<std::size_t>(executor->layout().elements), 0.01f), root(flat.size());
  const std::span<float> roots[] = {root};
  SliceResult result;
  FirstOutput first;
  StepInputs inputs;
  inputs.parameters = flat;
  inputs.roots = roots;
  inputs.results = {&result, 1};
  inputs.inspector = &first;
  struct Still {  // the image as it is without being moved
    NormalizedField reader;
    std::vector<float> out = std::vector<float>(static_cast<std::size_t>(image.elements()));
    const std::vector<float>& read(std::int64_t sample) {
      reader.read(sample, out);
      return out;
    }
  } still{NormalizedField(*data, Normalizer::fit("standard", *data))};
  int moved = 0;
  for (int i = 0; i < 4; ++i) {  // batches of 12 and 10, two epochs
    const Batch &want = host.next().slices[0], &given = device.next().slices[0];
    inputs.slices = {&given, 1};
    executor->train(inputs);
    const auto channels = static_cast<std::size_t>(image[0]);
    const auto pixels = static_cast<std::size_t>(image[1] * image[2]);
    const auto valid = static_cast<std::size_t>(want.valid);
    ASSERT_EQ(first.seen.size(), valid * channels * pixels);
    for (std::size_t n = 0; n < valid; ++n)
      for (std::size_t p = 0; p < pixels; ++p)
        for (std::size_t c = 0; c < channels; ++c) {
          const float got = first.seen[(n * pixels + p) * channels + c];
          const std::size_t at = (n * channels + c) * pixels + p;
          ASSERT_EQ(0, std::memcmp(&got, &want.field(0).as<float>()[at], sizeof got))
              << n << " " << c << " " << p;
          moved += got != still.read(given.samples[n])[c * pixels + p];
        }
  }
  EXPECT_GT(moved, 44 * 168 / 2);
}

struct Outcome {
  std::vector<float> parameters;
  std::vector<float> totals_seen;
  bool operator==(const Outcome&) const = default;
};

Outcome train(int ranks, bool on_device, bool resident, cuda::Precision precision, bool checked = false) {
  const Graph graph =
      build_layers("conv:8x3,pad=1 bn relu maxpool:2 conv:8x3 relu flatten dropout:0.2 dense:4", image,
                   classes, CrossEntropyAttrs{});
  const auto data = images();
  const EpochOrder order(samples, batch, slices, seed);
  Outcome outcome;
  run_ranks(ranks, {}, [&](Communicator& comm) {
    TrainStepOptions options;
    options.seed = seed;
    options.slice_rows = rows;
    options.optimizer.momentum = 0.9;
    options.sync.slices = slices;
    options.device = test::step_device(resident, precision);
    const BatchFields fields = fields_of(*data, on_device);
    options.transforms = fields.transforms;
    LanePool lanes(1);
    std::int64_t now = 0;
    const LoadedBatch* loaded = nullptr;
    std::unique_ptr<RecomputeCheck> check;
    std::unique_ptr<SliceProbe> probe;
    std::unique_ptr<TrainStep> step;
    if (checked)
      options.before_update = [&](std::span<const SliceResult>) {
        check->run(now, loaded->range, step->parameters(), step->kept_gradient(), *probe);
        return true;
      };
    step = make_train_step(graph, options, comm, lanes);
    if (checked) {
      RecomputeCheck::Options checking;
      checking.every = 1;
      checking.seed = seed;
      checking.data = data;
      checking.fields = fields.readers;
      checking.hosts.assign(static_cast<std::size_t>(ranks), "here");
      check = std::make_unique<RecomputeCheck>(order, checking, comm);
      probe = std::make_unique<SliceProbe>(graph, rows, lanes, options.device, step->executor().plan_choice(),
                                           nullptr, fields.transforms);
    }
    initialise_model(graph, step->executor(), seed, step->writable_parameters());
    comm.barrier();
    Loader loader(order, loading(data, step->slices(), on_device));
    std::vector<SliceResult> results(static_cast<std::size_t>(step->slices().size()));
    for (; now < 5; ++now) {
      loaded = &loader.next();
      if (checked) step->keep_slice(check->slice_of(now, loaded->range));
      EXPECT_EQ(step->run(loaded->slices, loaded->range.count, now, 0.05, results).fault, StepFault::none);
    }
    const std::span<const float> parameters = step->parameters();
    if (comm.rank() == 0) outcome.parameters.assign(parameters.begin(), parameters.end());
    comm.barrier();
  });
  return outcome;
}

TEST_F(DeviceAugmentation, TrainingHasTheBitsOfTheLoadersAugmentationOnAnyNumberOfRanks) {
  for (const cuda::Precision precision : {cuda::Precision::fp32, cuda::Precision::bf16}) {
    const Outcome want = train(1, false, false, precision);
    for (int ranks = 1; ranks <= 3; ++ranks)
      for (const bool resident : {false, true})
        EXPECT_TRUE(train(ranks, true, resident, precision) == want) << ranks << " " << resident;
  }
}

TEST_F(DeviceAugmentation, SlicesThatAreComputedAgainSeeTheSameImages) {
  for (const bool on_device : {false, true})
    for (const int ranks : {1, 3})
      EXPECT_NO_THROW(train(ranks, on_device, false, cuda::Precision::fp32, true)) << on_device << ranks;
}

// An infinity in every image's corner, which some moves cut off: the rows that keep it are bad, the others
// are not. The search moves rows to the front of a slice, and their moves must go with them.
TEST_F(DeviceAugmentation, TheSearchForFaultsMovesEachRowAsTheStepDid) {
  const Graph graph = build_layers("conv:4x3 relu flatten dense:4", image, classes, CrossEntropyAttrs{});
  const auto data = images(true);
  const EpochOrder order(samples, samples, 1, seed);
  const Augmentation a{true, 2, seed};
  std::set<std::int64_t> want;
  for (std::int64_t i = 0; i < samples; ++i) {
    const ImageMove move = image_move(a, augmentation_key(a, 0), i);
    if (move.dy <= 0 && move.dx <= 0) want.insert(i);  // the mirror leaves every pixel in the image
  }
  ASSERT_GT(want.size(), 3u);
  ASSERT_LT(want.size(), 19u);
  for (const bool on_device : {false, true})
    run_ranks(1, {}, [&](Communicator& comm) {
      LanePool lanes(1);
      SliceProbe probe(graph, samples, lanes, test::step_device(false, cuda::Precision::fp32), {}, nullptr,
                       fields_of(*data, on_device).transforms);
      const std::vector<float> flat(static_cast<std::size_t>(probe.executor().layout().elements), 0.01f);
      Loader loader(order, loading(data, {0, 1}, on_device));
      const LoadedBatch& loaded = loader.next();
      const FaultReport report = find_nonfinite({comm, graph, probe, loaded.slices, flat, {}, seed, 0});
      EXPECT_EQ(std::set(report.samples.begin(), report.samples.end()), want) << report.what;
      EXPECT_EQ(report.samples.size(), want.size());
    });
}

TEST_F(DeviceAugmentation, BatchesOfAnotherLoaderAreRefused) {
  const Graph graph = build_layers("flatten dense:4", image, classes, CrossEntropyAttrs{});
  const auto data = images();
  const EpochOrder order(samples, batch, slices, seed);
  LanePool lanes(1);
  const ComputeDevice device = test::step_device(false, cuda::Precision::fp32);
  const BatchFields fields = fields_of(*data, true);
  for (const bool compiled : {false, true}) {
    SliceProbe probe(graph, rows, lanes, device, {}, nullptr,
                     compiled ? fields.transforms : std::vector<FieldTransform>{});
    const std::vector<float> flat(static_cast<std::size_t>(probe.executor().layout().elements), 0.01f);
    Loader right(order, loading(data, {0, 1}, compiled)), wrong(order, loading(data, {0, 1}, !compiled));
    EXPECT_NO_THROW(probe.compute(right.next().slices[0], flat, seed, 0));
    EXPECT_THROW(probe.compute(wrong.next().slices[0], flat, seed, 0), InternalError);
  }
  // What is no image cannot be compiled for it.
  const Graph flat_graph = build_layers("dense:4", {9}, classes, CrossEntropyAttrs{});
  EXPECT_THROW(SliceProbe(flat_graph, rows, lanes, device, {}, nullptr, fields.transforms), InternalError);
}

}  // namespace
}  // namespace lockstep
