// How a training run that was asked to stop ends.

#include <csignal>
#include <fmt/format.h>
#include <functional>
#include <numeric>

#include "core/error.h"
#include "core/text.h"
#include "trainer/run/preemption.h"
#include "trainer/run/training_run.h"
#include "watch/watchdog.h"

namespace lockstep {

std::uint64_t TrainingRun::stop_word() {
  const int signal = preemption_signal();
  return signal == 0 ? 0 : signal == SIGINT ? stop_asked | stop_interrupted : stop_asked;
}

bool TrainingRun::stop_at_once() {
  const std::uint64_t mine = stop_word();
  std::vector<std::uint64_t> all(static_cast<std::size_t>(job_.comm.size()));
  job_.comm.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  const std::uint64_t word = std::accumulate(all.begin(), all.end(), std::uint64_t{0}, std::bit_or<>());
  if (word == 0) return false;
  save_checkpoint(true);
  stopped_by_ = word;
  return true;
}

std::string TrainingRun::resume_command() const {
  return fmt::format("{} train --resume --run.dir {}", program_name(), shell_word(directory_.path()));
}

void TrainingRun::tell_way_on() {
  if (job_.watchdog == nullptr || !job_.leader() || checkpoints_->saved_step() == told_step_) return;
  told_step_ = checkpoints_->saved_step();
  job_.watchdog->set_way_on(told_step_ < 0
                                ? std::string("there is no checkpoint yet; start again with --overwrite")
                                : fmt::format("the last checkpoint is that of step {} of {}; go on with: {}",
                                              told_step_, end_steps_, resume_command()));
}

int TrainingRun::leave_preempted() {
  const bool interrupted = (stopped_by_ & stop_interrupted) != 0;
  agree_on_error(job_.comm, [&] {
    if (!job_.leader()) return;
    const std::int64_t saved = checkpoints_->saved_step();
    const std::string last =
        saved < 0 ? std::string("there is none yet") : fmt::format("the last one is that of step {}", saved);
    if (saved != steps_)
      throw Error(
          ExitCode::internal,
          fmt::format("asked to stop at step {}, but its checkpoint could not be saved ({}); make room "
                      "in {} or mend it",
                      steps_, last, directory_.path()));
    const int signal = preemption_signal();
    job_.log.info("{}, a checkpoint was saved at step {} of {}; go on with: {}",
                  interrupted ? "interrupted"
                  : signal != 0
                      ? fmt::format("preempted: asked to stop by {}", preemption_signal_name(signal))
                      : "preempted: asked to stop",
                  steps_, end_steps_, resume_command());
  });
  if (timeline_.enabled())
    agree_on_error(job_.comm, [&] { timeline_.write(directory_.timeline(job_.comm.rank())); });
  return static_cast<int>(interrupted ? ExitCode::interrupted : ExitCode::preempted);
}

}  // namespace lockstep
