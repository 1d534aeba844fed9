#include "core/utf8.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(IsUtf8, TakesWellFormedTextAlone) {
  for (const char* good :
       {"", "plain", "\xc3\xa9", "\xe2\x82\xac", "\xed\x9f\xbf", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"})
    EXPECT_TRUE(is_utf8(good)) << good;
  EXPECT_TRUE(is_utf8(std::string_view("a\0b", 3)));
  for (const char* bad :
       {"caf\xe9", "\x80", "\xc3", "a\xe2\x82", "\xe2\x82z", "\xc0\xaf", "\xe0\x9f\xbf", "\xed\xa0\x80",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff\xfe"})
    EXPECT_FALSE(is_utf8(bad)) << bad;
}

}  // namespace
}  // namespace lockstep
