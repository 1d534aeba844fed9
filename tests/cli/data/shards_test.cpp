// Data beyond memory: sets of files that are mapped or read while the training goes on.

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "cli/cli_data.h"
#include "cli/running_job.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint32_t samples_of_file = 512;
constexpr std::uint32_t side = 96;
constexpr int files = 24;  // of 13.5 MiB each: 324 MiB in all
constexpr std::uint64_t set_bytes = std::uint64_t{files} * samples_of_file * 3 * side * side;

/// Files of images 3x96x96 of four classes, and their labels.
void write_shards(const std::string& folder) {
  std::uint64_t state = 1;
  for (int f = 0; f < files; ++f) {
    std::string pixels(std::size_t{samples_of_file} * 3 * side * side, '\0');
    std::string labels;
    for (std::size_t i = 0; i < pixels.size(); i += 8) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      pixels[i] = static_cast<char>(state >> 56);
      pixels[i + 5] = static_cast<char>(state >> 48);
    }
    for (std::uint32_t i = 0; i < samples_of_file; ++i) {
      const std::uint32_t c = (i * 7 + static_cast<std::uint32_t>(f)) % 4;
      labels += static_cast<char>(c);
      const std::size_t begin = std::size_t{i} * 3 * side * side;
      for (std::size_t p = 0; p < 2000; ++p) pixels[begin + c * 2000 + p] = static_cast<char>(200 + p % 50);
    }
    const std::string name = folder + "/" + static_cast<char>('a' + f);
    write_file_bytes(name + "-images-idx4", idx_bytes({samples_of_file, 3, side, side}, pixels));
    write_file_bytes(name + "-labels-idx1", idx_bytes({samples_of_file}, labels));
  }
}

/// Anonymous and shared memory of a process, in bytes; 0 once it has ended.
std::uint64_t own_memory(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  std::uint64_t kib = 0;
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:") || line.starts_with("RssShmem:"))
      kib += std::stoull(line.substr(line.find(':') + 1));
  return kib << 10;
}

class Shards : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder = new TempDir;
    write_shards(folder->path());
  }
  static void TearDownTestSuite() {
    delete folder;
    folder = nullptr;
  }
  Flags flags(const std::string& run, const Flags& more = {}) const {
    Flags all = {{"run.dir", runs / run},
                 {"data.train", *folder / "?-images-idx4"},
                 {"model.layers", "flatten dense:4"},
                 {"optimizer.lr", "0.001"},
                 {"train.global_batch", "48"},
                 {"train.slices", "12"},
                 {"train.epochs", "1"},
                 {"device.threads", "1"}};
    for (const auto& [key, value] : more) {
      const auto same = std::find_if(all.begin(), all.end(), [&](const auto& f) { return f.first == key; });
      if (same == all.end())
        all.emplace_back(key, value);
      else
        same->second = value;
    }
    return all;
  }
  std::string model(const std::string& run) const { return digest(runs / run + "/model.safetensors"); }
  static ProcessOptions patient() {
    ProcessOptions options;
    options.timeout_s = 200;
    return options;
  }
  static TempDir* folder;
  TempDir runs;
};
TempDir* Shards::folder = nullptr;

TEST_F(Shards, TrainWithLittleMemoryToTheSameBitsOnAnyRanksMappedOrReadAndAfterAResume) {
  // Mapped, on three ranks, watched.
  {
    RunningJob job(3, with_flags({"train"}, flags("mapped")));
    std::uint64_t most = 0;
    while (job.process().running()) {
      for (const pid_t pid : job.pids()) most = std::max(most, own_memory(pid));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    const ProcessResult result = job.process().wait();
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_NE(result.err.find("a set of 24 files"), std::string::npos) << result.describe();
    EXPECT_GT(most, std::uint64_t{1} << 20) << "nothing was measured";
    EXPECT_LT(most, set_bytes / 4);
    RecordProperty("largest_rank_mib", static_cast<int>(most >> 20));
    std::cout << "largest anonymous and shared memory of a rank: " << (most >> 20)
              << " MiB, the set: " << (set_bytes >> 20) << " MiB\n";
  }
  const std::string expected = model("mapped");
  // Read, on one rank, under a limit on its memory of a quarter of the set. Stacks count as they are
  // reserved, not as they are used, so they are kept small.
  {
    std::vector<std::string> command = {LOCKSTEP_PROGRAM, "train", "--data.read", "read"};
    std::string line =
        "ulimit -s 1024 && ulimit -d " + std::to_string(set_bytes / 4 >> 10) + " && exec \"$@\"";
    std::vector<std::string> argv = {"sh", "-c", line, "sh"};
    const std::vector<std::string> all = with_flags(command, flags("read"));
    argv.insert(argv.end(), all.begin(), all.end());
    const ProcessResult result = run_process(argv, patient());
    ASSERT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(model("read"), expected);
  }
  // Stopped in mid-epoch on two ranks, and gone on with on one, with other workers.
  {
    const ProcessResult begun =
        lockstep(2, with_flags({"train"}, flags("resumed", {{"train.steps", "117"}})), patient());
    ASSERT_EQ(begun.exit_code, 0) << begun.describe();
    const ProcessResult resumed = lockstep(
        1,
        with_flags({"train", "--resume"},
                   flags("resumed", {{"data.workers", "3"}, {"data.read", "read"}, {"train.steps", "0"}})),
        patient());
    ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
    EXPECT_EQ(model("resumed"), expected);
  }
  // The comparison can fail: another window is another order.
  const ProcessResult other =
      lockstep(0, with_flags({"train"}, flags("other", {{"data.window", "2"}})), patient());
  ASSERT_EQ(other.exit_code, 0) << other.describe();
  EXPECT_NE(model("other"), expected);
}

TEST_F(Shards, AFileThatIsCutShortInMidRunEndsItWithItsNameAndKeepsTheCheckpoint) {
  for (const std::string read : {"map", "read"}) {
    for (const int ranks : {0, 3}) {
      const std::string run = read + std::to_string(ranks);
      const std::string victim = *folder / "q-images-idx4";
      const auto size = fs::file_size(victim);
      RunningJob job(ranks, with_flags({"train"}, flags(run, {{"data.read", read},
                                                              {"train.epochs", "50"},
                                                              {"checkpoint.every_steps", "5"}})));
      const std::string checkpoints = runs / run + "/checkpoints";
      for (int i = 0; i < 6000 && job.process().running(); ++i) {
        std::error_code ignored;
        if (fs::exists(checkpoints, ignored) && !fs::is_empty(checkpoints, ignored)) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
      EXPECT_TRUE(job.process().running()) << job.process().so_far();
      fs::resize_file(victim, size / 2);
      const ProcessResult result = job.process().wait();
      fs::resize_file(victim, size);
      EXPECT_EQ(result.exit_code, 2) << result.describe();
      EXPECT_NE(error_text(result).find("q-images-idx4"), std::string::npos) << result.describe();
      EXPECT_NE(error_text(result).find("cut short"), std::string::npos) << result.describe();
      EXPECT_EQ(result.err.find("Bus error"), std::string::npos) << result.describe();
      EXPECT_FALSE(fs::is_empty(checkpoints)) << "the last checkpoint is gone";
    }
  }
  // The restored half is zeros: the set is another one, and a resume says so.
  const ProcessResult resumed =
      lockstep(1, with_flags({"train", "--resume"}, flags("map0", {{"train.epochs", "50"}})), patient());
  EXPECT_EQ(resumed.exit_code, 2) << resumed.describe();
  EXPECT_NE(error_text(resumed).find("the inputs in '?-images-idx4' are others"), std::string::npos)
      << resumed.describe();
}

TEST_F(Shards, KeysThatDoNotFitAreRefused) {
  const auto refusal = [&](const Flags& more) {
    const ProcessResult result =
        lockstep(0, with_flags({"train", "--dry-run"}, flags("refused", more)), in_time());
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    return error_text(result);
  };
  EXPECT_NE(refusal({{"data.limit", "5"}}).find("data.limit"), std::string::npos);
  EXPECT_NE(refusal({{"data.validation_fraction", "0.1"}}).find("data.validation"), std::string::npos);
  EXPECT_NE(refusal({{"data.window", "0"}}).find("data.window"), std::string::npos);
  EXPECT_NE(refusal({{"data.train_labels", *folder / "[ab]-labels-idx1"}}).find("24 files"),
            std::string::npos);
  const std::string one = *folder / "a-images-idx4";
  const ProcessResult result =
      lockstep(0,
               with_flags({"train", "--dry-run"}, {{"run.dir", runs / "one"},
                                                   {"data.train", one},
                                                   {"data.read", "read"},
                                                   {"model.layers", "flatten dense:4"},
                                                   {"train.epochs", "1"}}),
               in_time());
  EXPECT_EQ(result.exit_code, 2) << result.describe();
  EXPECT_NE(error_text(result).find("data.read is given, but no data set is a set of files"),
            std::string::npos)
      << result.describe();
}

}  // namespace
}  // namespace lockstep::test
