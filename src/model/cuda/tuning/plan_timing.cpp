#include "model/cuda/tuning/plan_timing.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/clock.h"
#include "device/cuda/device.h"

namespace lockstep::cuda {
namespace {

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

class GpuBench final : public PlanBench {
 public:
  explicit GpuBench(const Stream& compute) : compute_(compute) {}

  void take_tensors(const PassBytes& bytes) override {
    a_ = DeviceBuffer(bytes.a);
    b_ = DeviceBuffer(bytes.b);
    bias_ = DeviceBuffer(bytes.bias);
    out_ = DeviceBuffer(bytes.out);
    third_ = DeviceBuffer(bytes.third);
    rows_ = DeviceBuffer(bytes.rows);
    aux_ = DeviceBuffer(bytes.aux);
    const std::vector<std::uint16_t> words = pattern();
    for (DeviceBuffer* buffer : {&a_, &b_, &bias_, &third_, &rows_, &aux_}) {
      const std::size_t first = std::min(buffer->size(), block_bytes);
      copy_to_device(buffer->data(), words.data(), first, compute_);
      for (std::size_t done = first; done < buffer->size();) {
        const std::size_t more = std::min(done, buffer->size() - done);
        copy_on_device(buffer->data() + done, buffer->data(), more, compute_);
        done += more;
      }
    }
    compute_.synchronize();  // `words` may go
  }
  void take_workspace(std::size_t bytes) override {
    if (bytes <= workspace_.size()) return;
    workspace_ = DeviceBuffer();  // given back first: both may not fit
    workspace_ = DeviceBuffer(bytes);
  }
  double run(const PlanCandidates& plan, int warm_ups) override {
    for (int i = 0; i < warm_ups; ++i) plan.run(tensors());
    const Event begin = Event::create(Event::Timing::on), end = Event::create(Event::Timing::on);
    begin.record(compute_);
    plan.run(tensors());
    end.record(compute_);
    compute_.synchronize();
    return static_cast<double>(Event::milliseconds(begin, end));
  }
  std::vector<double> launch(const PlanCandidates& plan, int runs, int launches) override {
    // The kernels were loaded by run(): a capture may not hold that.
    const Graph graph = capture(compute_, [&] {
      for (int i = 0; i < runs; ++i) plan.run(tensors());
    });
    graph.launch(compute_);
    std::vector<Event> marks;
    for (int i = 0; i <= launches; ++i) marks.push_back(Event::create(Event::Timing::on));
    marks[0].record(compute_);
    for (std::size_t i = 1; i < marks.size(); ++i) {
      graph.launch(compute_);
      marks[i].record(compute_);
    }
    compute_.synchronize();  // also before the graph goes
    std::vector<double> times;
    for (std::size_t i = 1; i < marks.size(); ++i)
      times.push_back(static_cast<double>(Event::milliseconds(marks[i - 1], marks[i])));
    return times;
  }
  void recover() override {
    // The error stays with the thread otherwise and would come back from the next launch.
    (void)cudaGetLastError();
    compute_.synchronize();
  }

 private:
  PassTensors tensors() {
    return {a_.data(),
            b_.data(),
            bias_.data(),
            out_.data(),
            workspace_.data(),
            third_.data(),
            rows_.as<float>().data(),
            aux_.data()};
  }

  const Stream& compute_;
  DeviceBuffer a_, b_, bias_, out_, third_, rows_, aux_, workspace_;
};

}  // namespace

PlanTuner::Measured time_plans(PlanCandidates& candidates, const PassBytes& bytes, const Stream& compute,
                               const TuningLimits& limits, double seconds,
                               const std::function<void()>& progress) {
  GpuBench bench(compute);
  return measure_plans(candidates, bytes, bench, limits, seconds, progress, steady_seconds);
}

}  // namespace lockstep::cuda
