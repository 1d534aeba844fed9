// Numbers in the files that a run keeps: whatever stands there is taken as it is meant, or refused.

#include "support/stored_numbers.h"

#include <filesystem>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/digest.h"
#include "core/json_number.h"
#include "data/readers/data_info.h"
#include "data/test_support.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/run_state.h"

namespace lockstep {
namespace {

using nlohmann::json;
using test::error_of;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(JsonNumber, TakesWhatIsMeantAndRefusesTheRest) {
  const json d = json::parse(
      R"({"a":7,"most":9223372036854775807,"least":-9223372036854775808,"wide":9223372036854775808,"half":1.5,
          "one":1.0,"huge":1e110,"text":"7","none":null,"yes":true,"list":[1,2],"mixed":[1,2.5]})");
  EXPECT_EQ(json_integer(d, "a", 0), 7);
  EXPECT_EQ(json_integer(d, "most", 0), INT64_MAX);
  EXPECT_EQ(json_integer(d, "least", INT64_MIN), INT64_MIN);
  EXPECT_EQ(json_integers(d, "list", 1), (std::vector<std::int64_t>{1, 2}));
  for (const char* bad : {"wide", "half", "one", "huge", "text", "none", "yes", "list"}) {
    EXPECT_THROW(json_integer(d, bad, INT64_MIN), JsonNumberError) << bad;
  }
  EXPECT_THROW(json_integer(d, "a", 8), JsonNumberError);
  EXPECT_THROW(json_integer(d, "a", 0, 6), JsonNumberError);
  EXPECT_THROW(json_integers(d, "mixed", 0), JsonNumberError);
  EXPECT_THROW(json_integers(d, "a", 0), JsonNumberError);
  EXPECT_EQ(json_real(d, "huge"), 1e110);
  EXPECT_EQ(json_real(d, "a"), 7.0);
  for (const char* bad : {"text", "none", "yes", "list"})
    EXPECT_THROW(json_real(d, bad), JsonNumberError) << bad;
  try {
    (void)json_integer(d, "half", 0, 9);
    FAIL();
  } catch (const JsonNumberError& e) {
    EXPECT_STREQ(e.what(), "'half' is 1.5, but must be an integer from 0 to 9");
  }
}

TEST(JsonFault, IsToldWithoutTheLibrarysMark) {
  const auto fault_of = [](const std::function<json()>& act) -> std::string {
    try {
      (void)act().size();
    } catch (const json::exception& e) {
      return json_fault(e);
    }
    return "none";
  };
  EXPECT_THAT(fault_of([] { return json::parse("{"); }), StartsWith("parse error at line 1"));
  EXPECT_THAT(fault_of([] { return json::parse("{}").at("step"); }), StartsWith("key 'step' not found"));
  EXPECT_THAT(fault_of([] { return json::parse("1e999"); }), StartsWith("a number in it is beyond"));
  EXPECT_THAT(fault_of([]() -> json { return json("\xff").dump(); }), StartsWith("invalid UTF-8 byte"));
}

TEST(JsonFault, IsWhatEverySourceFileTells) {
  int catches = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(LOCKSTEP_SOURCE_DIR "/src")) {
    if (entry.path().extension() != ".cpp" && entry.path().extension() != ".h") continue;
    const std::string text = test::read_file_bytes(entry.path());
    for (std::size_t at = 0; (at = text.find("json::exception& ", at)) != text.npos; ++at) {
      if (!text.substr(text.rfind('\n', at) + 1, at).starts_with("  } catch")) continue;
      ++catches;
      const std::string block = text.substr(at, text.find("\n  }", at) - at);
      EXPECT_EQ(block.find("e.what()"), block.npos) << entry.path() << ": " << block;
    }
  }
  EXPECT_GE(catches, 4);
}

RunState some_state() {
  RunState state;
  state.generation = 1;
  state.step = 8;
  state.position = 96;
  state.slices = 3;
  state.best.metric = 0.5;
  state.best.step = 8;
  state.reduction = "ordered";
  state.epoch_sums.loss = 0.5;
  return state;
}

TEST(JsonFault, OfStatesAndManifestsHasNoMark) {
  json state = to_json(some_state());
  state["extra"]["guard"] = json::parse(R"({"skipped":[{"step":1}]})");
  EXPECT_THAT(run_state_from_json(state).fault,
              AllOf(HasSubstr("key 'position' not found"), Not(HasSubstr("json.exception"))));
  CheckpointManifest manifest;
  manifest.state.config = "\xff";
  EXPECT_THAT(
      error_of([&] { (void)encode_manifest(manifest); }),
      AllOf(HasSubstr("cannot be saved as JSON (invalid UTF-8 byte"), Not(HasSubstr("json.exception"))));
}

DataInfo some_info() {
  DataInfo info;
  info.sample_shape = Shape{2};
  info.classes = 2;
  info.class_names = {"cat", "dog"};
  info.train_file_samples = 5;
  info.csv.header = true;
  info.csv.columns = {"id", "x", "y", "kind"};
  info.csv.label_columns = {3};
  info.csv.dropped_columns = {0};
  info.csv.class_names = info.class_names;
  info.normalizer = Normalizer::from_json(
      R"({"kind":"standard","divisor":1.0,"mean":[0.5,1.5],"deviation":[1.0,2.0]})", "");
  return info;
}

TEST(StoredNumbers, OfTheDataAreTakenOrRefused) {
  const DataInfo info = some_info();
  const std::string text = info.to_json();
  EXPECT_EQ(DataInfo::from_json(text, "p.json"), info);
  int refused = 0;
  test::each_number_changed(json::parse(text), [&](const std::string& where, const json& changed) {
    const std::string error = error_of([&] { (void)DataInfo::from_json(changed.dump(), "p.json"); });
    EXPECT_THAT(error, ::testing::AnyOf("", HasSubstr("p.json"))) << where;
    EXPECT_THAT(error, ::testing::Not(HasSubstr("not an input error"))) << where;
    refused += error.empty() ? 0 : 1;
    // No count of the data may be anything but an integer.
    if (where.find("normalizer") == where.npos && !test::is_small_integer(where)) {
      EXPECT_NE(error, "") << where;
    }
  });
  EXPECT_GT(refused, 60);
  json huge = json::parse(text);
  huge["sample_shape"] = {1e110};
  EXPECT_THAT(error_of([&] { (void)DataInfo::from_json(huge.dump(), "p.json"); }),
              AllOf(HasSubstr("'sample_shape' is 1e+110"), HasSubstr("must be an integer")));
  huge["sample_shape"] = {std::int64_t{1} << 40, std::int64_t{1} << 40};
  EXPECT_THAT(error_of([&] { (void)DataInfo::from_json(huge.dump(), "p.json"); }), HasSubstr("p.json"));
}

TEST(StoredNumbers, InEndlessListsAreRefused) {
  for (const char* key : {"classes", "sample_shape", "normalizer"}) {
    json d = json::parse(some_info().to_json());
    d[key] = "HERE";
    std::string text = d.dump();
    const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
    text.replace(text.find("\"HERE\""), 6, deep);
    EXPECT_THAT(error_of([&] { (void)DataInfo::from_json(text, "p.json"); }), HasSubstr("p.json")) << key;
  }
}

TEST(StoredNumbers, OfColumnsAgreeWithEachOther) {
  const auto refused = [](const std::function<void(json&)>& change) {
    json d = json::parse(some_info().to_json());
    change(d);
    return error_of([&] { (void)DataInfo::from_json(d.dump(), "p.json"); });
  };
  EXPECT_EQ(refused([](json&) {}), "");
  // As runs of before wrote it.
  EXPECT_EQ(refused([](json& d) {
              d["csv"].erase("dropped_columns");
              d["csv"]["columns"] = {"x", "y", "kind"};
              d["csv"]["label_columns"] = {2};
            }),
            "");
  for (const auto& change :
       std::vector<std::function<void(json&)>>{[](json& d) { d["csv"]["dropped_columns"] = {3}; },
                                               [](json& d) {
                                                 d["csv"]["dropped_columns"] = {0, 0};
                                               },
                                               [](json& d) { d["csv"]["dropped_columns"] = json::array(); },
                                               [](json& d) { d["csv"]["label_columns"] = {4}; },
                                               [](json& d) { d["csv"]["label_columns"] = json::array(); },
                                               [](json& d) { d["sample_shape"] = {3}; }})
    EXPECT_THAT(refused(change), HasSubstr("contradicts itself"));
}

TEST(StoredNumbers, OfManifestsAreTakenOrRefused) {
  CheckpointManifest manifest;
  manifest.state = some_state();
  manifest.files = {{"model.safetensors", 100, std::string(64, 'a'), {{"fc.bias", Shape{4}}}},
                    {"optimizer.safetensors", 100, std::string(64, 'b'), {{"fc.bias.m", Shape{4}}}}};
  const std::string text = encode_manifest(manifest);
  EXPECT_EQ(decode_manifest(text, "m.json").state.step, 8);
  int refused = 0;
  test::each_number_changed(json::parse(text), [&](const std::string& where, json changed) {
    changed.erase("sha256");
    changed["sha256"] = sha256_hex(changed.dump());
    const std::string error = error_of([&] { (void)decode_manifest(changed.dump(), "m.json"); });
    EXPECT_THAT(error, ::testing::AnyOf("", HasSubstr("m.json"))) << where;
    refused += error.empty() ? 0 : 1;
    // Of what is "extra" the state tells, see below; a metric may be any number.
    if (where.find("/extra") == where.npos && where.find("metric") == where.npos &&
        !test::is_small_integer(where)) {
      EXPECT_NE(error, "") << where;
    }
  });
  EXPECT_GT(refused, 100);
}

TEST(StoredNumbers, OfWhatOnlyAResumeReadsAreTakenOrToldOf) {
  RunState state = some_state();
  state.loss_scale = LossScale{1024, 3, 1};
  state.guard.losses = {{0.5, 0.25}};
  state.guard.skipped = {{2, 20, 0, "r", {1, 2}}};
  const json document = to_json(state);
  EXPECT_EQ(run_state_from_json(document).fault, "");
  int refused = 0;
  test::each_number_changed(document["extra"], [&](const std::string& where, const json& extra) {
    json changed = document;
    changed["extra"] = extra;
    const std::string fault = run_state_from_json(changed).fault;
    refused += fault.empty() ? 0 : 1;
    // Sums, losses and the scale may be any number, and plans that are none are not taken.
    if (where.find("skipped") != where.npos && !test::is_small_integer(where)) {
      EXPECT_NE(fault, "") << where;
    }
  });
  EXPECT_GT(refused, 60);
}

}  // namespace
}  // namespace lockstep
