#pragma once

#include <functional>
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace lockstep {

/// A key of the table together with the member of Config that holds it.
struct ConfigBinding {
  ConfigKey key;
  /// The member as text; set() reads it back to the same value.
  std::function<std::string(const Config&)> get;
  /// Sets the member. `where` begins the message of the ConfigError that a bad text causes.
  std::function<void(const ConfigKey&, const std::string& text, const std::string& where, Config&)> set;
};

/// The table, in the order of config.resolved.ini.
const std::vector<ConfigBinding>& config_bindings();
/// The entry of `key`, or null.
const ConfigBinding* find_binding(const std::string& key);
/// "train" of "train.epochs".
std::string section_of(const std::string& key);

/// How a message names the place of a value: "configs/a.ini:12: train.epochs", or "--train.epochs".
std::string place_of(const std::string& key, const std::string& origin);
/// Throws ConfigError unless `source` is a good value of `key`, which exists.
void check_value(const ConfigBinding& binding, const ConfigSource& source);

/// 'unknown key "train.epoch": did you mean "train.epochs"? …' for a word that is not in `known`. `kind`:
/// "key", "option", "command". `mark` stands before words in the message ("--").
std::string unknown_word(const std::string& kind, const std::string& word,
                         const std::vector<std::string>& known, const std::string& mark = "");

}  // namespace lockstep
