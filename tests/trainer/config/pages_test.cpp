// Pages of docs/ against the tables they describe. LOCKSTEP_WRITE_PAGES=1 writes docs/config.md anew.

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "support/temp_dir.h"
#include "trainer/config/config.h"

namespace lockstep {
namespace {

const std::string docs = std::string(LOCKSTEP_SOURCE_DIR) + "/docs/";

std::string section_of_key(const std::string& name) {
  return name.substr(0, name.find('.'));
}

/// "0 to 1", "above 0", "at least 1"; empty where the table sets no bound that matters.
std::string range_of(const ConfigKey& key) {
  const bool low = key.low_open ? key.low > -1e300 : key.low != 0 && key.low > -1e300;
  const bool high = key.high < 1e12;
  const bool whole = key.kind == ConfigKey::Kind::integer && key.high >= 2147483647.0;
  const std::string least = fmt::format("{} {:.10g}", key.low_open ? "above" : "at least", key.low);
  const std::string most = fmt::format("{} {:.10g}", key.high_open ? "below" : "at most", key.high);
  if (low && high && !whole) return least + ", " + most;
  if (high && !whole) return most;
  return low ? least : "";
}

std::string values_of(const ConfigKey& key) {
  const auto with_range = [&](const std::string& kind) {
    const std::string range = range_of(key);
    return range.empty() ? kind : kind + ", " + range;
  };
  switch (key.kind) {
    case ConfigKey::Kind::text:
      return "text";
    case ConfigKey::Kind::integer:
      return with_range("whole number");
    case ConfigKey::Kind::real:
      return with_range("number");
    case ConfigKey::Kind::boolean:
      return "`true`, `false`";
    case ConfigKey::Kind::choice:
      return fmt::format("`{}`", fmt::join(key.choices, "`, `"));
  }
  return "";
}

/// Text for a cell of a table.
std::string cell(std::string text) {
  for (std::size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, "\\");
  return text;
}

std::string config_page() {
  std::string page =
      "# Configuration\n\n"
      "All keys, as `lockstep train --help` prints them. `trainer_tests --gtest_filter='ConfigPage.*'` "
      "compares "
      "this page with the program's own table, and writes it anew with `LOCKSTEP_WRITE_PAGES=1`.\n\n"
      "A config is an INI file: a key stands in its section without the section's name, `#` begins a "
      "comment, "
      "values are UTF-8 text. Every key is also a flag (`--train.epochs 3`), and the flag wins. A key that "
      "is "
      "not known is refused, with the nearest one that is. `config.resolved.ini` in the run directory holds "
      "every key with the value that was used.\n\n"
      "**Placement keys** say where and how a run is computed, and change no bit of the result. They may "
      "change on `--resume`, as may `train.epochs` and `train.steps`, and by flags `optimizer.lr` and "
      "the keys of `schedule` ([training.md](training.md#changing-it-in-the-course-of-a-run)); every other "
      "key belongs to the run: a resume refuses another value, or says how to allow it. The placement keys "
      "are ";
  std::vector<std::string> placement;
  for (const ConfigKey& key : config_keys())
    if (key.placement) placement.push_back("`" + key.name + "`");
  page += fmt::format("{}; beside them the number of ranks and hosts.\n", fmt::join(placement, ", "));
  std::string section;
  for (const ConfigKey& key : config_keys()) {
    if (section_of_key(key.name) != section) {
      section = section_of_key(key.name);
      page += fmt::format("\n## [{}]\n\n| key | values | default | | placement |\n|---|---|---|---|---|\n",
                          section);
    }
    page += fmt::format("| `{}` | {} | {} | {} | {} |\n", key.name, values_of(key),
                        key.default_text.empty() ? "" : "`" + key.default_text + "`", cell(key.help),
                        key.placement ? "yes" : "");
  }
  return page;
}

TEST(ConfigPage, HoldsEveryKeyOfTheTableWithItsDefaultAndMeaning) {
  const std::string want = config_page();
  if (std::getenv("LOCKSTEP_WRITE_PAGES") != nullptr) test::write_file_bytes(docs + "config.md", want);
  std::istringstream is(test::read_file_bytes(docs + "config.md"));
  std::istringstream should_be(want);
  std::string there;
  for (std::string line; std::getline(should_be, line);) {
    std::getline(is, there);
    ASSERT_EQ(there, line) << "docs/config.md is not what the table says; to write it anew: "
                              "LOCKSTEP_WRITE_PAGES=1 trainer_tests --gtest_filter='ConfigPage.*'";
  }
  EXPECT_FALSE(std::getline(is, there)) << "docs/config.md goes on: " << there;
}

TEST(ConfigPage, EveryKeyHasHelpAndItsSectionOnce) {
  std::set<std::string> done;
  std::string section;
  for (const ConfigKey& key : config_keys()) {
    EXPECT_FALSE(key.help.empty()) << key.name;
    if (section_of_key(key.name) == section) continue;
    section = section_of_key(key.name);
    EXPECT_TRUE(done.insert(section).second) << "[" << section << "] stands in two places of the table";
  }
}

/// Layers and their options as docs/layers.md has them: a heading each, and a row each below it.
std::map<std::string, std::set<std::string>> described_layers(std::vector<std::string>& examples) {
  const std::map<std::string, std::vector<std::string>> table = layer_options();
  std::map<std::string, std::set<std::string>> found;
  std::istringstream page(test::read_file_bytes(docs + "layers.md"));
  std::string layer;
  for (std::string line; std::getline(page, line);) {
    // Headings of more than one word are no layers.
    if (line.rfind("## ", 0) == 0) layer = line.find(' ', 3) == std::string::npos ? line.substr(3) : "";
    if (!layer.empty()) found[layer];
    if (line.rfind("| `", 0) == 0 && !layer.empty())
      found[layer].insert(line.substr(3, line.find('`', 3) - 3));
    if (line.rfind("layers = ", 0) == 0) examples.push_back(line.substr(9));
  }
  return found;
}

TEST(LayersPage, DescribesEveryLayerAndOptionOfTheTableAndNoOther) {
  std::vector<std::string> examples;
  std::map<std::string, std::set<std::string>> want;
  for (const auto& [layer, options] : layer_options()) want[layer] = {options.begin(), options.end()};
  EXPECT_EQ(described_layers(examples), want);
}

TEST(LayersPage, ItsExamplesAreModelsAndShowEveryOption) {
  std::vector<std::string> examples;
  const auto layers = described_layers(examples);
  ASSERT_GE(examples.size(), layers.size());
  std::string all = " ";
  for (const std::string& line : examples) {
    SCOPED_TRACE(line);
    EXPECT_NO_THROW(build_layers(line, Shape{3, 32, 32}, 10, CrossEntropyAttrs{}));
    all += line + " ";
  }
  for (const auto& [layer, options] : layers) {
    EXPECT_TRUE(all.find(" " + layer + " ") != std::string::npos ||
                all.find(" " + layer + ":") != std::string::npos)
        << layer;
  }
  for (const char* option : {"stride=", "pad=", "groups=", "bias=", "eps=", "momentum="})
    EXPECT_NE(all.find(option), std::string::npos) << option;
}

}  // namespace
}  // namespace lockstep
