// Measuring plans, on a bench that is made up: what is timed how often, what is left out, when it ends.

#include "model/cuda/tuning/plan_measure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "core/error.h"

namespace lockstep::cuda {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Fake {
  std::string name;
  double ms = 1;
  std::size_t workspace = 0;
  bool runs = true, captures = true;
};

class FakeCandidates final : public PlanCandidates {
 public:
  explicit FakeCandidates(std::vector<Fake> plans) : plans_(std::move(plans)) {}
  bool next() override { return ++at_ <= plans_.size(); }
  std::string name() const override { return now().name; }
  std::size_t workspace_bytes() const override { return now().workspace; }
  void run(const PassTensors&) const override {
    if (!now().runs) throw DeviceError("cannot run " + now().name);
  }
  const Fake& now() const { return plans_.at(at_ - 1); }

 private:
  std::vector<Fake> plans_;
  std::size_t at_ = 0;
};

/// A device whose time moves when something runs, and which needs a twentieth of a millisecond more for what
/// the host launches.
class FakeBench final : public PlanBench {
 public:
  void take_tensors(const PassBytes& bytes) override {
    taken.push_back(bytes);
    if (bytes.a > memory) throw DeviceError("no memory for tensors");
  }
  void take_workspace(std::size_t bytes) override {
    if (bytes > memory) throw DeviceError("no memory for the workspace");
  }
  double run(const PlanCandidates& plan, int warm_ups) override {
    for (int i = 0; i <= warm_ups; ++i) count(plan);
    return ms_of(plan) + 0.05;
  }
  std::vector<double> launch(const PlanCandidates& plan, int runs, int launches) override {
    const auto& fake = static_cast<const FakeCandidates&>(plan).now();
    if (!fake.captures) throw DeviceError("cannot capture " + fake.name);
    for (int i = 0; i < runs * (launches + 1); ++i) count(plan);
    launched[plan.name()] = runs;
    std::vector<double> times(static_cast<std::size_t>(launches), ms_of(plan) * runs);
    times[0] *= 50;  // something came between
    return times;
  }
  void recover() override {
    ++recoveries;
    if (dead) throw DeviceError("the device has failed");
  }
  PlanTuner::Clock clock() {
    return [this] { return seconds; };
  }

  std::size_t memory = 1000;
  bool dead = false;
  double seconds = 0;
  int recoveries = 0;
  std::vector<PassBytes> taken;
  std::map<std::string, int> ran, launched;

 private:
  static double ms_of(const PlanCandidates& plan) {
    return static_cast<const FakeCandidates&>(plan).now().ms;
  }
  void count(const PlanCandidates& plan) {
    plan.run({});
    ++ran[plan.name()];
    seconds += 1e-3 * ms_of(plan);
  }
};

constexpr PassBytes small{10, 20, 0, 30};

std::vector<std::string> names_of(const PlanTuner::Measured& measured) {
  std::vector<std::string> names;
  for (const TimedPlan& plan : measured.plans) names.push_back(plan.name);
  return names;
}

TEST(MeasurePlans, TakesTheMedianOfLaunchesInTheHeuristicsOrder) {
  FakeCandidates candidates({{"a", 0.5}, {"b", 0.01}, {"c", 2}, {"d", 4e-5}});
  FakeBench bench;
  int progress = 0;
  const auto measured = measure_plans(
      candidates, small, bench, {}, 10, [&] { ++progress; }, bench.clock());
  EXPECT_THAT(names_of(measured), ElementsAre("a", "b", "c", "d"));
  EXPECT_NEAR(measured.plans[0].seconds, 0.5e-3, 1e-9) << "neither the host's part nor the disturbed launch";
  EXPECT_NEAR(measured.plans[1].seconds, 0.01e-3, 1e-9);
  EXPECT_NEAR(measured.plans[2].seconds, 2e-3, 1e-9);
  EXPECT_NEAR(measured.plans[3].seconds, 4e-8, 1e-12);
  EXPECT_EQ(measured.problem, "");
  EXPECT_EQ(choose_plan(measured.plans, 0.03), 3u);
  EXPECT_EQ(bench.launched, (std::map<std::string, int>{{"a", 1}, {"b", 16}, {"c", 1}, {"d", 19}}));
  EXPECT_EQ(bench.ran.at("a"), 3 + 8);
  EXPECT_THAT(bench.taken, ElementsAre(small)) << "once for all plans";
  EXPECT_EQ(progress, 6) << "before each plan, before it is known that there are no more, and at the end";
}

TEST(MeasurePlans, DoesNotDwellOnWhatIsHopeless) {
  FakeCandidates candidates({{"slow first", 40}, {"good", 2}, {"hopeless", 30}, {"near", 5}});
  FakeBench bench;
  const auto measured = measure_plans(candidates, small, bench, {}, 10, {}, bench.clock());
  EXPECT_THAT(names_of(measured), ElementsAre("slow first", "good", "hopeless", "near"));
  EXPECT_EQ(bench.ran.at("hopeless"), 3) << "warm-up and one";
  EXPECT_EQ(bench.ran.at("near"), 11);
  EXPECT_EQ(choose_plan(measured.plans, 0.03), 1u);
}

TEST(MeasurePlans, LeavesOutWhatFails) {
  FakeCandidates candidates({{"no run", 0.1, 0, false},
                             {"good", 1},
                             {"no capture", 0.1, 0, true, false},
                             {"too large", 0.1, 5000},
                             {"also good", 1}});
  FakeBench bench;
  const auto measured = measure_plans(candidates, small, bench, {}, 10, {}, bench.clock());
  EXPECT_THAT(names_of(measured), ElementsAre("good", "also good"));
  EXPECT_EQ(bench.recoveries, 3);
  EXPECT_THAT(bench.taken, ElementsAre(small));
}

TEST(MeasurePlans, SaysWhyNothingCouldBeMeasured) {
  FakeCandidates broken({{"a", 1, 0, false}, {"b", 1, 0, false}});
  FakeBench bench;
  auto measured = measure_plans(broken, small, bench, {}, 10, {}, bench.clock());
  EXPECT_THAT(measured.plans, IsEmpty());
  EXPECT_EQ(measured.problem, "cannot run b");

  FakeCandidates good({{"a"}, {"b"}});
  measured = measure_plans(good, {5000, 1, 1, 1}, bench, {}, 10, {}, bench.clock());
  EXPECT_THAT(measured.plans, IsEmpty());
  EXPECT_EQ(measured.problem, "no memory for tensors");
  EXPECT_EQ(good.name(), "a") << "the next plan needs the same tensors";

  FakeCandidates none({});
  measured = measure_plans(none, small, bench, {}, 10, {}, bench.clock());
  EXPECT_THAT(measured.plans, IsEmpty());
  EXPECT_EQ(measured.problem, "") << "a library without a plan is no failure";
}

TEST(MeasurePlans, ADeviceThatHasFailedEndsIt) {
  FakeCandidates candidates({{"a", 1, 0, false}, {"b"}});
  FakeBench bench;
  bench.dead = true;
  EXPECT_THROW(measure_plans(candidates, small, bench, {}, 10, {}, bench.clock()), DeviceError);
}

TEST(MeasurePlans, KeepsWithinItsLimits) {
  const std::vector<Fake> many(50, Fake{"plan", 100});
  TuningLimits limits;
  limits.plans = 4;
  FakeBench bench;
  FakeCandidates counted(many);
  EXPECT_EQ(measure_plans(counted, small, bench, limits, 1000, {}, bench.clock()).plans.size(), 4u);
  // A plan of 100 ms takes 1.1 s.
  FakeBench slow;
  FakeCandidates timed(many);
  limits.plans = 50;
  EXPECT_EQ(measure_plans(timed, small, slow, limits, 2, {}, slow.clock()).plans.size(), 2u);
  FakeBench once;
  FakeCandidates first(many);
  EXPECT_EQ(measure_plans(first, small, once, limits, 0.001, {}, once.clock()).plans.size(), 1u);
}

}  // namespace
}  // namespace lockstep::cuda
