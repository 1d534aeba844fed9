#include "model/cuda/plan_timing.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "core/error.h"
#include "device/cuda/device.h"

namespace lockstep::cuda {
namespace {

constexpr int warm_ups = 2;
constexpr int launches = 7;
constexpr int most_runs = 20;    // in a launch
constexpr double launch_ms = 1;  // about what a launch should take, so that its own cost does not count
constexpr double hopeless = 3;   // times the fastest so far: one run tells enough
constexpr std::size_t block_bytes = std::size_t{1} << 20;

/// Numbers of either sign near 1 in float32, bfloat16 and float16 alike: factors that are all zero would save
/// the chip power, and let it run faster than it will.
std::vector<std::uint16_t> pattern() {
  std::vector<std::uint16_t> words(block_bytes / sizeof(std::uint16_t));
  std::uint32_t state = 1;
  for (std::uint16_t& word : words) {
    state = state * 1664525u + 1013904223u;  // Numerical Recipes' generator; its high bits are good enough
    word = static_cast<std::uint16_t>(((state >> 16) & 0x83ffu) | 0x3c00u);
  }
  return words;
}

/// Memory of one pass, its inputs filled.
struct Scratch {
  DeviceBuffer a, b, bias, out;

  Scratch(const PassBytes& bytes, const Stream& compute)
      : a(bytes.a), b(bytes.b), bias(bytes.bias), out(bytes.out) {
    const std::vector<std::uint16_t> words = pattern();
    for (DeviceBuffer* buffer : {&a, &b, &bias}) {
      const std::size_t first = std::min(buffer->size(), block_bytes);
      copy_to_device(buffer->data(), words.data(), first, compute);
      for (std::size_t done = first; done < buffer->size();) {
        const std::size_t more = std::min(done, buffer->size() - done);
        copy_on_device(buffer->data() + done, buffer->data(), more, compute);
        done += more;
      }
    }
    compute.synchronize();  // `words` may go
  }
};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Milliseconds of one run. `best`: of the fastest plan so far.
double time_plan(const PlanCandidates& plan, const PassTensors& tensors, const Stream& compute, double best) {
  std::vector<Event> events;
  for (int i = 0; i < 2 * launches; ++i) events.push_back(Event::create(Event::Timing::on));
  for (int i = 0; i < warm_ups; ++i) plan.run(tensors);
  events[0].record(compute);
  plan.run(tensors);
  events[1].record(compute);
  compute.synchronize();
  const double once = Event::milliseconds(events[0], events[1]);
  if (once > hopeless * std::max(best, launch_ms)) return once;
  const int runs = std::clamp(static_cast<int>(launch_ms / std::max(once, 1e-3)), 1, most_runs);
  const Graph graph = capture(compute, [&] {
    for (int i = 0; i < runs; ++i) plan.run(tensors);
  });
  graph.launch(compute);
  for (std::size_t i = 0; i < launches; ++i) {
    events[2 * i].record(compute);
    graph.launch(compute);
    events[2 * i + 1].record(compute);
  }
  compute.synchronize();
  std::vector<double> times;
  for (std::size_t i = 0; i < launches; ++i)
    times.push_back(static_cast<double>(Event::milliseconds(events[2 * i], events[2 * i + 1])) / runs);
  return median(std::move(times));
}

}  // namespace

PlanTuner::Measured time_plans(PlanCandidates& candidates, const PassBytes& bytes, const Stream& compute,
                               const TuningLimits& limits, double seconds,
                               const std::function<void()>& progress) {
  PlanTuner::Measured measured;
  std::optional<Scratch> scratch;
  DeviceBuffer workspace;
  double best = std::numeric_limits<double>::infinity();
  const double begin = seconds_now();
  for (std::size_t tried = 0; tried < limits.plans && seconds_now() - begin < seconds; ++tried) {
    if (progress) progress();
    if (!candidates.next()) break;
    try {
      if (!scratch) {
        try {
          scratch.emplace(bytes, compute);
        } catch (const DeviceError& e) {
          (void)cudaGetLastError();
          compute.synchronize();  // a device that has failed says so here
          measured.problem = e.what();
          return measured;
        }
      }
      if (candidates.workspace_bytes() > workspace.size()) {
        workspace = DeviceBuffer();  // given back first: both may not fit
        workspace = DeviceBuffer(candidates.workspace_bytes());
      }
      const PassTensors tensors{scratch->a.data(), scratch->b.data(), scratch->bias.data(),
                                scratch->out.data(), workspace.data()};
      const double ms = time_plan(candidates, tensors, compute, best);
      best = std::min(best, ms);
      measured.plans.push_back({candidates.name(), 1e-3 * ms});
    } catch (const DeviceError& e) {
      // The error stays with the thread otherwise and would come back from the next launch.
      (void)cudaGetLastError();
      compute.synchronize();
      measured.problem = e.what();
    }
  }
  if (progress) progress();
  return measured;
}

}  // namespace lockstep::cuda
