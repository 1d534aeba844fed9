#include <fmt/format.h>

#include "core/text.h"
#include "trainer/config/command_table.h"
#include "trainer/config/config.h"
#include "trainer/config/config_table.h"

namespace lockstep {
namespace {

/// "  --name VALUE      help", the help in one column, or below a name that is too long for it.
std::string help_line(const std::string& left, const std::string& help) {
  constexpr std::size_t column = 34;
  return left.size() + 2 > column ? fmt::format("  {}\n{:{}}{}\n", left, "", column, help)
                                  : fmt::format("  {:<{}}{}\n", left, column - 2, help);
}

std::string value_name(const ConfigKey& key) {
  switch (key.kind) {
    case ConfigKey::Kind::text:
      return "TEXT";
    case ConfigKey::Kind::integer:
      return "N";
    case ConfigKey::Kind::real:
      return "X";
    case ConfigKey::Kind::boolean:
      return "true|false";
    case ConfigKey::Kind::choice:
      return fmt::format("{}", fmt::join(key.choices, "|"));
  }
  return "";
}

std::string with_default(const std::string& help, const std::string& value) {
  return value.empty() ? help : fmt::format("{} [{}]", help, value);
}

std::string key_help(const CommandEntry& command) {
  std::string out;
  std::string section;
  for (const ConfigKey& key : config_keys()) {
    if (!takes_key(command, key.name)) continue;
    if (section_of(key.name) != section) {
      section = section_of(key.name);
      out += fmt::format("\n[{}]\n", section);
    }
    out += help_line(fmt::format("--{} {}", key.name, value_name(key)),
                     with_default(key.help, key.default_text));
  }
  return out;
}

std::string overview() {
  std::string out = fmt::format(
      "Lockstep trains neural networks on many ranks: the same bits at any number of them.\n\n"
      "  {0} COMMAND [options]\n"
      "  mpirun -n N {0} train --config FILE [--section.key value ...]\n\n",
      program_name());
  for (const CommandEntry& c : command_table()) out += help_line(c.name, c.summary);
  out +=
      "\n" + help_line("COMMAND --help", "the options of a command") + help_line("--version", "the version");
  return out;
}

}  // namespace

std::string help_text(const std::string& name) {
  const CommandEntry* command = find_command(name);
  if (command == nullptr) return overview();
  std::string usage = program_name() + " " + name;
  if (name == "train") usage += " --config FILE";
  for (const CommandOption& o : command->options) {
    if (o.required) usage += fmt::format(" --{} {}", o.name, o.value);
  }
  if (!command->argument.empty()) usage += " " + command->argument;
  if (command->several) usage += fmt::format(" [{}...]", command->argument);
  std::string out = fmt::format("{}: {}\n\n", usage, command->summary);
  for (const CommandOption& o : command->options) {
    out += help_line(fmt::format("--{}{}{}", o.name, o.value.empty() ? "" : " ", o.value),
                     with_default(o.help, o.default_text));
  }
  if (takes_key(*command, "device.kind")) out += help_line("--device KIND", "short for --device.kind");
  if (command->keys == CommandEntry::Keys::none) return out;
  if (name == "train") {
    out +=
        "\nKeys of the config file. Each is a flag too, and the flag wins. In a file they stand in their "
        "section\n"
        "without its name, '#' begins a comment, and a value cannot hold a '#'. Defaults in brackets.\n";
  } else {
    out += "\nKeys of the run's config that may be given anew. Defaults in brackets are those of train.\n";
  }
  return out + key_help(*command);
}

}  // namespace lockstep
