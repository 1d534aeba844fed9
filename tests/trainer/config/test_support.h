#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>

#include "core/error.h"
#include "trainer/config/config.h"

namespace lockstep::test {

/// The message of the ConfigError that `body` throws. It must be one line.
template <class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const ConfigError& e) {
    EXPECT_EQ(e.code(), ExitCode::input);
    EXPECT_THAT(e.what(), testing::Not(testing::HasSubstr("\n")));
    return e.what();
  }
  ADD_FAILURE() << "no ConfigError";
  return "";
}

inline std::string message_of_text(const std::string& text) {
  return message_of([&] { parse_config_text(text, "configs/a.ini"); });
}

inline const std::string minimal =
    "model.layers = flatten dense:10\n"
    "data.train = images.gz\n"
    "train.epochs = 1\n";

inline Config config_of(const std::string& text) {
  return make_config(parse_config_text(text, "a.ini"));
}
inline std::string refusal(const std::string& more) {
  return message_of([&] { config_of(minimal + more); });
}

}  // namespace lockstep::test
