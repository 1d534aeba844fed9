#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "data/epoch_order.h"
#include "model/graph/graph.h"
#include "trainer/config/config.h"
#include "trainer/config/schedule_changes.h"
#include "trainer/data/open.h"
#include "trainer/run/graph_function.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// What decides a run besides its config and its data.
struct RunPlace {
  std::string device = "cpu";  ///< the kind, as DeviceChoice::kind
  int ranks = 1;
  GraphFunction custom_graph = {};  ///< of model.name = custom
  bool keeps_slices = false;        ///< a resume goes on with the slices that the run has had
};

/// What a training run decides before anything is compiled or written: a function of config, data and place
/// alone, so the same on every rank.
struct RunSetup {
  Config config;  ///< with everything that was left to the run; a resume may change its schedule
  Graph graph;
  EpochOrder order;
  RunSchedule schedule;
  std::int64_t natural_end = 0;      ///< the step where its epochs end, or without epochs train.steps
  std::int64_t end_steps = 0;        ///< the step where the run ends
  std::string stored_changes;        ///< schedule.changes as this process found it
  std::vector<std::string> remarks;  ///< what is told of groups and frozen parameters
  std::string doubt;                 ///< what is doubtful about the slices; empty where nothing is
};

/// Communicates with nobody and changes nothing. Throws ConfigError for what cannot be trained, also where
/// there are more ranks than slices, or less memory on a CPU than is needed.
RunSetup set_up_run(Config config, const DataSets& data, const RunPlace& place);

/// What the step is told by a resolved config; the device and what asks the safeguards are left out.
TrainStepOptions step_options(const Config& config);

/// An upper estimate of the shared memory of a rank, in bytes: its subtree sums and its parameters, with room
/// for padding.
std::size_t window_bytes(const Graph& graph, std::int64_t slices, int ranks);

/// Adds what the flags of a resume ask of the learning rate to setup.config.schedule.changes, from step
/// `steps` on. Gives what of the schedule has no effect from there on. Throws ConfigError where the change
/// has none, or where nothing would be trained with a rate above 0.
std::vector<std::string> change_schedule(RunSetup& setup, std::int64_t steps);

}  // namespace lockstep
