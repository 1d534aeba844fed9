// The order of a step on a GPU, read as data: streams, events, slots.

#include "model/cuda/plan/step_program.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>

#include "model/cuda/plan/plan.h"
#include "model/executor_check.h"

namespace lockstep::cuda {
namespace {

using test::zoo_of_ops;

struct Case {
  std::int64_t slices;
  Node mine;
};

/// What has happened before what, over several steps: for every stream, how much of each other stream's work
/// is known to be over by the time that its next piece begins.
class Happened {
 public:
  using Clock = std::map<Lane, std::int64_t>;
  /// A piece of work; its number on its stream.
  std::int64_t work(Lane on) { return ++clocks_[on][on]; }
  void record(int event, Lane on) { recorded_[event] = clocks_[on]; }
  void wait(int event, Lane on) {
    ASSERT_EQ(recorded_.count(event), 1u) << "an event is waited for before it is recorded";
    for (const auto& [lane, number] : recorded_[event])
      clocks_[on][lane] = std::max(clocks_[on][lane], number);
  }
  /// Whether piece `number` of stream `lane` is over when the next one of stream `on` begins.
  bool before(Lane lane, std::int64_t number, Lane on) { return clocks_[on][lane] >= number; }

 private:
  std::map<Lane, Clock> clocks_;
  std::map<int, Clock> recorded_;
};

TEST(CudaStepProgram, EventsOrderTheStreamsOverManySteps) {
  const Plan plan = make_plan(zoo_of_ops(), 2, true, Precision::fp32, 500);
  ASSERT_GT(plan.segments.size(), 3u);
  for (const Case& c :
       {Case{1, {0, 1}}, Case{2, {0, 2}}, Case{5, {0, 5}}, Case{5, {2, 5}}, Case{8, {3, 7}}, Case{4, {2, 2}}})
    for (const StepShape shape : {StepShape::staged, StepShape::resident, StepShape::whole}) {
      const bool staged = shape == StepShape::staged, whole = shape == StepShape::whole;
      const SliceSchedule schedule = make_slice_schedule(c.slices, c.mine, 1);
      Happened happened;
      std::map<int, std::int64_t> last_read, last_upload, holds;  // by input buffer
      std::int64_t last_download = 0;
      std::vector<int> order;  // of input buffers
      const int turns = make_step_program(schedule, plan, shape).turns;
      const int buffers = make_step_program(schedule, plan, shape).input_buffers;
      EXPECT_EQ(buffers, whole ? 2 * c.mine.size() : 2);
      for (int b = 0; b < buffers; ++b)
        happened.record(consumed_event(b), Lane::compute);  // as the engine does
      for (int step = 0; step < 5; ++step) {
        const StepProgram program = make_step_program(schedule, plan, shape, step % turns);
        EXPECT_EQ(program.input_buffers, buffers);
        // What is captured as one piece holds kernels alone.
        for (std::size_t i = program.body_begin; i < program.body_end; ++i) {
          EXPECT_FALSE(std::holds_alternative<Upload>(program.actions[i]));
          EXPECT_FALSE(std::holds_alternative<Wait>(program.actions[i]));
          EXPECT_FALSE(std::holds_alternative<Record>(program.actions[i]));
        }
        std::int64_t inside = 0;
        for (std::size_t i = program.body_begin; i < program.body_end; ++i)
          inside += std::holds_alternative<RunForward>(program.actions[i]);
        EXPECT_EQ(inside, whole ? c.mine.size() : 0);
        std::int64_t announced = 0, downloaded = 0, computed = 0, written = 0;
        std::map<int, Lane> on;  // event -> the stream that records it
        for (const StepAction& action : program.actions) {
          if (const auto* a = std::get_if<Upload>(&action)) {
            EXPECT_TRUE(happened.before(Lane::compute, last_read[a->buffer], Lane::upload))
                << "an input is overwritten while it is read, step " << step;
            last_upload[a->buffer] = happened.work(Lane::upload);
            holds[a->buffer] = a->slice;
            order.push_back(a->buffer);
          } else if (const auto* a = std::get_if<Record>(&action)) {
            EXPECT_LT(a->event, program.events);
            EXPECT_TRUE(on.count(a->event) == 0 || on[a->event] == a->on);
            on[a->event] = a->on;
            happened.record(a->event, a->on);
          } else if (const auto* a = std::get_if<Wait>(&action)) {
            happened.wait(a->event, a->on);
          } else if (const auto* a = std::get_if<RunForward>(&action)) {
            EXPECT_EQ(holds[a->buffer], a->slice);
            EXPECT_TRUE(happened.before(Lane::upload, last_upload[a->buffer], Lane::compute));
            last_read[a->buffer] = happened.work(Lane::compute);
            ++computed;
          } else if (const auto* a = std::get_if<RunSegment>(&action)) {
            EXPECT_EQ(holds[a->buffer], a->slice);
            last_read[a->buffer] = written = happened.work(Lane::compute);
          } else if (std::holds_alternative<MergeSlots>(action)) {
            written = happened.work(Lane::compute);
          } else if (const auto* a = std::get_if<Download>(&action)) {
            EXPECT_EQ(a->flat.begin, downloaded);
            EXPECT_TRUE(happened.before(Lane::compute, written, Lane::download));
            last_download = happened.work(Lane::download);
            downloaded = a->flat.end;
          } else if (const auto* a = std::get_if<Announce>(&action)) {
            EXPECT_EQ(a->flat.begin, announced);
            announced = a->flat.end;
            EXPECT_EQ(a->event >= 0, staged);
            if (staged) {
              EXPECT_EQ(on.at(a->event), Lane::download);
              EXPECT_EQ(downloaded, announced);
              EXPECT_TRUE(happened.before(Lane::download, last_download, Lane::download));
            }
          }
        }
        EXPECT_EQ(computed, c.mine.size());
        const std::int64_t all = c.mine.size() > 0 ? plan.layout.elements : 0;
        EXPECT_EQ(announced, all);
        EXPECT_EQ(downloaded, staged ? all : 0);
      }
      // The buffers take turns, from step to step too: so the next step's input comes during this one.
      for (std::size_t i = 1; i < order.size(); ++i) EXPECT_NE(order[i], order[i - 1]);
    }
}

// Two uploads are under way before the first slice has been computed: the next slice's data comes meanwhile.
TEST(CudaStepProgram, TheNextSliceIsUploadedBeforeThisOneIsComputed) {
  const Plan plan = make_plan(zoo_of_ops(), 2, true, Precision::fp32, 1 << 20);
  const StepProgram program = make_step_program(make_slice_schedule(4, {0, 4}, 1), plan, StepShape::staged);
  int uploads = 0, computed = 0;
  for (const StepAction& action : program.actions) {
    uploads += std::holds_alternative<Upload>(action);
    if (!std::holds_alternative<RunForward>(action)) continue;
    ++computed;
    EXPECT_EQ(uploads, std::min(4, computed + 1));
  }
}

// Every slice's gradient reaches its root along the canonical tree, range by range.
TEST(CudaStepProgram, SlotsAreMergedAlongTheTree) {
  const Plan plan = make_plan(zoo_of_ops(), 2, true, Precision::fp32, 500);
  for (std::int64_t slices = 1; slices <= 9; ++slices) {
    const SliceSchedule schedule = make_slice_schedule(slices, {0, slices}, 1);
    const StepProgram program = make_step_program(schedule, plan, StepShape::resident);
    for (std::size_t s = 0; s < plan.segments.size(); ++s) {
      std::vector<std::string> slots(static_cast<std::size_t>(schedule.slots));
      for (const StepAction& action : program.actions) {
        if (const auto* a = std::get_if<RunSegment>(&action);
            a != nullptr && a->segment == static_cast<int>(s))
          slots[static_cast<std::size_t>(a->slot)] = std::to_string(a->slice);
        if (const auto* a = std::get_if<MergeSlots>(&action);
            a != nullptr && a->flat == plan.segments[s].flat) {
          std::string& into = slots[static_cast<std::size_t>(a->into)];
          into = "(" + into + "+" + slots[static_cast<std::size_t>(a->from)] + ")";
        }
      }
      std::vector<std::string> leaves;
      for (std::int64_t i = 0; i < slices; ++i) leaves.push_back(std::to_string(i));
      EXPECT_EQ(slots[0], tree_sum(leaves.data(), slices, [](const std::string& a, const std::string& b) {
                  return "(" + a + "+" + b + ")";
                }));
    }
  }
}

}  // namespace
}  // namespace lockstep::cuda
