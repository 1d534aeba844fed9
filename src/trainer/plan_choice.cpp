#include "trainer/plan_choice.h"

#include <nlohmann/json.hpp>

#include "trainer/checkpoint.h"

namespace lockstep {

std::string stored_plan_choice(Communicator& comm, const std::string& run_dir) {
  std::string choice;
  together(comm, [&] {
    if (comm.rank() != 0) return;
    std::vector<std::string> passed_over;  // told of when the checkpoint is loaded
    const auto ref = CheckpointStore(run_dir).find_newest(passed_over);
    if (!ref) return;
    const nlohmann::json extra =
        nlohmann::json::parse(load_checkpoint(ref->path).state.extra, nullptr, false);
    if (extra.is_object()) choice = extra.value("plan_choice", "");
  });
  return comm.broadcast_text(choice, 0);
}

}  // namespace lockstep
