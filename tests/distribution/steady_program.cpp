// Counts what a steady training step takes from malloc, aligned_alloc and mmap, process-wide (all threads,
// all libraries). Run by steady_test.cpp, alone and under mpirun; every rank prints "allocations <n> of
// <ranks>". On two threads images are mirrored and cropped. Steps between saves of checkpoints, whose run
// directory is the second argument.

#include <fmt/format.h>
#include <iostream>
#include <memory>
#include <unistd.h>

#include "comm/mpi/mpi_communicator.h"
#include "comm/sync/step_control.h"
#include "data/loader.h"
#include "data/normalized_field.h"
#include "data/readers/synthetic.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/malloc_count.h"
#include "trainer/checkpoint/run_checkpoints.h"
#include "trainer/guard/loss_log.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

void train(MpiEnvironment& mpi, int threads, const std::string& run_directory) {
  const auto comm = make_world_communicator(mpi, 8 << 20, [](const std::string&) {});
  const Shape input{3, 16, 16};
  const Graph graph = build_layers(
      "conv:32x3,pad=1 bn relu maxpool:2 conv:32x3,pad=1 relu dropout:0.2 flatten dense:256 relu dense:10",
      input, 10, CrossEntropyAttrs{});
  SyntheticOptions made;
  made.samples = 1000;
  made.shape = input;
  made.classes = 10;
  const EpochOrder order(made.samples, 64, 8, 1);
  TrainStepOptions options;
  options.slice_rows = 8;
  options.clip_norm = 1;
  options.optimizer.name = "adam";
  options.sync.slices = 8;
  options.sync.bucket_elements = 4096 * 8;
  LanePool lanes(threads);
  const std::unique_ptr<TrainStep> made_step = make_train_step(graph, options, *comm, lanes);
  TrainStep& step = *made_step;
  initialise_model(graph, step.executor(), 1, step.writable_parameters());
  comm->barrier();
  LoaderOptions loading;
  loading.data = std::make_shared<MemoryDataset>(make_synthetic(made));
  const Augmentation augmentation = threads == 2 ? Augmentation{true, 2, 1} : Augmentation{};
  loading.fields = batch_fields(graph.fields, *loading.data, {}, augmentation).readers;
  loading.mine = step.slices();
  Loader loader(order, std::move(loading));
  LossLog losses(*comm, 8, 4);
  StepControl control(*comm);
  const Log log;
  RunState state;
  state.slices = 8;
  RunCheckpoints checkpoints(*comm, log, step, lanes, run_directory, {});
  StepTimesLog times(16);
  std::vector<SliceResult> results(static_cast<std::size_t>(step.slices().size()));
  std::size_t before = 0;
  constexpr std::int64_t warm = 24, steady = 40;
  for (std::int64_t i = 0; i < warm + steady; ++i) {
    if (i == warm) {
      test::watch_callers();
      before = test::malloc_count();
    }
    const LoadedBatch& batch = loader.next();
    control.post(0);
    step.run(batch.slices, batch.range.count, i, 1e-3, results);
    control.collect();
    checkpoints.poll();
    if (i == 2) {
      state.step = i;
      checkpoints.save(state);
    }
    if (i == warm / 3 && !checkpoints.wait()) throw InputError("a checkpoint could not be saved");
    times.add(step.times());
    losses.record(i, results);
    if (losses.full()) losses.flush(times.summary());
  }
  const std::size_t taken = test::malloc_count() - before;
  std::cout << fmt::format("allocations {} in {} steps, rank {} of {}, counted {}\n", taken, steady,
                           comm->rank(), comm->size(), test::malloc_is_counted())
            << std::flush;
  if (taken > 0) test::write_callers(STDERR_FILENO);
  comm->barrier();
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  try {
    lockstep::MpiEnvironment mpi(&argc, &argv);
    lockstep::train(mpi, std::stoi(argv[1]), argv[2]);
    return 0;
  } catch (const std::exception& e) {
    std::cerr << "steady_program: " << e.what() << '\n';
    std::_Exit(1);
  }
}
