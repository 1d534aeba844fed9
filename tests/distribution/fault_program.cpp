// `lockstep train`, with something that goes wrong on one rank. Run by corruption_test.cpp:
//   fault_program FAULT train --config … [flags]
// FAULT is
//   none
//   sum:STEP               the last rank's subtree sum holds a NaN, once
//   slice:STEP:SLICE       the gradient of a slice holds an infinity, once
//   compute:RANK:STEP      one bit of every gradient that the rank computes in that step is flipped, once
//   broken:RANK:STEP       the same from that step on, also when it computes again
//   memory:RANK:STEP:SEED  a bit of the rank's parameters is flipped after so many steps
// STEP counts the batches before.

#include <atomic>
#include <cstring>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"

#include "train_program.h"

namespace lockstep {
namespace {

void flip(float& value, int bit) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits ^= std::uint32_t{1} << bit;
  std::memcpy(&value, &bits, sizeof bits);
}

struct Fault {
  std::string kind;
  std::vector<std::int64_t> numbers;
  std::atomic<bool> done{false};

  explicit Fault(const std::string& text) {
    const auto parts = split(text, ':');
    kind = parts[0];
    for (std::size_t i = 1; i < parts.size(); ++i) numbers.push_back(std::stoll(std::string(parts[i])));
  }

  void arm(Job& job) {
    const int rank = job.comm.rank();
    const bool mine = !numbers.empty() && numbers[0] == rank;
    if (kind == "sum" && rank == job.comm.size() - 1)
      job.faults.before_ready = [this](std::int64_t step, Range range,
                                       std::span<const std::span<float>> roots) {
        if (step == numbers[0] && range.size() > 0 && !done.exchange(true))
          roots[0][static_cast<std::size_t>(range.begin)] = std::numeric_limits<float>::quiet_NaN();
      };
    if (kind == "slice")
      job.faults.after_slice = [this](std::int64_t step, std::int64_t slice, Range, std::span<float> gradient,
                                      bool again) {
        if (step == numbers[0] && slice == numbers[1] && !again && !done.exchange(true))
          gradient[0] = std::numeric_limits<float>::infinity();
      };
    if ((kind == "compute" || kind == "broken") && mine)
      job.faults.after_slice = [this](std::int64_t step, std::int64_t, Range, std::span<float> gradient,
                                      bool again) {
        const bool now = kind == "compute" ? step == numbers[1] && !again : step >= numbers[1];
        if (now) flip(gradient[gradient.size() / 2], 3);
      };
    if (kind == "memory" && mine)
      job.faults.between_steps = [this](std::int64_t steps, std::span<float> parameters) {
        if (steps != numbers[1] || done.exchange(true)) return;
        const auto key = static_cast<std::uint64_t>(numbers[2]);
        std::size_t at = static_cast<std::size_t>(key * 0x9e3779b97f4a7c15u) % parameters.size();
        while (parameters[at] == 0) at = (at + 1) % parameters.size();  // not padding
        flip(parameters[at], static_cast<int>(key % 32));
      };
  }
};

int train(const std::string& word, const CommandLine& line, Job& job) {
  Fault fault(word);
  fault.arm(job);
  TrainingRun run(share_config(line, job), job);
  return run.run();
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  return lockstep::test::train_program(argc, argv, "fault_program FAULT", lockstep::train);
}
