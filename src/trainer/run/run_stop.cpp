#include "trainer/run/run_stop.h"

#include <csignal>
#include <fmt/format.h>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "trainer/run/preemption.h"
#include "watch/watchdog.h"

namespace lockstep {
namespace {

// Words of StepControl: this rank was asked to save and leave; by Ctrl-C.
constexpr std::uint64_t stop_asked = 1;
constexpr std::uint64_t stop_interrupted = 2;

}  // namespace

std::uint64_t RunStop::word() {
  const int signal = preemption_signal();
  return signal == 0 ? 0 : signal == SIGINT ? stop_asked | stop_interrupted : stop_asked;
}

bool RunStop::before_first_step() {
  Communicator& comm = run_.job.comm;
  const std::uint64_t mine = word();
  std::vector<std::uint64_t> all(static_cast<std::size_t>(comm.size()));
  comm.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  const std::uint64_t word = std::accumulate(all.begin(), all.end(), std::uint64_t{0}, std::bit_or<>());
  if (word == 0) return false;
  saves_.save_now();
  run_.course.stopped_by = word;
  return true;
}

std::string RunStop::resume_command() const {
  return fmt::format("{} train --resume --run.dir {}", program_name(), shell_word(run_.directory.path()));
}

void RunStop::tell_way_on() {
  const std::int64_t saved = saves_.checkpoints().saved_step();
  if (run_.job.watchdog == nullptr || !run_.job.leader() || saved == told_step_) return;
  told_step_ = saved;
  run_.job.watchdog->set_way_on(
      told_step_ < 0 ? std::string("there is no checkpoint yet; start again with --overwrite")
                     : fmt::format("the last checkpoint is that of step {} of {}; go on with: {}", told_step_,
                                   run_.setup.end_steps, resume_command()));
}

int RunStop::leave() {
  const bool interrupted = (run_.course.stopped_by & stop_interrupted) != 0;
  const std::int64_t steps = run_.course.steps;
  agree_on_error(run_.job.comm, [&] {
    if (!run_.job.leader()) return;
    const std::int64_t saved = saves_.checkpoints().saved_step();
    const std::string last =
        saved < 0 ? std::string("there is none yet") : fmt::format("the last one is that of step {}", saved);
    if (saved != steps)
      throw Error(
          ExitCode::internal,
          fmt::format("asked to stop at step {}, but its checkpoint could not be saved ({}); make room "
                      "in {} or mend it",
                      steps, last, run_.directory.path()));
    const int signal = preemption_signal();
    run_.job.log.info("{}, a checkpoint was saved at step {} of {}; go on with: {}",
                      interrupted ? "interrupted"
                      : signal != 0
                          ? fmt::format("preempted: asked to stop by {}", preemption_signal_name(signal))
                          : "preempted: asked to stop",
                      steps, run_.setup.end_steps, resume_command());
  });
  return static_cast<int>(interrupted ? ExitCode::interrupted : ExitCode::preempted);
}

}  // namespace lockstep
