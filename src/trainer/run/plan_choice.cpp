#include "trainer/run/plan_choice.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"

namespace lockstep {
namespace {

/// Text of a manifest that anybody may have written: what is no text is none.
std::string text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

void add_plan_choices(nlohmann::json& extra, const PlanChoices& choices) {
  extra["plan_choice"] = choices.training;
  extra["evaluation_plan_choice"] = choices.evaluation;
  extra["evaluation_rows"] = choices.evaluation_rows;
}

PlanChoices stored_plan_choices(Communicator& comm, const std::string& run_dir, std::int64_t slices,
                                std::int64_t evaluation_rows) {
  PlanChoices choices;
  choices.evaluation_rows = evaluation_rows;
  agree_on_error(comm, [&] {
    if (comm.rank() != 0) return;
    std::vector<std::string> passed_over;  // told of when the checkpoint is loaded
    const auto ref = CheckpointStore(run_dir).find_newest(passed_over);
    if (!ref) return;
    const TrainingState state = load_checkpoint(ref->path).state;
    // Plans are for the shapes of one slice size.
    if (state.slices != slices) return;
    const nlohmann::json extra = nlohmann::json::parse(state.extra, nullptr, false);
    if (!extra.is_object()) return;
    choices.training = text_of(extra, "plan_choice");
    const auto rows = extra.find("evaluation_rows");
    if (rows != extra.end() && rows->is_number_integer() && *rows == evaluation_rows)
      choices.evaluation = text_of(extra, "evaluation_plan_choice");
  });
  choices.training = comm.broadcast_text(choices.training, 0);
  choices.evaluation = comm.broadcast_text(choices.evaluation, 0);
  return choices;
}

}  // namespace lockstep
