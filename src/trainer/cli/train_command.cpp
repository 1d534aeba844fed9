#include "trainer/cli/train_command.h"

#include "trainer/run/training_run.h"

namespace lockstep {

int train_command(const CommandLine& command, Job& job) {
  const Config config = share_config(command, job);
  job.watch(config);
  TrainingRun run(config, job);
  if (command.options.count("dry-run") != 0) {
    run.describe_plan();
    return 0;
  }
  try {
    return run.run();
  } catch (const std::exception& e) {
    // While it still holds everything: what is destroyed next may wait for the device.
    run.abandon(e.what());
    throw;
  }
}

}  // namespace lockstep
