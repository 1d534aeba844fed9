#include "trainer/config/paths.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <optional>
#include <pwd.h>
#include <string_view>
#include <system_error>
#include <unistd.h>

#include "core/error.h"
#include "core/text.h"
#include "trainer/config/command_table.h"
#include "trainer/config/config_table.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

bool is_quote(char c) {
  return c == '\'' || c == '"';
}

bool begins_name(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_';
}

bool is_of_name(char c) {
  return begins_name(c) || std::isdigit(static_cast<unsigned char>(c)) != 0;
}

std::optional<std::string> home_of(const std::string& user) {
  if (user.empty()) {
    if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') return home;
  }
  // The password database, which no other thread reads while a command line is looked at.
  const passwd* entry = user.empty() ? ::getpwuid(::getuid()) : ::getpwnam(user.c_str());
  if (entry == nullptr || entry->pw_dir == nullptr) return std::nullopt;
  return entry->pw_dir;
}

/// What a shell would have to do with a text, and what comes out; nothing where that is not known.
struct Expansion {
  bool quotes = false, tilde = false, variable = false;
  std::optional<std::string> meant = "";
  bool any() const { return quotes || tilde || variable; }
};

Expansion expanded(std::string_view text) {
  Expansion e;
  if (!text.empty() && (is_quote(text.front()) || is_quote(text.back()))) {
    e.quotes = true;
    while (!text.empty() && is_quote(text.front())) text.remove_prefix(1);
    while (!text.empty() && is_quote(text.back())) text.remove_suffix(1);
  }
  std::string out;
  std::size_t at = 0;
  if (text.starts_with('~')) {
    e.tilde = true;
    at = std::min(text.find('/'), text.size());
    const auto home = home_of(std::string(text.substr(1, at - 1)));
    if (home) out = *home;
    if (!home) e.meant.reset();
  }
  while (at < text.size()) {
    const std::string_view rest = text.substr(at);
    const bool braces = rest.starts_with("${");
    if (!rest.starts_with("$(") && !braces && !(rest.size() > 1 && rest[0] == '$' && begins_name(rest[1]))) {
      out += rest[0];
      ++at;
      continue;
    }
    e.variable = true;
    std::size_t end = braces ? rest.find('}') : 1;
    while (!braces && end < rest.size() && is_of_name(rest[end])) ++end;
    const std::size_t begin = braces ? 2 : 1;
    const std::string name(end == rest.npos ? "" : rest.substr(begin, end - begin));
    const bool is_name =
        !name.empty() && begins_name(name[0]) && std::all_of(name.begin(), name.end(), is_of_name);
    const char* value = is_name ? std::getenv(name.c_str()) : nullptr;
    if (value == nullptr) {
      e.meant.reset();
      break;
    }
    out += value;
    at += braces ? end + 1 : end;
  }
  if (e.meant) e.meant = out;
  if (e.meant && e.meant->empty()) e.meant.reset();
  return e;
}

/// Why no path is like this, whatever is meant; empty where that is not so.
std::string no_path(std::string_view text) {
  if (text.find('`') != text.npos) return "has backticks, which only a shell would run";
  const std::size_t colon = text.find("://");
  if (colon != text.npos && colon > 0 &&
      std::all_of(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(colon), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '+' || c == '-' || c == '.';
      }))
    return "is an address, and only files and folders are read and written";
  if (text.ends_with("/~") || text.find("/~/") != text.npos)
    return "has a '~' within it, which is expanded nowhere";
  return "";
}

}  // namespace

bool is_path_key(const std::string& key) {
  constexpr std::array keys = {
      "run.dir",          "data.train",      "data.train_labels",      "data.test",
      "data.test_labels", "data.validation", "data.validation_labels", "device.plan_cache"};
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

void check_path(const std::string& path, const std::string& where) {
  const std::string_view text = trim(path);
  const Expansion e = expanded(text);
  // "./~" is how a folder of that name is asked for.
  const std::string odd = e.any() || text.starts_with("./~") ? "" : no_path(text);
  if (!e.any() && odd.empty()) return;
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(fs::path(text), ignored))) return;
  if (!odd.empty()) throw ConfigError(fmt::format("{}: '{}' {}: write the path itself", where, text, odd));
  const std::string what = e.tilde || e.variable ? "is not expanded here, as a shell would do it"
                                                 : "has quotes, which would become part of the name";
  throw ConfigError(fmt::format("{}: '{}' {}: write {}", where, text, what,
                                e.meant      ? *e.meant
                                : e.variable ? "the path itself (a variable in it is not set)"
                                             : "the path itself"));
}

void check_paths(const ConfigValues& values) {
  for (const auto& [key, source] : values) {
    if (!is_path_key(key)) continue;
    const std::string where = place_of(key, source.origin);
    check_path(source.value, where);
    // Only a flag can have one: what stands around a value of a file is trimmed as the file is read.
    if (const std::string_view text = trim(source.value); !text.empty() && text != source.value)
      throw ConfigError(fmt::format(
          "{}: '{}' begins or ends with a blank, which no path of a config can: write {}, or rename the file",
          where, source.value, text));
  }
}

void check_paths(const CommandLine& line) {
  check_paths(line.overrides);
  const CommandEntry* command = find_command(line.command);
  if (command == nullptr) return;
  for (const CommandOption& o : command->options) {
    const auto given = line.options.find(o.name);
    if (given != line.options.end() && (o.value == "FILE" || o.value == "DIR"))
      check_path(given->second, "--" + o.name);
  }
  for (const std::string& argument : line.arguments) check_path(argument, line.command);
}

ConfigValues given_values(const CommandLine& line) {
  ConfigValues values;
  if (!line.config_file.empty()) values = read_config_file(line.config_file);
  for (const auto& [key, source] : line.overrides) values[key] = source;
  check_paths(values);
  if (trim(values["run.dir"].value).empty()) {
    const std::string stem = fs::path(line.config_file).stem().string();
    values["run.dir"] = {"runs/" + (stem.empty() ? "model" : stem), "default"};
  }
  return values;
}

}  // namespace lockstep
