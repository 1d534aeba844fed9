#include "trainer/checkpoint.h"

#include <bit>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "support/mount.h"
#include "support/process.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint_manifest.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using test::read_file_bytes;
using test::TempDir;
using test::TmpfsMount;
using test::write_file_bytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Tensors whose values tell the step.
struct Tensors {
  std::vector<float> weight, bias, moment;
  std::vector<TensorView> model, optimizer;

  explicit Tensors(std::int64_t step, std::size_t size = 24)
      : weight(size, static_cast<float>(step)), bias(4, -static_cast<float>(step)), moment(size, 0.5f) {
    weight[0] = std::numeric_limits<float>::quiet_NaN();
    weight[1] = -0.0f;
    const auto n = static_cast<std::int64_t>(size);
    model = {view_of("fc.weight", {n / 4, 4}, weight), view_of("fc.bias", {4}, bias)};
    optimizer = {view_of("optimizer.exp_avg.fc.weight", {n / 4, 4}, moment)};
  }
};

TrainingState state_at(std::int64_t step) {
  TrainingState s;
  s.step = step;
  s.position = step * 32;
  s.epoch = step / 10;
  s.slices = 8;
  s.horizon = 100;
  s.config = "[train]\nepochs = 3\n";
  s.fingerprint = "cpu zen4\nbinary 12ab";
  return s;
}

std::string save(CheckpointStore& store, int generation, std::int64_t step) {
  const Tensors t(step);
  return store.save(generation, state_at(step), t.model, t.optimizer);
}

float first_bias(const Checkpoint& c) {
  std::vector<float> bias(4);
  c.model.read_f32("fc.bias", {4}, bias);
  return bias[0];
}

template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const InputError& e) {
    return e.what();
  }
  return "nothing thrown";
}

std::set<std::string> names_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& e : fs::directory_iterator(directory)) names.insert(e.path().filename());
  return names;
}

class Checkpoints : public ::testing::Test {
 protected:
  std::optional<CheckpointRef> newest() {
    passed_over_.clear();
    return store_.find_newest(passed_over_);
  }
  std::string gen(int n) const { return dir_ / ("checkpoints/gen-00000" + std::to_string(n)); }

  TempDir dir_;
  CheckpointStore store_{dir_.path()};
  std::vector<std::string> passed_over_;
};

TEST_F(Checkpoints, KeepEveryBitOfStateAndTensors) {
  EXPECT_EQ(newest(), std::nullopt);
  const int g = store_.claim_generation();
  EXPECT_EQ(g, 1);
  Tensors t(7);
  TrainingState s = state_at(7);
  s.position = (std::int64_t{1} << 53) + 1;  // beyond what a double holds
  s.best_metric = 0.1 + 0.2;
  s.best_step = 5;
  s.reduction = "fast";
  s.any_fast = true;
  s.extra = R"({"class_names":["a","\u00e9"],"mean":[0.1,1e-300]})";
  const std::string path = store_.save(g, s, t.model, t.optimizer);
  EXPECT_EQ(path, gen(1) + "/step-000000007");

  const Checkpoint c = load_checkpoint(path);
  EXPECT_EQ(c.state.generation, 1);
  EXPECT_EQ(c.state.step, 7);
  EXPECT_EQ(c.state.position, s.position);
  EXPECT_EQ(c.state.epoch, 0);
  EXPECT_EQ(c.state.slices, 8);
  EXPECT_EQ(c.state.horizon, 100);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(*c.state.best_metric), std::bit_cast<std::uint64_t>(0.1 + 0.2));
  EXPECT_EQ(c.state.best_step, 5);
  EXPECT_EQ(c.state.config, s.config);
  EXPECT_EQ(c.state.fingerprint, s.fingerprint);
  EXPECT_EQ(c.state.reduction, "fast");
  EXPECT_TRUE(c.state.any_fast);
  EXPECT_EQ(nlohmann::json::parse(c.state.extra), nlohmann::json::parse(s.extra));
  std::vector<float> weight(24);
  c.model.read_f32("fc.weight", {6, 4}, weight);
  EXPECT_EQ(std::memcmp(weight.data(), t.weight.data(), sizeof(float) * 24), 0);
  ASSERT_TRUE(c.optimizer.has_value());
  c.optimizer->check_names({"optimizer.exp_avg.fc.weight"});
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000007"});
}

TEST_F(Checkpoints, TheHighestGenerationAndStepIsTaken) {
  const int first = store_.claim_generation();
  save(store_, first, 10);
  save(store_, first, 30);
  const int second = store_.claim_generation();
  EXPECT_EQ(newest()->step, 30);
  save(store_, second, 20);
  EXPECT_EQ(newest()->path, gen(2) + "/step-000000020");
  // A job that was cut off goes on in its own generation and displaces nothing.
  save(store_, first, 1000);
  EXPECT_EQ(newest()->path, gen(2) + "/step-000000020");
  EXPECT_THAT(passed_over_, IsEmpty());
}

TEST_F(Checkpoints, SavingAStepAgainReplacesItWhole) {
  const int g = store_.claim_generation();
  save(store_, g, 5);
  TrainingState s = state_at(5);
  s.best_metric = 0.75;
  s.best_step = 5;
  const Tensors t(5);
  store_.save(g, s, t.model, t.optimizer);
  EXPECT_EQ(load_checkpoint(newest()->path).state.best_step, 5);
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000005"});
}

// Copies a whole checkpoint, damages the copy, and asks which one is taken.
class DamagedCheckpoints : public Checkpoints {
 protected:
  void SetUp() override {
    older_ = save(store_, store_.claim_generation(), 10);
    newer_ = save(store_, store_.claim_generation(), 20);
    for (const char* name : {manifest_file, model_file, optimizer_file}) {
      whole_[name] = read_file_bytes(newer_ + "/" + name);
    }
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
  std::string older_, newer_;
  std::map<std::string, std::string> whole_;
};

TEST_F(DamagedCheckpoints, AFileCutAnywhereIsNoticed) {
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
  for (const auto& [name, bytes] : whole_) {
    fs::remove(newer_ + "/" + name);
    expect_passed_over("does not exist", name);
    fs::create_directory(newer_ + "/" + name);
    expect_passed_over("is a directory", name);
    fs::remove(newer_ + "/" + name);
    restore();
  }
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
      {"'step' is not an integer", [](auto& d) { d["step"] = 20.5; }},
      {"'position' is out of range", [](auto& d) { d["position"] = ~std::uint64_t{0}; }},
      {"'slices' is 0", [](auto& d) { d["slices"] = 0; }},
      {"a key is missing", [](auto& d) { d.erase("config"); }},
      {"another kind", [](auto& d) { d["config"] = 1; }},
      {"another kind", [](auto& d) { d["files"] = 1; }},
      {"'extra' is not an object", [](auto& d) { d["extra"] = 1; }},
      {"lists no files", [](auto& d) { d["files"] = nlohmann::json::array(); }},
      {"not that of a checkpoint", [](auto& d) { d["files"][0]["name"] = "../../../etc/passwd"; }},
      {"not that of a checkpoint", [](auto& d) { d["files"].push_back(d["files"][0]); }},
      {"'bytes' is -5", [](auto& d) { d["files"][0]["bytes"] = -5; }},
  };
  for (const auto& [reason, change] : changes) {
    write_file_bytes(newer_ + "/" + manifest_file, resealed(whole_[manifest_file], change));
    expect_passed_over(reason, reason);
  }
}

TEST_F(DamagedCheckpoints, AVersionFromTheFutureIsRefusedWithItsNumber) {
  write_file_bytes(newer_ + "/" + manifest_file,
                   resealed(whole_[manifest_file], [](auto& d) { d["version"] = 7; }));
  EXPECT_THAT(message_of([&] { newest(); }),
              AllOf(HasSubstr(newer_), HasSubstr("format version 7"), HasSubstr("up to 1")));
  EXPECT_THROW(load_checkpoint(newer_), CheckpointVersionError);
  // Content of the future may be unknown altogether.
  write_file_bytes(newer_ + "/" + manifest_file, resealed(whole_[manifest_file], [](auto& d) {
                     d = {{"format", "lockstep checkpoint"}, {"version", 12}};
                   }));
  EXPECT_THROW(load_checkpoint(newer_), CheckpointVersionError);
  // A flipped digit is damage, not a newer version.
  std::string damaged = whole_[manifest_file];
  damaged[damaged.find("\"version\": 1") + 11] = '7';
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

TEST_F(Checkpoints, PruneKeepsTheNewestAndNeverTouchesAHigherGeneration) {
  for (int g = 1; g <= 3; ++g) {
    ASSERT_EQ(store_.claim_generation(), g);
    for (int step : {10, 20}) save(store_, g, step + g);
    fs::create_directories(gen(g) + "/.saving-step-000000099");
    fs::create_directories(gen(g) + "/.removing-step-000000098");
    write_file_bytes(gen(g) + "/notes.txt", "the user's own");
  }
  store_.prune(2, 3);
  EXPECT_EQ(names_in(gen(1)), (std::set<std::string>{"step-000000021", "notes.txt"}));
  EXPECT_EQ(names_in(gen(2)), (std::set<std::string>{"step-000000012", "step-000000022", "notes.txt"}));
  EXPECT_EQ(names_in(gen(3)).size(), 5u);
  store_.prune(2, 1);
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"notes.txt"});
  EXPECT_EQ(names_in(gen(2)), (std::set<std::string>{"step-000000022", "notes.txt"}));
  EXPECT_EQ(names_in(gen(3)).size(), 5u);
  EXPECT_EQ(newest()->path, gen(3) + "/step-000000023");
  EXPECT_EQ(store_.claim_generation(), 4);
}

TEST_F(Checkpoints, TheBestWeightsLiveAsLongAsACheckpointRefersToThem) {
  const int g = store_.claim_generation();
  const auto at = [&](std::int64_t step, std::int64_t best) {
    const Tensors t(step);
    TrainingState s = state_at(step);
    s.best_metric = 0.5;
    s.best_step = best;
    if (best == step) store_.save_best(g, s, t.model);
    store_.save(g, s, t.model, t.optimizer);
    store_.prune(g, 1);
  };
  at(10, 10);
  at(20, 10);
  at(30, 10);
  const auto best = store_.find_best(10);
  ASSERT_TRUE(best.has_value());
  const Checkpoint c = load_checkpoint(best->path);
  EXPECT_EQ(first_bias(c), -10.0f);
  EXPECT_FALSE(c.optimizer.has_value());
  EXPECT_EQ(newest()->step, 30);  // best weights are no checkpoint to resume from
  // Saved, but the job dies before a checkpoint says so: both stay.
  const Tensors t(35);
  store_.save_best(g, state_at(35), t.model);
  store_.prune(g, 1);
  EXPECT_EQ(names_in(gen(1)), (std::set<std::string>{"best-000000010", "best-000000035", "step-000000030"}));
  at(40, 35);
  EXPECT_EQ(names_in(gen(1)), (std::set<std::string>{"best-000000035", "step-000000040"}));
  EXPECT_EQ(store_.find_best(10), std::nullopt);
}

TEST_F(Checkpoints, LeftoversOfTheOwnGenerationDoNotDisturbASave) {
  const int g = store_.claim_generation();
  fs::create_directories(gen(1) + "/.saving-step-000000010/model.safetensors");
  save(store_, g, 10);
  EXPECT_EQ(newest()->step, 10);
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000010"});
}

TEST_F(Checkpoints, ForeignNamesAreLeftAlone) {
  const int g = store_.claim_generation();
  save(store_, g, 10);
  for (const char* name : {"gen-2", "gen-0000002", "gen-00000x", "old"}) {
    fs::create_directories(dir_ / ("checkpoints/" + std::string(name) + "/step-000000090"));
  }
  for (const char* name : {"step-90", "step-", "step-0000000090", "step-00000009x", "step--00000009"}) {
    fs::create_directories(gen(1) + "/" + name);
  }
  EXPECT_EQ(newest()->step, 10);
  EXPECT_THAT(passed_over_, IsEmpty());
  store_.prune(g, 1);
  EXPECT_EQ(names_in(gen(1)).size(), 6u);
  // A file where a generation would be: its number is taken.
  write_file_bytes(gen(7), "");
  EXPECT_EQ(store_.claim_generation(), 8);
}

// Runs `body` in a child process that leaves without unwinding the test program.
pid_t in_child(const std::function<void()>& body) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  try {
    body();
  } catch (...) {
    _exit(1);
  }
  _exit(0);
}

TEST_F(Checkpoints, JobsThatStartAtOnceClaimDifferentGenerations) {
  constexpr int jobs = 4, claims = 25;
  test::detail::Pipe pipe;
  std::vector<pid_t> children;
  for (int j = 0; j < jobs; ++j) {
    children.push_back(in_child([&] {
      for (int i = 0; i < claims; ++i) {
        const int g = CheckpointStore(dir_.path()).claim_generation();
        if (write(pipe.write_end, &g, sizeof g) != sizeof g) _exit(2);
      }
    }));
  }
  pipe.close_write();
  std::vector<int> got;
  for (int g = 0; read(pipe.read_end, &g, sizeof g) == sizeof g;) got.push_back(g);
  for (const pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  std::sort(got.begin(), got.end());
  std::vector<int> expected(jobs * claims);
  std::iota(expected.begin(), expected.end(), 1);
  EXPECT_EQ(got, expected);
}

TEST_F(Checkpoints, AKillAtAnyMomentLosesNothingAcknowledged) {
  std::mt19937 random(7);
  std::int64_t acknowledged = -1;
  int kills_in_a_save = 0;
  for (int round = 0; round < 40; ++round) {
    const std::int64_t from = acknowledged + 1;
    test::detail::Pipe pipe;
    const pid_t child = in_child([&] {
      CheckpointStore store(dir_.path());
      const int g = store.claim_generation();
      for (std::int64_t step = from;; ++step) {
        const Tensors t(step, 20'000);
        store.save(g, state_at(step), t.model, t.optimizer);
        if (write(pipe.write_end, &step, sizeof step) != sizeof step) _exit(2);
        store.prune(g, 2);
      }
    });
    pipe.close_write();
    // From the first acknowledged save on, so that every round reaches the saves.
    std::int64_t step = -1;
    ASSERT_EQ(read(pipe.read_end, &step, sizeof step), ssize_t{sizeof step});
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 12'000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    do {
      acknowledged = step;
    } while (read(pipe.read_end, &step, sizeof step) == ssize_t{sizeof step});

    const auto found = newest();
    ASSERT_TRUE(found.has_value());
    EXPECT_THAT(passed_over_, IsEmpty());  // nothing torn ever has a checkpoint's name
    EXPECT_GE(found->step, acknowledged);
    EXPECT_LE(found->step, acknowledged + 1);
    EXPECT_EQ(first_bias(load_checkpoint(found->path)), -static_cast<float>(found->step));
    for (const std::string& name : names_in(parent_directory(found->path))) {
      kills_in_a_save += name.starts_with(".") ? 1 : 0;
    }
  }
  EXPECT_GT(kills_in_a_save, 0);  // the rounds did hit saves
  // The next job clears away what the killed ones have left.
  const int g = store_.claim_generation();
  save(store_, g, acknowledged + 2);
  store_.prune(g, 1);
  for (int n = 1; n <= g; ++n) {
    char name[32];
    std::snprintf(name, sizeof name, "checkpoints/gen-%06d", n);
    EXPECT_EQ(names_in(dir_ / name).size(), n == g ? 1u : 0u) << name;
  }
}

TEST_F(Checkpoints, AFullDiskIsSeenBeforeAnythingIsWritten) {
  const TmpfsMount disk(dir_.path(), "size=512k");
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  const int g = store_.claim_generation();
  save(store_, g, 10);
  const Tensors large(20, 100'000);
  EXPECT_THAT(
      message_of([&] { store_.save(g, state_at(20), large.model, large.optimizer); }),
      AllOf(HasSubstr("no space for the checkpoint"), HasSubstr("step-000000020"), HasSubstr("are free")));
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000010"});
  EXPECT_EQ(newest()->step, 10);
  save(store_, g, 20);
  EXPECT_EQ(newest()->step, 20);
}

TEST_F(Checkpoints, ADiskThatFillsUpDuringASaveCostsNothingOlder) {
  const TmpfsMount disk(dir_.path(), "size=8m,nr_inodes=40");
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  const int g = store_.claim_generation();
  save(store_, g, 10);
  // Uses up the file system's entries: there is room by bytes, and the save fails at its n-th file.
  std::vector<std::string> fillers;
  try {
    for (int i = 0; i < 100; ++i) {
      write_file_bytes(dir_ / ("filler" + std::to_string(i)), "");
      fillers.push_back(dir_ / ("filler" + std::to_string(i)));
    }
  } catch (const std::runtime_error&) {
  }
  for (int free = 0; free < 4; ++free) {
    EXPECT_THAT(message_of([&] { save(store_, g, 20); }), HasSubstr("No space left on device")) << free;
    EXPECT_EQ(newest()->step, 10);
    EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000010"});
    fs::remove(fillers.back());
    fillers.pop_back();
  }
  save(store_, g, 20);
  EXPECT_EQ(newest()->step, 20);
}

TEST_F(Checkpoints, AWriteThatFailsHalfWayCostsNothingOlder) {
  const int g = store_.claim_generation();
  save(store_, g, 10);
  // The limit is a process's own, so a child takes it. Its report is its exit code.
  const pid_t child = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    const Tensors large(20, 4000);
    const std::string message =
        message_of([&] { store_.save(g, state_at(20), large.model, large.optimizer); });
    _exit(message.find("File too large") != std::string::npos ? 42 : 43);
  });
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 42);
  EXPECT_EQ(newest()->step, 10);
  EXPECT_THAT(passed_over_, IsEmpty());
  EXPECT_EQ(names_in(gen(1)), std::set<std::string>{"step-000000010"});
}

TEST_F(Checkpoints, AStateThatCannotBeWrittenIsRefused) {
  const int g = store_.claim_generation();
  const Tensors t(1);
  TrainingState s = state_at(1);
  s.config = "data.train = \xff";
  EXPECT_THAT(message_of([&] { store_.save(g, s, t.model, t.optimizer); }), HasSubstr("use UTF-8"));
  s = state_at(1);
  s.extra = "[1]";
  EXPECT_THROW(store_.save(g, s, t.model, t.optimizer), InternalError);
  EXPECT_THAT(names_in(gen(1)), IsEmpty());
}

}  // namespace
}  // namespace lockstep
