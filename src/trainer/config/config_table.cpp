#include "trainer/config/config_table.h"

#include "trainer/config/key_row.h"

namespace lockstep {
namespace {

std::vector<ConfigBinding> make_table() {
  std::vector<ConfigBinding> table;
  keys::add_model_and_data(table);
  keys::add_training(table);
  keys::add_running(table);
  const Config defaults;
  for (ConfigBinding& b : table) b.key.default_text = b.get(defaults);
  return table;
}

}  // namespace

const std::vector<ConfigBinding>& config_bindings() {
  static const std::vector<ConfigBinding> table = make_table();
  return table;
}

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = [] {
    std::vector<ConfigKey> out;
    for (const ConfigBinding& b : config_bindings()) out.push_back(b.key);
    return out;
  }();
  return keys;
}

}  // namespace lockstep
