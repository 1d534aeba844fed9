#pragma once

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <unistd.h>

#include "cli/cli_support.h"

namespace lockstep::test {

inline const std::string launch_folder = std::string(LOCKSTEP_SOURCE_DIR) + "/launch/";

inline void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

/// What was said, without the lines of the epochs.
inline std::string told(const std::string& all) {
  std::istringstream in(all);
  std::string text;
  for (std::string line; std::getline(in, line);)
    if (!line.starts_with("epoch ")) text += line + "\n";
  return text;
}
/// For failure messages: how it ended, too.
inline std::string told(const ProcessResult& result) {
  return told(result.describe());
}

/// Looks until `is_so` or the time is over; whether it is so.
inline bool becomes_so(double seconds, const std::function<bool()>& is_so) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!is_so()) {
    if (std::chrono::steady_clock::now() > end) return false;
    sleep_s(0.02);
  }
  return true;
}

/// The processes whose command line has `program` as its first word and `word` among the others.
inline std::vector<int> processes_with(const std::string& program, const std::string& word) {
  namespace fs = std::filesystem;
  std::vector<int> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream in(entry.path() / "cmdline", std::ios::binary);
    std::string line;
    std::getline(in, line, '\x01');  // all of it; a process that ends meanwhile leaves it empty
    if (line.starts_with(program + '\0') && line.find('\0' + word + '\0') != std::string::npos &&
        is_alive(std::stoi(name)))
      found.push_back(std::stoi(name));
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// The latest step of a checkpoint in a run directory; -1: none.
inline std::int64_t newest_step(const std::string& run) {
  namespace fs = std::filesystem;
  std::int64_t newest = -1;
  std::error_code ignored;
  for (const auto& generation : fs::directory_iterator(run + "/checkpoints", ignored))
    for (const auto& entry : fs::directory_iterator(generation.path(), ignored))
      if (const std::string name = entry.path().filename(); name.starts_with("step-"))
        newest = std::max<std::int64_t>(newest, std::stoll(name.substr(5)));
  return newest;
}

/// Jobs under lockstep-run in a folder of the test's own, TMPDIR included: what they leave there shows.
class LaunchTest : public testing::Test {
 protected:
  LaunchTest() {
    std::filesystem::create_directory(temporary);
    // Longer epochs than elsewhere: what is tested is what happens within them.
    std::string text = small_config();
    const std::string samples = "samples = 130";
    text.replace(text.find(samples), samples.size(), "samples = 4800");
    write_file_bytes(config, text);
  }

  /// `lockstep train` of `steps` steps into the folder's `dir`, with a checkpoint every `save_every`.
  std::vector<std::string> train(const std::string& dir, std::int64_t steps,
                                 const std::vector<std::string>& more = {}, int save_every = 25) const {
    std::vector<std::string> words = {LOCKSTEP_PROGRAM,
                                      "train",
                                      "--config",
                                      config,
                                      "--run.dir",
                                      folder / dir,
                                      "--train.epochs",
                                      "0",
                                      "--train.steps",
                                      std::to_string(steps),
                                      "--checkpoint.every_steps",
                                      std::to_string(save_every),
                                      "--log.every_steps",
                                      "5"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  ProcessOptions environment(double timeout_s) const {
    ProcessOptions options;
    options.timeout_s = timeout_s;
    options.env["TMPDIR"] = temporary;
    return options;
  }
  std::vector<std::string> launch(const std::vector<std::string>& options,
                                  const std::vector<std::string>& program) const {
    std::vector<std::string> argv = {launch_folder + "lockstep-run"};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.push_back("--");
    argv.insert(argv.end(), program.begin(), program.end());
    return argv;
  }
  std::vector<int> ranks_of(const std::string& dir) const {
    return processes_with(LOCKSTEP_PROGRAM, folder / dir);
  }
  /// Waits until `count` ranks of a run stand, none of them in `before`.
  bool ranks_stand(const std::string& dir, std::size_t count, const std::set<int>& before = {}) const {
    return becomes_so(60, [&] {
      const std::vector<int> now = ranks_of(dir);
      return now.size() == count &&
             std::none_of(now.begin(), now.end(), [&](int p) { return before.count(p) != 0; });
    });
  }
  /// mpirun of a run: the process that started it.
  int mpirun_of(const std::string& dir) const {
    const std::vector<int> found = processes_with("mpirun", folder / dir);
    return found.size() == 1 ? found[0] : -1;
  }
  /// The digest of the same training without a disturbance.
  std::string undisturbed(std::int64_t steps) const {
    const ProcessResult result =
        run_process(train("undisturbed", steps, {"--device.threads", "1"}), environment(240));
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    return digest(folder / "undisturbed", true);
  }
  /// Open MPI's folders of jobs and lockstep-run's records that are still in TMPDIR.
  std::vector<std::string> leftovers() const {
    namespace fs = std::filesystem;
    std::vector<std::string> found;
    std::error_code ignored;
    for (const auto& outer : fs::directory_iterator(temporary, ignored))
      for (const auto& inner : fs::directory_iterator(outer.path(), ignored)) found.push_back(inner.path());
    return found;
  }
  /// The segments of Open MPI's shared memory transport on this machine.
  static std::set<std::string> segments() {
    std::set<std::string> found;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", ignored))
      if (entry.path().filename().string().starts_with("vader_segment.")) found.insert(entry.path());
    return found;
  }

  TempDir folder;
  const std::string temporary = folder / "tmp";
  const std::string config = folder / "small.ini";
};

}  // namespace lockstep::test
