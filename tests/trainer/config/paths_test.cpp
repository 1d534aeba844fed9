#include "trainer/config/paths.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/text.h"
#include "trainer/config/config_table.h"

namespace lockstep {
namespace {

TEST(PathKeys, AreThoseTextKeysWhoseHelpSpeaksOfFilesOrData) {
  int paths = 0;
  for (const ConfigKey& key : config_keys()) {
    if (!is_path_key(key.name)) {
      // Whoever adds a key for a file is to think of it.
      for (const char* word : {"folder", "directory", "file or"}) {
        const bool speaks = key.kind == ConfigKey::Kind::text && key.help.find(word) != std::string::npos;
        EXPECT_FALSE(speaks) << key.name << ": " << key.help;
      }
      continue;
    }
    EXPECT_EQ(key.kind, ConfigKey::Kind::text) << key.name;
    ++paths;
  }
  EXPECT_GE(paths, 8);
}

TEST(ShellWord, IsQuotedWhereAShellWouldReadMoreIntoIt) {
  EXPECT_EQ(shell_word("runs/a-1.b"), "runs/a-1.b");
  EXPECT_EQ(shell_word("my runs/a"), "'my runs/a'");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_word("$x"), "'$x'");
  EXPECT_EQ(shell_word("~/x"), "'~/x'");
  EXPECT_EQ(shell_word(""), "''");
}

TEST(CheckPath, SignsThatNoShellWouldExpandPass) {
  for (const char* path : {"a~", "a/~b", "a//b", "cost$", "$5", "a$/b", "it's", "./~/x", "-", "", "100%"})
    EXPECT_NO_THROW(check_path(path, "here")) << path;
  for (const char* path : {"~", "~/a", "~root/a", "$A", "${A}/b", "a/$A", "$(pwd)", "'a'", "\"a", "a\"",
                           "`pwd`/x", "file:///tmp/x", "s3://a/b", "a/~/b", "a/~"})
    EXPECT_THROW(check_path(path, "here"), ConfigError) << path;
}

TEST(CheckPaths, BlanksAroundAPathOfAFlagAreRefusedAndNotLost) {
  const auto refusal = [](const std::string& key, const std::string& value) -> std::string {
    try {
      check_paths(ConfigValues{{key, {value, "--" + key}}});
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "";
  };
  for (const char* value : {" a.csv", "a.csv ", "a.csv\t", " a.csv\n"}) {
    const std::string text = refusal("data.train", value);
    EXPECT_NE(text.find("begins or ends with a blank"), text.npos) << text;
    EXPECT_NE(text.find("write a.csv"), text.npos) << text;
  }
  EXPECT_EQ(refusal("data.train", "a b.csv"), "");
  EXPECT_EQ(refusal("run.dir", " "), "") << "the default";
  EXPECT_EQ(refusal("model.layers", " dense:3 "), "") << "no path";
  // In a file blanks around a value are how people write.
  EXPECT_NO_THROW(check_paths(parse_config_text("[data]\ntrain =  a.csv \t\n", "a.ini")));
}

}  // namespace
}  // namespace lockstep
