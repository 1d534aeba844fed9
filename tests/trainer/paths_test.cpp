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

}  // namespace
}  // namespace lockstep
