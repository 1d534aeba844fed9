// How a training run that was asked to stop ends.

#include <algorithm>
#include <fmt/format.h>

#include "core/error.h"
#include "trainer/preemption.h"
#include "trainer/training_run.h"

namespace lockstep {

bool TrainingRun::stop_at_once() {
  const std::int32_t mine = preemption_signal() != 0 ? 1 : 0;
  std::vector<std::int32_t> all(static_cast<std::size_t>(job_.comm.size()));
  job_.comm.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  if (std::find(all.begin(), all.end(), 1) == all.end()) return false;
  save_checkpoint(true);
  return preempted_ = true;
}

int TrainingRun::leave_preempted() {
  together(job_.comm, [&] {
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
    job_.log.info(
        "preempted: asked to stop{}, a checkpoint was saved at step {} of {}; go on with: lockstep train "
        "--resume --run.dir {}",
        preemption_signal() != 0 ? fmt::format(" by {}", preemption_signal_name(preemption_signal())) : "",
        steps_, end_steps_, directory_.path());
  });
  if (timeline_.enabled())
    together(job_.comm, [&] { timeline_.write(directory_.timeline(job_.comm.rank())); });
  return static_cast<int>(ExitCode::preempted);
}

}  // namespace lockstep
