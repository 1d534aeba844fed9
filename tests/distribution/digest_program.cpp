// Trains one small model under many placements in one launch and prints the digest of each: parameters,
// running statistics, optimizer state and losses. Run by distribution_test.cpp under mpirun:
//   digest_program MODEL STEPS SEED [all | few | threads | one | flip | fast] [cuda | cuda-plain]
// MODEL is cnn (batch norm, dropout, clipping), augmented (the same on images that are mirrored and cropped),
// frozen (the same, some of it not trained), the name of an optimizer rule (cnn with groups), mlp, or tokens
// (sequences in four length classes). Every line of rank 0 is
//   DIGEST THREADS OVERLAP BUCKET_ELEMENTS SHARDED STATE_ELEMENTS BUCKETS
// all (the default): many placements; few: three; threads: one for each of 1, 2 and 3; the others: one. flip:
// the sign bit of one gradient is flipped on the last rank in step 3. cuda: on GPUs, which ranks share where
// there are too few; cuda-plain: without captured graphs. Exit code 0 when all went well.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fmt/format.h>
#include <iostream>
#include <memory>

#include "comm/mpi/mpi_communicator.h"
#include "core/digest.h"
#include "core/error.h"
#include "data/epoch_order.h"
#include "data/loader.h"
#include "data/normalized_field.h"
#include "data/readers/synthetic.h"
#include "model/graph/freeze.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "optim/rules/table.h"
#include "support/token_model.h"
#include "trainer/guard/loss_log.h"
#include "trainer/step/device_choice.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

constexpr std::int64_t slices = 12;
constexpr std::int64_t global_batch = 48;
constexpr std::int64_t samples = 130;  // two whole batches and one of 34 in an epoch

struct Placement {
  int threads;
  bool overlap;
  std::int64_t bucket_elements;
  bool sharded;
};

struct Subject {
  std::string model;
  std::int64_t steps;
  std::uint64_t seed;
  bool flip = false;
  bool fast = false;
  ComputeDevice device;
};

bool is_rule(const std::string& name) {
  const std::vector<std::string> names = rule_names();
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string train_digest(Communicator& comm, const Subject& subject, const Placement& placement,
                         std::string& facts) {
  const Shape input{3, 12, 12};
  const bool augmented = subject.model == "augmented";
  const bool of_rule = is_rule(subject.model);
  const bool tokens = subject.model == "tokens";
  const bool cnn = subject.model != "mlp" && !tokens;
  Graph graph =
      tokens ? test::token_graphs(0.2).back()
             : build_layers(
                   cnn ? "conv:16x3,pad=1 bn relu maxpool:2 conv:24x3 bn relu dropout:0.3 flatten dense:40 "
                         "relu dense:5"
                       : "flatten dense:96 gelu dense:33 relu dense:5",
                   input, 5, CrossEntropyAttrs{});
  if (subject.model == "frozen") freeze_parameters(graph, "conv1.*, bn1.*, conv2.bias");
  SyntheticOptions made;
  made.samples = samples;
  made.shape = input;
  made.classes = 5;
  made.seed = subject.seed;
  const std::shared_ptr<const Dataset> data =
      tokens ? test::token_data(samples) : std::make_shared<const MemoryDataset>(make_synthetic(made));
  const EpochOrder order = tokens ? test::token_order(*data, global_batch, slices, subject.seed)
                                  : EpochOrder(samples, global_batch, slices, subject.seed);

  TrainStepOptions options;
  options.seed = subject.seed;
  options.slice_rows = global_batch / slices;
  options.clip_norm = cnn ? 0.5 : 0.0;
  options.optimizer.name = of_rule ? subject.model : cnn ? "adamw" : "sgd";
  options.optimizer.momentum =
      options.optimizer.name == "sgd" || options.optimizer.name == "lars" ? 0.9 : 0.0;
  if (of_rule) options.optimizer.groups = "*.bias: decay=0; conv1.*: lr=0.5x";
  options.optimizer.weight_decay = 0.01;
  options.sync.reduction = subject.fast ? Reduction::fast : Reduction::ordered;
  options.sync.overlap = placement.overlap;
  options.sync.sharded = placement.sharded;
  options.sync.bucket_elements = placement.bucket_elements;
  options.sync.slices = slices;
  options.device = subject.device;
  const Augmentation augmentation = augmented ? Augmentation{true, 2, subject.seed} : Augmentation{};
  const BatchFields fields =
      batch_fields(graph.fields, *data, {}, augmentation, subject.device.transforms_fields);
  options.transforms = fields.transforms;
  if (tokens) options.classes = test::token_graphs(0.2);
  std::int64_t at = 0;
  std::atomic<bool> flipped{false};
  if (subject.flip && comm.rank() == comm.size() - 1)
    options.after_slice = [&](std::int64_t, Range range, std::span<float> gradient) {
      if (at != 3 || range.size() < 1) return;
      // Not a zero, whose sign nobody would miss.
      const auto victim = std::find_if(gradient.begin(), gradient.end(), [](float g) { return g != 0; });
      if (victim == gradient.end() || flipped.exchange(true)) return;
      std::uint32_t bits;
      std::memcpy(&bits, &*victim, sizeof bits);
      bits ^= 0x80000000u;
      std::memcpy(&*victim, &bits, sizeof bits);
    };
  LanePool lanes(placement.threads);
  const std::unique_ptr<TrainStep> made_step = make_train_step(graph, options, comm, lanes);
  TrainStep& step = *made_step;
  initialise_model(graph, step.executor(), subject.seed, step.writable_parameters());
  comm.barrier();
  LoaderOptions loading;
  loading.data = data;
  loading.mine = step.slices();
  loading.workers = placement.threads % 2;
  loading.fields = fields.readers;
  Loader loader(order, std::move(loading));
  LossLog log(comm, slices, 4);
  std::vector<SliceResult> results(static_cast<std::size_t>(step.slices().size()));
  std::vector<double> losses;
  auto flush = [&] {
    for (const StepSums& sums : log.flush()) losses.push_back(sums.loss);
  };
  for (; at < subject.steps; ++at) {
    const LoadedBatch& batch = loader.next();
    step.run(batch.slices, batch.range.count, at, 0.05 / static_cast<double>(1 + at), results);
    log.record(at, results);
    if (log.full()) flush();
  }
  flush();
  facts = fmt::format("{} {}", step.optimizer().state_elements(), step.sync().buckets());
  const auto state = gather_optimizer_state(comm, step.executor(), step.optimizer());
  comm.barrier();
  if (comm.rank() != 0) return "";
  TensorDigest digest;
  for (const auto& t : export_model(step.executor(), step.parameters()))
    digest.add(t.name, DType::f32, t.shape, std::as_bytes(std::span(t.data)));
  for (const auto& t : state) digest.add(t.name, DType::f32, t.shape, std::as_bytes(std::span(t.data)));
  digest.add("losses", DType::f64, {static_cast<std::int64_t>(losses.size())},
             std::as_bytes(std::span(losses)));
  return digest.hex();
}

int program(int argc, char** argv) {
  MpiEnvironment mpi(&argc, &argv);
  const auto comm =
      make_world_communicator(mpi, 4 << 20, [](const std::string& text) { std::cerr << text << '\n'; });
  Subject subject{argv[1], std::stoll(argv[2]), std::stoull(argv[3]), false, false, {}};
  const std::string extra = argc > 4 ? argv[4] : "";
  subject.flip = extra == "flip";
  subject.fast = extra == "fast";
  const std::string device = argc > 5 ? argv[5] : "";
  if (!device.empty()) {
    Config config;
    config.device.kind = "cuda";
    config.device.share = true;
    config.device.graph = device == "cuda";
    subject.device = open_device(choose_device(config, *comm), config);
  }
  std::vector<Placement> placements;
  if (extra.empty() || extra == "all") {
    for (const int threads : device.empty() ? std::vector{1, 2, 3} : std::vector{1})
      for (const bool overlap : {true, false})
        for (const std::int64_t bucket : {1, 3 * 4096, 1 << 30})
          for (const bool sharded : {true, false}) placements.push_back({threads, overlap, bucket, sharded});
  } else if (extra == "few") {
    placements = {{1, true, 4096, true}, {2, false, 1 << 30, true}, {1, true, 3 * 4096, false}};
  } else if (extra == "threads") {
    for (const int threads : {1, 2, 3}) placements.push_back({threads, threads != 2, 4096, threads != 3});
  } else {
    placements.push_back({2, true, 4096, true});
  }
  for (const Placement& p : placements) {
    std::string facts;
    const std::string digest = train_digest(*comm, subject, p, facts);
    if (comm->rank() == 0)
      std::cout << fmt::format("{} {} {:d} {} {:d} {}\n", digest, p.threads, p.overlap, p.bucket_elements,
                               p.sharded, facts)
                << std::flush;
  }
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: digest_program MODEL STEPS SEED [all|few|threads|one|flip|fast] [cuda|cuda-plain]\n";
    return 2;
  }
  try {
    return lockstep::program(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "digest_program: " << e.what() << '\n';
    std::_Exit(1);
  }
}
