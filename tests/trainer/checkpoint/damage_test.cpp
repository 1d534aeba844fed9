#include <filesystem>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/test_support.h"

namespace lockstep::checkpoint_test {
namespace {

namespace fs = std::filesystem;
using test::read_file_bytes;
using test::write_file_bytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Copies a whole checkpoint, damages the copy, and asks which one is taken.
class DamagedCheckpoints : public Checkpoints {
 protected:
  void SetUp() override {
    older_ = save(store_, store_.claim_generation(), 10);
    take(save(store_, store_.claim_generation(), 20));
  }
  /// The checkpoint to be damaged.
  void take(const std::string& path) {
    newer_ = path;
    whole_.clear();
    for (const std::string& name : names_in(newer_)) whole_[name] = read_file_bytes(newer_ + "/" + name);
  }
  /// The same as written by three ranks, of which one had nothing of the optimizer.
  void take_parts() {
    const Tensors t(20);
    const PendingCheckpoint pending = store_.begin(2, CheckpointKind::checkpoint, 20, 1000);
    std::vector<ManifestFile> files;
    const auto add = [&](const std::string& name, const TensorView& tensor) {
      const WrittenFile w = write_new_safetensors(pending.directory + "/" + name, std::vector{tensor});
      files.push_back({name, w.bytes, w.sha256, {{tensor.name, tensor.shape}}});
    };
    add("model-00001-of-00002.safetensors", t.model[0]);
    add("model-00002-of-00002.safetensors", t.model[1]);
    add("optimizer-00001-of-00002.safetensors", t.optimizer[0]);
    add("optimizer-00002-of-00002.safetensors", view_of("optimizer.exp_avg.fc.bias", {4}, t.bias));
    take(store_.commit(pending, state_at(20), files));
    ASSERT_EQ(whole_.size(), 5u);
  }
  void restore() {
    for (const auto& [name, bytes] : whole_) write_file_bytes(newer_ + "/" + name, bytes);
  }
  void expect_passed_over(const std::string& reason, const std::string& what) {
    const auto found = newest();
    ASSERT_TRUE(found.has_value()) << what;
    EXPECT_EQ(found->path, older_) << what;
    ASSERT_EQ(passed_over_.size(), 1u) << what;
    EXPECT_THAT(passed_over_[0], AllOf(HasSubstr(newer_), HasSubstr(reason))) << what;
  }
  void cut_everywhere();
  void flip_every_byte();
  void remove_every_file();
  std::string older_, newer_;
  std::map<std::string, std::string> whole_;
};

TEST_F(DamagedCheckpoints, AFileCutAnywhereIsNoticed) {
  cut_everywhere();
  take_parts();
  cut_everywhere();
}

void DamagedCheckpoints::cut_everywhere() {
  for (const auto& [name, bytes] : whole_) {
    for (std::size_t n = 0; n < bytes.size(); n += 1 + n / 64) {
      // The last byte of the manifest is a line end.
      if (name == manifest_file && n + 1 == bytes.size()) continue;
      write_file_bytes(newer_ + "/" + name, bytes.substr(0, n));
      expect_passed_over(name, name + " cut to " + std::to_string(n));
    }
    write_file_bytes(newer_ + "/" + name, bytes + "x");
    expect_passed_over(name, name + " with a byte too many");
    restore();
  }
  EXPECT_EQ(newest()->path, newer_);
}

TEST_F(DamagedCheckpoints, EveryFlippedByteIsNoticed) {
  flip_every_byte();
  take_parts();
  flip_every_byte();
}

void DamagedCheckpoints::flip_every_byte() {
  for (const auto& [name, bytes] : whole_) {
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << (at % 8)));
      write_file_bytes(newer_ + "/" + name, flipped);
      const std::string what = name + " byte " + std::to_string(at);
      if (newest()->path == newer_) {
        // Only the blank space of the JSON text carries nothing.
        ASSERT_EQ(name, manifest_file) << what;
        ASSERT_NE(std::string(" \n").find(bytes[at]), std::string::npos) << what;
        ASSERT_EQ(load_checkpoint(newer_).state.config, state_at(20).config);
      } else {
        expect_passed_over(name, what);
      }
    }
    restore();
  }
}

TEST_F(DamagedCheckpoints, AMissingOrForeignFileIsNoticed) {
  take_parts();
  remove_every_file();
  EXPECT_EQ(newest()->path, newer_);
  take(save(store_, 2, 20));
  remove_every_file();
  write_file_bytes(newer_ + "/" + manifest_file, "{}");
  expect_passed_over("not the manifest of a Lockstep checkpoint", "other JSON");
  write_file_bytes(newer_ + "/" + manifest_file, std::string(2'000'000, '['));
  expect_passed_over("nested too deeply", "open lists");
  write_file_bytes(newer_ + "/" + manifest_file, std::string(500'000, '[') + std::string(500'000, ']'));
  expect_passed_over("nested too deeply", "deep lists");
  // The weights of another step, whole in themselves.
  restore();
  write_file_bytes(newer_ + "/" + model_file, read_file_bytes(older_ + "/" + model_file));
  expect_passed_over("checksum", "other weights");
  restore();
  fs::rename(newer_, gen(2) + "/step-000000099");
  newer_ = gen(2) + "/step-000000099";
  expect_passed_over("it holds step 20", "renamed");
}

void DamagedCheckpoints::remove_every_file() {
  for (const auto& [name, bytes] : whole_) {
    fs::remove(newer_ + "/" + name);
    expect_passed_over("does not exist", name);
    fs::create_directory(newer_ + "/" + name);
    expect_passed_over("is a directory", name);
    fs::remove(newer_ + "/" + name);
    restore();
  }
}

// The manifest with changed content and a checksum that fits it.
std::string resealed(const std::string& manifest, const std::function<void(nlohmann::json&)>& change) {
  nlohmann::json d = nlohmann::json::parse(manifest);
  change(d);
  d.erase("sha256");
  d["sha256"] = sha256_hex(d.dump());
  return d.dump();
}

TEST_F(DamagedCheckpoints, MadeUpManifestsAreRefusedWithoutHarm) {
  const std::vector<std::pair<std::string, std::function<void(nlohmann::json&)>>> changes = {
      {"'step' is -1", [](auto& d) { d["step"] = -1; }},
      {"'step' is 20.5, but must be an integer", [](auto& d) { d["step"] = 20.5; }},
      {"'position' is 18446744073709551615, but must be", [](auto& d) { d["position"] = ~std::uint64_t{0}; }},
      {"'generation' is 1099511627776", [](auto& d) { d["generation"] = std::int64_t{1} << 40; }},
      {"'slices' is 0", [](auto& d) { d["slices"] = 0; }},
      {"a key is missing", [](auto& d) { d.erase("config"); }},
      {"another kind", [](auto& d) { d["config"] = 1; }},
      {"another kind", [](auto& d) { d["files"] = 1; }},
      {"'extra' is not an object", [](auto& d) { d["extra"] = 1; }},
      {"lists no files", [](auto& d) { d["files"] = nlohmann::json::array(); }},
      {"not that of a checkpoint", [](auto& d) { d["files"][0]["name"] = "../../../etc/passwd"; }},
      {"not that of a checkpoint", [](auto& d) { d["files"].push_back(d["files"][0]); }},
      {"not that of a checkpoint",
       [](auto& d) { d["files"][0]["name"] = "model-00001-of-00002.safetensors"; }},
      {"not that of a checkpoint", [](auto& d) { d["files"].erase(0); }},
      {"does not hold the tensors", [](auto& d) { d["files"][0]["tensors"].erase("fc.bias"); }},
      {"does not hold the tensors",
       [](auto& d) {
         d["files"][0]["tensors"]["fc.bias"] = {2, 2};
       }},
      {"fc.bias' is -4, but must be", [](auto& d) { d["files"][0]["tensors"]["fc.bias"] = {-4}; }},
      {"is not a list", [](auto& d) { d["files"][0]["tensors"]["fc.bias"] = 4; }},
      {"the digest of its config", [](auto& d) { d["config"] = "[train]\nepochs = 9\n"; }},
      {"'bytes' is -5", [](auto& d) { d["files"][0]["bytes"] = -5; }},
  };
  for (const auto& [reason, change] : changes) {
    write_file_bytes(newer_ + "/" + manifest_file, resealed(whole_[manifest_file], change));
    expect_passed_over(reason, reason);
  }
}

TEST_F(DamagedCheckpoints, AnUndamagedOneOfVersionOneIsRead) {
  write_file_bytes(newer_ + "/" + manifest_file, resealed(whole_[manifest_file], [](auto& d) {
                     d["version"] = 1;
                     d.erase("config_sha256");
                     for (auto& f : d["files"]) f.erase("tensors");
                   }));
  EXPECT_EQ(newest()->path, newer_);
  const Checkpoint c = load_checkpoint(newer_);
  EXPECT_EQ(c.version, 1);
  EXPECT_EQ(first_bias(c), -20.0f);
  EXPECT_EQ(c.state.config, state_at(20).config);
  // Its files are checked as ever.
  std::string bytes = whole_[model_file];
  bytes[bytes.size() - 3] ^= 1;
  write_file_bytes(newer_ + "/" + model_file, bytes);
  expect_passed_over("checksum", "version 1 with damaged weights");
}

TEST_F(DamagedCheckpoints, TheDigestOfTheConfigIsOfWhatTheManifestSays) {
  const auto with = [&](const std::function<void(nlohmann::json&)>& change) {
    write_file_bytes(newer_ + "/" + manifest_file, resealed(whole_[manifest_file], change));
  };
  // Version 2: of all the config.
  with([](auto& d) {
    d["version"] = 2;
    d["config_sha256"] = sha256_hex(d["config"].template get<std::string>());
    d.erase("config_without");
  });
  EXPECT_EQ(load_checkpoint(newer_).version, 2);
  // Version 3: of all but the keys that it names, whichever a later program would leave out.
  with([](auto& d) {
    d["config"] = "[train]\nepochs = 9\nlater = 3\n[run]\ndir = a\n";
    d["config_without"] = {"train.later", "run.dir"};
    d["config_sha256"] = sha256_hex(std::string("[train]\nepochs = 9\n[run]\n\n"));
  });
  EXPECT_EQ(load_checkpoint(newer_).version, 3);
  with([](auto& d) { d.erase("config_without"); });
  expect_passed_over("a key is missing", "without the list of keys");
  with([](auto& d) { d["config_without"] = 3; });
  expect_passed_over("of another kind", "with another kind of list");
}

TEST_F(DamagedCheckpoints, PartsAreReadAsOne) {
  take_parts();
  const Checkpoint c = load_checkpoint(newer_);
  EXPECT_EQ(first_bias(c), -20.0f);
  ASSERT_TRUE(c.optimizer.has_value());
  c.optimizer->check_names({"optimizer.exp_avg.fc.weight", "optimizer.exp_avg.fc.bias"});
  EXPECT_THAT(message_of([&] { c.model.check_names({"fc.weight"}); }), HasSubstr("fc.bias"));
  std::vector<float> none(4);
  EXPECT_THAT(message_of([&] { c.model.read_f32("fc.none", {4}, none); }),
              AllOf(HasSubstr(newer_), HasSubstr("fc.none")));
  // Written as one file they are what one rank would have written.
  c.model.write(dir_ / "one.safetensors");
  const Tensors t(20);
  EXPECT_EQ(read_file_bytes(dir_ / "one.safetensors").size(),
            safetensors_bytes(t.model, with_digest({}, t.model)));
  EXPECT_EQ(SafetensorsFile::open(dir_ / "one.safetensors").tensors().size(), 2u);
}

TEST_F(DamagedCheckpoints, AVersionFromTheFutureIsRefusedWithItsNumber) {
  write_file_bytes(newer_ + "/" + manifest_file,
                   resealed(whole_[manifest_file], [](auto& d) { d["version"] = 7; }));
  EXPECT_THAT(message_of([&] { newest(); }),
              AllOf(HasSubstr(newer_), HasSubstr("format version 7"), HasSubstr("up to 3")));
  EXPECT_THROW(load_checkpoint(newer_), CheckpointVersionError);
  // Content of the future may be unknown altogether.
  write_file_bytes(newer_ + "/" + manifest_file, resealed(whole_[manifest_file], [](auto& d) {
                     d = {{"format", "lockstep checkpoint"}, {"version", 12}};
                   }));
  EXPECT_THROW(load_checkpoint(newer_), CheckpointVersionError);
  // A flipped digit is damage, not a newer version.
  std::string damaged = whole_[manifest_file];
  damaged[damaged.find("\"version\": ") + 11] = '7';
  write_file_bytes(newer_ + "/" + manifest_file, damaged);
  expect_passed_over("checksum", "flipped version");
  // A whole one above it settles the matter.
  restore();
  write_file_bytes(older_ + "/" + manifest_file, resealed(read_file_bytes(older_ + "/" + manifest_file),
                                                          [](auto& d) { d["version"] = 7; }));
  EXPECT_EQ(newest()->path, newer_);
}

TEST_F(DamagedCheckpoints, NoneWholeNamesThemAll) {
  fs::remove(newer_ + "/" + model_file);
  write_file_bytes(older_ + "/" + optimizer_file, "short");
  EXPECT_EQ(newest(), std::nullopt);
  EXPECT_THAT(passed_over_, ElementsAre(HasSubstr(newer_), HasSubstr(older_)));
}

}  // namespace
}  // namespace lockstep::checkpoint_test
