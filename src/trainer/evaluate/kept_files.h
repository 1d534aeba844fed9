#pragma once

#include <optional>
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace lockstep {

/// The data files that a config names; empty names among them.
std::vector<std::string> data_files(const Config& config);

/// Those of the run in `directory`, whatever is given in their place now. None where its config cannot be
/// read.
std::vector<std::string> data_files_of_run(const std::string& directory);

/// Why no command may write a file at `path`, whichever run it is about: a run keeps a file under that name,
/// it lies among the checkpoints of a run, or it is a config file. Links are followed. Nothing where it may
/// be written.
std::optional<std::string> why_kept(const std::string& path);

}  // namespace lockstep
