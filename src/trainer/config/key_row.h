#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "trainer/config/config_table.h"

// How the rows of the key table are made; for the files that hold rows.

namespace lockstep::keys {

/// A member of Config as the text of its key.
std::string to_text(const std::string& v);
std::string to_text(bool v);
std::string to_text(double v);
std::string to_text(int v);
std::string to_text(std::int64_t v);
std::string to_text(std::uint64_t v);

/// The text of a key as the member's value. `where` begins the message of the ConfigError that a bad text
/// causes.
void from_text(const ConfigKey& key, const std::string& text, const std::string& where, std::string& out);
void from_text(const ConfigKey& key, const std::string& text, const std::string& where, bool& out);
void from_text(const ConfigKey& key, const std::string& text, const std::string& where, double& out);
void from_text(const ConfigKey& key, const std::string& text, const std::string& where, int& out);
void from_text(const ConfigKey& key, const std::string& text, const std::string& where, std::int64_t& out);
void from_text(const ConfigKey& key, const std::string& text, const std::string& where, std::uint64_t& out);

template <class T>
constexpr ConfigKey::Kind kind_of() {
  if constexpr (std::is_same_v<T, std::string>) return ConfigKey::Kind::text;
  if constexpr (std::is_same_v<T, bool>) return ConfigKey::Kind::boolean;
  if constexpr (std::is_same_v<T, double>) return ConfigKey::Kind::real;
  return ConfigKey::Kind::integer;
}

/// A row of the table under construction.
struct Row : ConfigBinding {
  Row&& between(double low, double high) && {
    key.low = low;
    key.high = high;
    return std::move(*this);
  }
  Row&& above(double low) && {
    key.low = low;
    key.low_open = true;
    return std::move(*this);
  }
  Row&& below(double high) && {
    key.high = high;
    key.high_open = true;
    return std::move(*this);
  }
  Row&& one_of(std::vector<std::string> choices) && {
    key.kind = ConfigKey::Kind::choice;
    key.choices = std::move(choices);
    return std::move(*this);
  }
  Row&& placement() && {
    key.placement = true;
    return std::move(*this);
  }
  /// A blank or a tab would be lost between config file and value.
  Row&& delimiter() &&;
  /// Text that is not empty must please `good`, else it "is not <what>".
  Row&& such_as(bool (*good)(std::string_view), const char* what) &&;
  /// `why` says of a text what is wrong with it, nothing of a good one.
  Row&& refused_for(std::string (*why)(std::string_view)) &&;
};

/// The row of a key that one member of a group of Config holds.
template <class Group, class T>
Row row(const char* name, Group Config::*group, T Group::*member, const std::string& help) {
  Row r;
  r.key.name = name;
  r.key.kind = kind_of<T>();
  r.key.help = help;
  r.key.low = kind_of<T>() == ConfigKey::Kind::integer ? 0 : -1e308;
  r.key.high = std::is_same_v<T, int> ? 2147483647.0 : (std::is_same_v<T, double> ? 1e308 : 1e15);
  r.get = [=](const Config& c) { return to_text(c.*group.*member); };
  r.set = [=](const ConfigKey& key, const std::string& text, const std::string& where, Config& c) {
    from_text(key, text, where, c.*group.*member);
  };
  return r;
}

// The rows of these keys, in the order of config.resolved.ini.
void add_model_and_data(std::vector<ConfigBinding>& t);
void add_training(std::vector<ConfigBinding>& t);
void add_running(std::vector<ConfigBinding>& t);

}  // namespace lockstep::keys
