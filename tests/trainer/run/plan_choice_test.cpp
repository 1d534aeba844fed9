// Which library plans the ranks of a job take: what rank 0 found, and after a resume what the checkpoint
// holds.

#include "trainer/run/plan_choice.h"

#include <cstdlib>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "comm/threads/thread_communicator.h"
#include "core/digest.h"
#include "core/flight_recorder.h"
#include "device/lane_pool.h"
#include "model/cuda/fake_plan_library.h"
#include "model/cuda/host_engine.h"
#include "model/cuda/tuning/plan_picker.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/test_support.h"
#include "trainer/evaluate/evaluation.h"
#include "trainer/step/compute_device.h"

namespace lockstep {
namespace {

using test::TempDir;

/// The host in the part of a GPU whose library has several plans for dense layers; each rank measures other
/// times, as it would on devices that are not quite alike.
class PickingMachine : public test::HostMachine {
 public:
  PickingMachine(int rank, cuda::PlanTuner* tuner, const ExecutorOptions& options, int& measured)
      : picker_(options.plan_choice, tuner), rank_(rank), progress_(options.progress), measured_(measured) {}
  void choose_plans(const cuda::Plan& plan) override {
    for (const cuda::Command& command : plan.forward) {
      if (const auto* dense = std::get_if<cuda::DenseForward>(&command))
        pick(cuda::DensePass::forward, dense->shape);
    }
    for (const cuda::Command& command : plan.backward) {
      if (const auto* dense = std::get_if<cuda::DenseBackwardWeights>(&command))
        pick(cuda::DensePass::weights, dense->shape);
    }
    picker_.save();
  }
  std::string plan_choice() const override { return picker_.chosen().text(); }

 private:
  void pick(cuda::DensePass pass, const cuda::DenseShape& shape) {
    for (int plan = 0; plan < 4; ++plan)
      library_.plans[describe(pass, shape)].push_back(
          {"plan " + std::to_string(plan), plan == rank_ ? 1. : 2.});
    EXPECT_TRUE(picker_.pick(library_, std::vector{pass}, shape,
                             [&](cuda::DensePass p, const cuda::TuningLimits&, double) {
                               ++measured_;
                               if (progress_) progress_();
                               return library_.measure(p, shape);
                             }));
  }

  cuda::PlanPicker picker_;
  test::FakePlanLibrary library_;
  int rank_;
  std::function<void()> progress_;
  int& measured_;
};

/// A rank's device. `cache`: its own, or empty.
struct PickingDevice {
  explicit PickingDevice(int rank, const std::string& cache)
      : tuner(std::make_shared<cuda::PlanTuner>(cuda::TuningCircumstances{}, cache)) {
    device.picks_plans = true;
    device.compile = [this, rank](const Graph& graph, const ExecutorOptions& options, LanePool&,
                                  Timeline*) -> std::unique_ptr<Executor> {
      return test::make_host_engine(graph, options, cuda::CudaOptions{},
                                    std::make_unique<PickingMachine>(rank, tuner.get(), options, measured))
          .executor;
    };
  }
  std::shared_ptr<cuda::PlanTuner> tuner;
  int measured = 0;
  ComputeDevice device;
};

Graph small_graph() {
  return build_layers("flatten dense:6 relu dense:3", {1, 2, 2}, 3, CrossEntropyAttrs{});
}

/// The choice of each rank, and how often it measured.
struct Outcome {
  std::map<int, std::string> choices;
  std::map<int, int> measured;
};

Outcome compile_on(int ranks, const std::function<std::string(int rank)>& cache) {
  const Graph graph = small_graph();
  Outcome outcome;
  std::mutex mutex;
  run_ranks(ranks, {}, [&](Communicator& comm) {
    PickingDevice picking(comm.rank(), cache(comm.rank()));
    LanePool lanes(1);
    ExecutorOptions options;
    options.slice_rows = 2;
    options.slices = ranks;
    options.mine = {comm.rank(), comm.rank() + 1};
    const auto executor = compile_on_all(picking.device, graph, options, comm, lanes);
    const std::scoped_lock lock(mutex);
    outcome.choices[comm.rank()] = executor->plan_choice();
    outcome.measured[comm.rank()] = picking.measured;
  });
  return outcome;
}

std::string everywhere(const std::string& plan) {
  return "dense forward 2 rows 4 to 6 = " + plan + "\ndense forward 2 rows 6 to 3 = " + plan +
         "\ndense weights 2 rows 4 to 6 = " + plan + "\ndense weights 2 rows 6 to 3 = " + plan + "\n";
}

TEST(PlanChoice, AllRanksTakeWhatRank0Measured) {
  for (const int ranks : {1, 2, 4}) {
    const Outcome outcome = compile_on(ranks, [](int) { return ""; });
    for (int r = 0; r < ranks; ++r) {
      EXPECT_EQ(outcome.choices.at(r), everywhere("plan 0")) << r;
      EXPECT_EQ(outcome.measured.at(r), r == 0 ? 4 : 0) << r;
    }
  }
}

TEST(PlanChoice, AllRanksTakeRank0sCacheWhateverTheirsSay) {
  const TempDir dir;
  const auto cache = [&](int rank) { return dir / (std::to_string(rank) + ".txt"); };
  // Each rank's cache as it would be had that rank picked.
  for (int r = 0; r < 3; ++r) {
    PickingDevice picking(r, cache(r));
    LanePool lanes(1);
    ExecutorOptions options;
    options.slice_rows = 2;
    EXPECT_EQ(picking.device.compile(small_graph(), options, lanes, nullptr)->plan_choice(),
              everywhere("plan " + std::to_string(r)));
  }
  const Outcome outcome = compile_on(3, [&](int rank) { return cache(rank == 0 ? 2 : rank); });
  for (int r = 0; r < 3; ++r) {
    EXPECT_EQ(outcome.choices.at(r), everywhere("plan 2")) << r;
    EXPECT_EQ(outcome.measured.at(r), 0) << r;
  }
}

TEST(PlanChoice, AnEvaluationTakesTheNamedPlansOverTheCaches) {
  const TempDir dir;
  const Graph graph = small_graph();
  const std::string named = "dense forward 4 rows 4 to 6 = plan 3\ndense forward 4 rows 6 to 3 = plan 1\n";
  run_ranks(2, {}, [&](Communicator& comm) {
    PickingDevice picking(comm.rank(), dir / "plans.txt");
    LanePool lanes(1);
    Evaluator fresh(graph, 8, 2, comm, lanes, {}, picking.device);
    EXPECT_EQ(fresh.executor().plan_choice(),
              "dense forward 4 rows 4 to 6 = plan 0\ndense forward 4 rows 6 to 3 = plan 0\n");
    Evaluator again(graph, 8, 2, comm, lanes, {}, picking.device, named);
    EXPECT_EQ(again.executor().plan_choice(), named);
  });
}

/// Another communicator with a recorder, as a job's has one.
class Watched final : public Communicator {
 public:
  Watched(Communicator& inner, FlightRecorder& recorder) : Communicator(&recorder), inner_(inner) {}
  const Topology& topology() const override { return inner_.topology(); }
  void barrier() override { inner_.barrier(); }
  void broadcast(std::span<std::byte> data, int root) override { inner_.broadcast(data, root); }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    inner_.all_gather(mine, all);
  }
  std::unique_ptr<Request> start_all_reduce_sum(std::span<float> data) override {
    return inner_.start_all_reduce_sum(data);
  }
  std::unique_ptr<Request> send(std::span<const std::byte> data, int to, int tag) override {
    return inner_.send(data, to, tag);
  }
  std::unique_ptr<Request> receive(std::span<std::byte> data, int from, int tag) override {
    return inner_.receive(data, from, tag);
  }
  std::unique_ptr<PersistentRequest> make_send(std::span<const std::byte> data, int to, int tag) override {
    return inner_.make_send(data, to, tag);
  }
  std::unique_ptr<PersistentRequest> make_receive(std::span<std::byte> data, int from, int tag) override {
    return inner_.make_receive(data, from, tag);
  }
  void poll() override { inner_.poll(); }
  std::unique_ptr<SharedRegion> allocate_shared(std::size_t bytes) override {
    return inner_.allocate_shared(bytes);
  }
  [[noreturn]] void abort(int code) override {
    inner_.abort(code);
    std::abort();
  }

 private:
  Communicator& inner_;
};

TEST(PlanChoice, MeasuringIsProgressForTheWatchdog) {
  run_ranks(2, {}, [&](Communicator& inner) {
    FlightSlot slot;
    FlightRecorder recorder(slot);
    Watched comm(inner, recorder);
    PickingDevice picking(comm.rank(), "");
    std::uint64_t ticks = 0;
    const auto compile = picking.device.compile;
    picking.device.compile = [&](const Graph& graph, const ExecutorOptions& options, LanePool& lanes,
                                 Timeline* timeline) {
      const std::uint64_t before = slot.beats;
      auto executor = compile(graph, options, lanes, timeline);
      ticks = slot.beats - before;
      return executor;
    };
    LanePool lanes(1);
    ExecutorOptions options;
    options.slice_rows = 2;
    options.slices = 2;
    options.mine = {comm.rank(), comm.rank() + 1};
    (void)compile_on_all(picking.device, small_graph(), options, comm, lanes);
    EXPECT_EQ(ticks, comm.rank() == 0 ? 4u : 0u);
  });
}

// ---- what a checkpoint keeps ----

constexpr std::int64_t slices = 8, rows = 5;

/// What a resume with so many slices and rows takes from a checkpoint that holds `extra`.
PlanChoices stored(const std::string& extra, std::int64_t wanted_slices = slices,
                   std::int64_t wanted_rows = rows) {
  const TempDir dir;
  CheckpointStore store(dir.path());
  const checkpoint_test::Tensors tensors(3);
  RunState state = checkpoint_test::state_at(3);
  state.slices = slices;
  const std::string manifest =
      store.save(store.claim_generation(), state, tensors.model, tensors.optimizer) + "/" + manifest_file;
  nlohmann::json document = nlohmann::json::parse(test::read_file_bytes(manifest));
  document["extra"] = nlohmann::json::parse(extra);
  document.erase("sha256");
  document["sha256"] = sha256_hex(document.dump());
  test::write_file_bytes(manifest, document.dump());
  PlanChoices found;
  run_ranks(3, {}, [&](Communicator& comm) {
    const PlanChoices mine = stored_plan_choices(comm, dir.path(), wanted_slices, wanted_rows);
    const std::string others = comm.broadcast_text(mine.training + "|" + mine.evaluation, 1);
    EXPECT_EQ(mine.training + "|" + mine.evaluation, others);
    if (comm.rank() == 2) found = mine;
  });
  return found;
}

std::string extra_of(const PlanChoices& choices) {
  RunState state;
  state.plans = choices;
  return to_json(state)["extra"].dump();
}

TEST(StoredPlans, ComeBackOnEveryRank) {
  const PlanChoices found = stored(extra_of({"a = p\n", "b = q\n", rows}));
  EXPECT_EQ(found.training, "a = p\n");
  EXPECT_EQ(found.evaluation, "b = q\n");
}

TEST(StoredPlans, AreForSlicesOfOneSize) {
  const std::string extra = extra_of({"a = p\n", "b = q\n", rows});
  const PlanChoices other_slices = stored(extra, slices / 2);
  EXPECT_EQ(other_slices.training, "") << "with --allow-slices-change the shapes are others";
  EXPECT_EQ(other_slices.evaluation, "");
  const PlanChoices other_rows = stored(extra, slices, rows + 1);
  EXPECT_EQ(other_rows.training, "a = p\n");
  EXPECT_EQ(other_rows.evaluation, "");
}

TEST(StoredPlans, OfAnOlderOrADamagedManifestAreNone) {
  const PlanChoices older = stored(R"({"plan_choice": "a = p\n"})");
  EXPECT_EQ(older.training, "a = p\n");
  EXPECT_EQ(older.evaluation, "");
  for (const char* extra : {"{}", R"({"plan_choice": 5, "evaluation_plan_choice": null})",
                            R"({"evaluation_plan_choice": "b = q\n", "evaluation_rows": "5"})"}) {
    const PlanChoices found = stored(extra);
    EXPECT_EQ(found.training + found.evaluation, "") << extra;
  }
}

TEST(StoredPlans, OfARunWithoutACheckpointAreNone) {
  const TempDir dir;
  run_ranks(2, {}, [&](Communicator& comm) {
    const PlanChoices found = stored_plan_choices(comm, dir.path(), slices, rows);
    EXPECT_EQ(found.training + found.evaluation, "");
  });
}

}  // namespace
}  // namespace lockstep
