#pragma once

#include <string>

#include "trainer/config/config.h"

namespace lockstep {

/// Whether the value of a config key is the path of a file or folder.
bool is_path_key(const std::string& key);

/// Refuses what only a shell would have made a path of: a leading '~' or "~user", "$NAME", and quotes around
/// it. Nobody expands them in a config file, and a shell does not within quotes or behind '='; a folder of
/// that very name would be made. So would one of a path with backticks, with "scheme://" before it, or with a
/// component "~". A path that exists under that name is taken as it is, and so is one that
/// begins with "./~". `where` begins the message of the ConfigError, which says what was meant.
void check_path(const std::string& path, const std::string& where);

/// The same for every path among these values. Blanks around one, which only a flag can have, are refused
/// too: they would be lost in the config of the run.
void check_paths(const ConfigValues& values);
/// The same for the options, arguments and keys of a command line.
void check_paths(const CommandLine& line);

/// What `train` was told by its flags and its --config file, which is read here: flags win, and run.dir has
/// its default. Throws ConfigError.
ConfigValues given_values(const CommandLine& line);

}  // namespace lockstep
