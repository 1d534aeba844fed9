#pragma once

#include <string>
#include <vector>

namespace lockstep {

/// An option of one command that is not a config key.
struct CommandOption {
  std::string name;
  std::string value;  ///< what stands for its value in the help; "" for a flag
  std::string help;
  std::vector<std::string> choices = {};
  std::string default_text = {};
  bool required = false;
};

struct CommandEntry {
  enum class Keys { none, device, prediction, evaluation, all };
  std::string name;
  std::string summary;
  std::vector<CommandOption> options;
  std::string argument = {};  ///< what its one positional argument is called; "" for none
  Keys keys = Keys::none;     ///< which config keys it takes as flags
  bool several = false;       ///< it takes one or more of these arguments
};

/// All commands, in the order of the help.
const std::vector<CommandEntry>& command_table();
/// Its entry, or null.
const CommandEntry* find_command(const std::string& name);
/// Whether `key`, which is a key of the config table, is also a flag of `command`.
bool takes_key(const CommandEntry& command, const std::string& key);

}  // namespace lockstep
