// Sessions that answer: what one says does not depend on the others that share its lanes, nor on a training
// between its calls.

#include "trainer/infer/inference_session.h"

#include <cstring>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

#include "comm/threads/thread_communicator.h"
#include "core/error.h"
#include "data/epoch_order.h"
#include "data/loader.h"
#include "data/memory_dataset.h"
#include "data/normalized_field.h"
#include "data/readers/synthetic.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"

namespace lockstep {
namespace {

constexpr std::int64_t samples = 40, batch = 20, slices = 4, classes = 5;
const Shape image{3, 6, 6};

Graph graph_of(const std::string& layers) {
  return build_layers(layers, image, classes, CrossEntropyAttrs{});
}
const char* const convolution = "conv:8x3,pad=1 bn relu maxpool:2 flatten dense:5";
const char* const dense = "flatten dense:32 gelu dense:5";

/// Gives the batches of one small data set, again and again, in order.
class Batches {
 public:
  Batches() : data_(make()), order_(samples, batch, slices, std::nullopt) {
    LoaderOptions loading;
    loading.data = data_;
    loading.fields = batch_fields(data_->fields(), *data_, {}).readers;
    loading.mine = {0, slices};
    loading.workers = 0;
    loader_ = std::make_unique<Loader>(order_, std::move(loading));
  }
  const LoadedBatch& next() { return loader_->next(); }

 private:
  static std::shared_ptr<const Dataset> make() {
    SyntheticOptions made;
    made.samples = samples;
    made.shape = image;
    made.classes = classes;
    return std::make_shared<MemoryDataset>(make_synthetic(made));
  }
  std::shared_ptr<const Dataset> data_;
  EpochOrder order_;
  std::unique_ptr<Loader> loader_;
};

/// A session with parameters made from `seed`.
struct Answering {
  Answering(const std::string& layers, std::uint64_t seed, Communicator& comm, LanePool& lanes)
      : graph(graph_of(layers)),
        session(graph, {batch / slices, slices, {0, slices}, ""}, ComputeDevice{}, comm, lanes),
        parameters(static_cast<std::size_t>(session.executor().layout().elements)) {
    fill(seed);
  }
  void fill(std::uint64_t seed) {
    initialise_model(graph, session.executor(), seed, parameters);
    session.use(parameters);
  }
  /// To the next batch, added to `answers`.
  void answer(Batches& batches) {
    session.run(batches.next().slices);
    for (const std::vector<float>& output : session.outputs())
      answers.insert(answers.end(), output.begin(), output.end());
  }
  Graph graph;
  InferenceSession session;
  std::vector<float> parameters;
  std::vector<float> answers;
};

/// To four batches, with lanes that nobody else has.
std::vector<float> alone(const std::string& layers, std::uint64_t seed, int lanes) {
  std::vector<float> answers;
  run_ranks(1, {}, [&](Communicator& comm) {
    LanePool pool(lanes);
    Answering one(layers, seed, comm, pool);
    Batches batches;
    for (int b = 0; b < 4; ++b) one.answer(batches);
    answers = one.answers;
  });
  return answers;
}

void expect_equal(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0);
}

TEST(InferenceSessions, ThatShareLanesAnswerAsEachAlone) {
  const std::vector<float> first = alone(convolution, 1, 1), second = alone(dense, 2, 1),
                           third = alone(convolution, 3, 1);
  ASSERT_EQ(first.size(), static_cast<std::size_t>(4 * batch * classes));
  EXPECT_NE(first, third) << "other weights give other answers";
  for (const int lanes : {1, 3})
    run_ranks(1, {}, [&](Communicator& comm) {
      LanePool pool(lanes);
      Answering a(convolution, 1, comm, pool), b(dense, 2, comm, pool), c(convolution, 3, comm, pool);
      Batches for_a, for_b, for_c;
      for (int i = 0; i < 4; ++i) {
        a.answer(for_a);
        c.answer(for_c);
        b.answer(for_b);
      }
      expect_equal(a.answers, first);
      expect_equal(b.answers, second);
      expect_equal(c.answers, third);
    });
}

TEST(InferenceSessions, AnswerTheSameBetweenTheStepsOfATraining) {
  const std::vector<float> want = alone(convolution, 1, 2);
  run_ranks(1, {}, [&](Communicator& comm) {
    LanePool pool(2);
    Answering one(convolution, 1, comm, pool);
    const Graph graph = graph_of(dense);
    TrainStepOptions options;
    options.slice_rows = batch / slices;
    options.sync.slices = slices;
    const std::unique_ptr<TrainStep> step = make_train_step(graph, options, comm, pool);
    initialise_model(graph, step->executor(), 5, step->writable_parameters());
    std::vector<SliceResult> results(static_cast<std::size_t>(slices));
    Batches asked, trained;
    for (std::int64_t s = 0; s < 4; ++s) {
      one.answer(asked);
      const LoadedBatch& loaded = trained.next();
      step->run(loaded.slices, loaded.range.count, s, 0.1, results);
    }
    expect_equal(one.answers, want);
  });
}

TEST(InferenceSessions, TakeNewParametersWhenTheyAreTold) {
  run_ranks(1, {}, [&](Communicator& comm) {
    LanePool pool(2);
    Answering one(convolution, 1, comm, pool);
    Batches batches;
    one.answer(batches);
    one.answer(batches);
    one.fill(3);
    one.answers.clear();
    for (int b = 0; b < 4; ++b) one.answer(batches);
    expect_equal(one.answers, alone(convolution, 3, 1));
  });
}

TEST(InferenceSessions, RefuseARunWithoutParameters) {
  run_ranks(1, {}, [&](Communicator& comm) {
    LanePool pool(1);
    const Graph graph = graph_of(dense);
    InferenceSession session(graph, {batch / slices, slices, {0, slices}, ""}, ComputeDevice{}, comm, pool);
    Batches batches;
    EXPECT_THROW(session.run(batches.next().slices), InternalError);
    const std::vector<float> parameters(static_cast<std::size_t>(session.executor().layout().elements));
    session.use(parameters);
    EXPECT_THROW(session.run({}), InternalError);
  });
}

}  // namespace
}  // namespace lockstep
