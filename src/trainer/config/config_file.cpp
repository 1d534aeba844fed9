#include <algorithm>
#include <boost/program_options/errors.hpp>
#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <filesystem>
#include <fmt/format.h>
#include <sstream>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "trainer/config/command_table.h"
#include "trainer/config/config.h"
#include "trainer/config/config_table.h"

namespace lockstep {
namespace {

std::vector<std::string> key_names() {
  std::vector<std::string> names;
  for (const ConfigKey& k : config_keys()) names.push_back(k.name);
  return names;
}

std::vector<std::string> section_names() {
  std::vector<std::string> names;
  for (const ConfigKey& k : config_keys()) {
    const std::string section = section_of(k.name);
    if (names.empty() || names.back() != section) names.push_back(section);
  }
  return names;
}

bool known_section(const std::string& name) {
  for (const std::string& s : section_names()) {
    if (s == name) return true;
  }
  return false;
}

/// Where each entry of the file stands. Boost's parser gives entries in the order of the file, but no line
/// numbers, and lets lines pass that are worth a message.
struct Entry {
  std::string key;
  std::size_t line;
};

std::vector<Entry> scan(const std::string& text, const std::string& origin) {
  std::vector<Entry> entries;
  std::string prefix;
  std::size_t number = 0;
  for (const std::string_view raw : split(text, '\n')) {
    ++number;
    const std::string_view line = trim(raw.substr(0, raw.find('#')));
    if (line.empty()) continue;
    const auto fail = [&](const std::string& what) {
      throw ConfigError(fmt::format("{}:{}: {}", origin, number, what));
    };
    if (const std::size_t hash = raw.find('#');
        hash != std::string_view::npos && hash > 0 && raw[hash - 1] != ' ' && raw[hash - 1] != '\t') {
      fail(fmt::format(
          "\"{}\" is followed by '#' at once: no value can hold '#', and a comment needs a blank before it",
          line.substr(0, 60)));
    }
    if (line.front() == '[') {
      if (line.back() != ']') fail(fmt::format("the section \"{}\" lacks its ']'", line));
      const std::string section(line.substr(1, line.size() - 2));
      if (!known_section(section)) fail(unknown_word("section", section, section_names()));
      prefix = section + ".";
      continue;
    }
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos) {
      fail(fmt::format("\"{}\" is neither [section] nor key = value", line.substr(0, 60)));
    }
    const std::string_view key = trim(line.substr(0, equals));
    if (key.empty()) fail("a key is missing before '='");
    entries.push_back({prefix + std::string(key), number});
  }
  return entries;
}

void check_is_text(const std::string& text, const std::string& origin) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7f) {
      throw ConfigError(
          fmt::format("{}: is not a config file: byte {} is 0x{:02x}, which no text holds", origin, i, byte));
    }
  }
}

std::string without_byte_order_mark(const std::string& text) {
  return text.rfind("\xEF\xBB\xBF", 0) == 0 ? text.substr(3) : text;
}

/// A flag that somebody wrote as if it were a key.
bool is_flag(const std::string& key) {
  const std::vector<CommandOption>& options = find_command("train")->options;
  return key == "device" ||
         std::any_of(options.begin(), options.end(), [&](const CommandOption& o) { return o.name == key; });
}

}  // namespace

ConfigValues parse_config_text(const std::string& with_mark, const std::string& origin) {
  namespace po = boost::program_options;
  const std::string text = without_byte_order_mark(with_mark);
  check_is_text(text, origin);
  const std::vector<Entry> entries = scan(text, origin);

  std::vector<po::option> options;
  try {
    std::istringstream stream(text);
    // Unknown keys pass here and are refused below, with their line and the nearest known key.
    options = po::parse_config_file(stream, po::options_description(), /*allow_unregistered=*/true).options;
  } catch (const po::error& e) {
    throw ConfigError(fmt::format("{}: {}", origin, e.what()));
  }
  require(options.size() == entries.size(), "the two readings of a config file disagree");

  ConfigValues values;
  for (std::size_t i = 0; i < options.size(); ++i) {
    const std::string& key = options[i].string_key;
    require(key == entries[i].key && options[i].value.size() == 1,
            "the two readings of a config file disagree");
    const std::string place = fmt::format("{}:{}", origin, entries[i].line);
    const ConfigBinding* binding = find_binding(key);
    if (binding == nullptr) {
      throw ConfigError(
          place + ": " +
          (is_flag(key)
               ? fmt::format("\"{0}\" is a flag of the command line, not a key: give --{0} there", key)
               : unknown_word("key", key, key_names())));
    }
    const ConfigSource source{options[i].value.front(), place};
    const auto [earlier, fresh] = values.emplace(key, source);
    if (!fresh) {
      throw ConfigError(fmt::format("{}: {} is given a second time (first at {}): keep one of them", place,
                                    key, earlier->second.origin));
    }
    check_value(*binding, source);
  }
  return values;
}

ConfigValues read_config_file(const std::string& path) {
  std::string text;
  try {
    text = read_file(path);
  } catch (const Error& e) {
    // The one of a run directory was named by nobody.
    const bool of_a_run = std::filesystem::path(path).filename() == "config.resolved.ini";
    throw ConfigError(fmt::format("{}{}", of_a_run ? "" : "--config: ", e.what()));
  }
  ConfigValues values = parse_config_text(text, path);
  if (values.empty()) throw ConfigError(fmt::format("{}: holds no keys, only comments or blanks", path));
  return values;
}

}  // namespace lockstep
