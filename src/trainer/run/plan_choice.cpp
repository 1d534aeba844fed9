#include "trainer/run/plan_choice.h"

#include <vector>

#include "trainer/checkpoint/checkpoint.h"

namespace lockstep {
PlanChoices stored_plan_choices(Communicator& comm, const std::string& run_dir, std::int64_t slices,
                                std::int64_t evaluation_rows) {
  PlanChoices choices;
  choices.evaluation_rows = evaluation_rows;
  agree_on_error(comm, [&] {
    if (comm.rank() != 0) return;
    std::vector<std::string> passed_over;  // told of when the checkpoint is loaded
    const auto ref = CheckpointStore(run_dir).find_newest(passed_over);
    if (!ref) return;
    const RunState state = load_checkpoint(ref->path).state;
    // Plans are for the shapes of one slice size.
    if (state.slices != slices) return;
    choices.training = state.plans.training;
    if (state.plans.evaluation_rows == evaluation_rows) choices.evaluation = state.plans.evaluation;
  });
  choices.training = comm.broadcast_text(choices.training, 0);
  choices.evaluation = comm.broadcast_text(choices.evaluation, 0);
  return choices;
}

}  // namespace lockstep
