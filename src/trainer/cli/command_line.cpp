#include <algorithm>
#include <boost/program_options/errors.hpp>
#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "trainer/config/command_table.h"
#include "trainer/config/config.h"
#include "trainer/config/config_table.h"

namespace po = boost::program_options;

namespace lockstep {
namespace {

bool is_help(const std::string& word) {
  return word == "--help" || word == "-h";
}

bool takes_device(const CommandEntry& command) {
  return takes_key(command, "device.kind");
}

/// Every option that the command knows, for Boost's parser.
po::options_description describe(const CommandEntry& command) {
  po::options_description all;
  const auto add_flag = [&](const std::string& name) { all.add_options()(name.c_str(), ""); };
  const auto add_value = [&](const std::string& name) {
    all.add_options()(name.c_str(), po::value<std::string>(), "");
  };
  add_flag("help");
  if (takes_device(command)) add_value("device");
  for (const CommandOption& o : command.options) {
    if (o.value.empty()) {
      add_flag(o.name);
    } else {
      add_value(o.name);
    }
  }
  for (const ConfigKey& k : config_keys()) {
    if (!takes_key(command, k.name)) continue;
    if (k.kind == ConfigKey::Kind::boolean) {
      all.add_options()(k.name.c_str(), po::value<std::string>()->implicit_value("true"), "");
    } else {
      add_value(k.name);
    }
  }
  return all;
}

/// Writes "--key false" as "--key=false" for boolean keys: with an implicit value the parser takes only the
/// latter.
std::vector<std::string> join_booleans(const CommandEntry& command, const std::vector<std::string>& words) {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const ConfigBinding* binding = words[i].rfind("--", 0) == 0 ? find_binding(words[i].substr(2)) : nullptr;
    const bool boolean = binding != nullptr && binding->key.kind == ConfigKey::Kind::boolean;
    if (boolean && takes_key(command, binding->key.name) && i + 1 < words.size() &&
        words[i + 1].rfind("--", 0) != 0) {
      out.push_back(words[i] + "=" + words[i + 1]);
      ++i;
    } else {
      out.push_back(words[i]);
    }
  }
  return out;
}

std::vector<po::option> parse_words(const CommandEntry& command, const std::vector<std::string>& words) {
  const po::options_description description = describe(command);
  namespace style = po::command_line_style;
  try {
    po::command_line_parser parser(join_booleans(command, words));
    // Without allow_guessing abbreviations are unknown options. Those pass here, to be refused with a
    // suggestion.
    parser.options(description)
        .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
        .allow_unregistered();
    return parser.run().options;
  } catch (const po::invalid_command_line_syntax& e) {
    throw ConfigError(
        fmt::format("{} {}", e.get_option_name(),
                    e.kind() == po::invalid_syntax::extra_parameter ? "takes no value" : "needs a value"));
  } catch (const po::error& e) {
    throw ConfigError(e.what());
  }
}

[[noreturn]] void refuse_option(const CommandEntry& command, const std::string& name) {
  if (find_binding(name) != nullptr) {
    throw ConfigError(fmt::format("\"--{}\" is a key of train, and {} does not take it", name, command.name));
  }
  for (const CommandEntry& other : command_table()) {
    for (const CommandOption& o : other.options) {
      if (o.name == name) {
        throw ConfigError(
            fmt::format("\"--{}\" is an option of {}, not of {}", name, other.name, command.name));
      }
    }
  }
  std::vector<std::string> known = {"help"};
  if (takes_device(command)) known.push_back("device");
  for (const CommandOption& o : command.options) known.push_back(o.name);
  for (const ConfigKey& k : config_keys()) {
    if (takes_key(command, k.name)) known.push_back(k.name);
  }
  throw ConfigError(unknown_word("option", name, known, "--") +
                    fmt::format(" ({} {} --help lists them)", program_name(), command.name));
}

void add_override(CommandLine& line, const std::string& key, const std::string& option,
                  const std::string& value) {
  const ConfigSource source{value, "--" + option};
  check_value(*find_binding(key), source);
  const auto [earlier, fresh] = line.overrides.emplace(key, source);
  if (!fresh)
    throw ConfigError(
        fmt::format("--{}: is already given by {}: keep one of them", option, earlier->second.origin));
}

void add_option(CommandLine& line, const CommandOption& option, const po::option& parsed) {
  const std::string value = option.value.empty() ? "1" : parsed.value.front();
  if (value.empty()) throw ConfigError(fmt::format("--{} needs a value", option.name));
  if (!option.choices.empty() &&
      std::find(option.choices.begin(), option.choices.end(), value) == option.choices.end()) {
    throw ConfigError(
        fmt::format("--{}: \"{}\" is not one of {}", option.name, value, fmt::join(option.choices, ", ")));
  }
  if (!line.options.emplace(option.name, value).second) {
    throw ConfigError(fmt::format("--{}: is given twice", option.name));
  }
}

void add(CommandLine& line, const CommandEntry& command, const po::option& parsed) {
  if (parsed.string_key.empty()) {
    line.arguments.insert(line.arguments.end(), parsed.value.begin(), parsed.value.end());
    return;
  }
  const std::string& name = parsed.string_key;
  if (parsed.unregistered) refuse_option(command, name);
  // The parser takes the next word whatever it is: "--run.dir --resume" lacks a directory.
  if (parsed.original_tokens.size() > 1 && parsed.original_tokens[1].rfind("--", 0) == 0) {
    throw ConfigError(fmt::format("--{} needs a value", name));
  }
  if (name == "help") {
    line.options["help"] = "1";
  } else if (name == "device") {
    add_override(line, "device.kind", name, parsed.value.front());
  } else if (find_binding(name) != nullptr) {
    add_override(line, name, name, parsed.value.empty() ? "true" : parsed.value.front());
  } else {
    const auto option = std::find_if(command.options.begin(), command.options.end(),
                                     [&](const CommandOption& o) { return o.name == name; });
    require(option != command.options.end(), "an option that was described has no entry");
    add_option(line, *option, parsed);
  }
}

/// What must be there, what must not, and what goes together.
void complete(CommandLine& line, const CommandEntry& command) {
  if (command.argument.empty() && !line.arguments.empty()) {
    const CommandOption& first = command.options.front();
    throw ConfigError(fmt::format(
        "unexpected argument \"{}\": {} takes only options such as --{} {}, and a value with blanks "
        "needs quotes",
        line.arguments.front(), command.name, first.name, first.value));
  }
  if (!command.argument.empty() && command.several && line.arguments.empty())
    throw ConfigError(fmt::format("{} takes one or more arguments, {}", command.name, command.argument));
  if (!command.argument.empty() && !command.several && line.arguments.size() != 1) {
    throw ConfigError(fmt::format("{} takes one argument, {}, but {} are given", command.name,
                                  command.argument, line.arguments.size()));
  }
  for (const CommandOption& o : command.options) {
    if (line.options.count(o.name) > 0) continue;
    if (o.required) throw ConfigError(fmt::format("{} needs --{} {}", command.name, o.name, o.value));
    if (!o.default_text.empty()) line.options[o.name] = o.default_text;
  }
  if (command.name != "train") return;
  const auto config = line.options.find("config");
  const bool resume = line.options.count("resume") > 0;
  if (config != line.options.end()) {
    line.config_file = config->second;
  } else if (!resume && line.overrides.empty()) {
    throw ConfigError(
        fmt::format("train needs --config FILE, or its keys as flags: see {} train --help", program_name()));
  } else if (resume && line.overrides.count("run.dir") == 0) {
    throw ConfigError("--resume needs --run.dir DIR, or the --config FILE of the run");
  }
  if (resume && line.options.count("overwrite") > 0) {
    throw ConfigError("--resume and --overwrite are both given: go on with the run, or replace it");
  }
}

}  // namespace

CommandLine parse_command_line(int argc, const char* const* argv) {
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  std::vector<std::string> commands;
  for (const CommandEntry& c : command_table()) commands.push_back(c.name);
  if (words.empty()) {
    throw ConfigError(fmt::format("there is no command: give one of {} ({} --help tells more)",
                                  fmt::join(commands, ", "), program_name()));
  }
  CommandLine line;
  // "lockstep help train" is "lockstep train --help".
  if (words.front() == "help") {
    words.erase(words.begin());
    words.emplace_back("--help");
  }
  if (is_help(words.front()) || words.front() == "--version") {
    line.options[words.front() == "--version" ? "version" : "help"] = "1";
    return line;
  }
  const CommandEntry* command = find_command(words.front());
  if (command == nullptr) {
    if (words.front().rfind('-', 0) == 0) {
      throw ConfigError(fmt::format("the command comes first, before \"{}\": one of {}", words.front(),
                                    fmt::join(commands, ", ")));
    }
    throw ConfigError(fmt::format("{} (the commands are {})",
                                  unknown_word("command", words.front(), commands),
                                  fmt::join(commands, ", ")));
  }
  line.command = command->name;
  words.erase(words.begin());
  if (std::any_of(words.begin(), words.end(), is_help)) {
    line.options["help"] = "1";
    return line;
  }
  for (const po::option& parsed : parse_words(*command, words)) add(line, *command, parsed);
  complete(line, *command);
  return line;
}

void apply_flags(const CommandLine& line, Config& config) {
  const auto has = [&](const char* flag) { return line.options.count(flag) > 0; };
  config.run.overwrite = has("overwrite");
  config.run.resume = has("resume");
  config.run.dry_run = has("dry-run");
  config.run.allow_numeric_change = has("allow-numeric-change");
  config.run.allow_slices_change = has("allow-slices-change");
  config.run.allow_data_change = has("allow-data-change");
  config.run.take_over = has("take-over");
}

}  // namespace lockstep
