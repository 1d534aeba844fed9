// The cache of measured plans on disk: whole or damaged, read and written by several, on disks that fail.

#include "model/cuda/tuning/plan_cache.h"

#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/digest.h"
#include "core/file.h"
#include "support/mount.h"
#include "support/process.h"
#include "support/temp_dir.h"

namespace lockstep::cuda {
namespace {

namespace fs = std::filesystem;
using test::read_file_bytes;
using test::TempDir;
using test::write_file_bytes;
using ::testing::HasSubstr;

PlanEntry entry(const std::string& key, const std::string& plan, double seconds = 1e-3) {
  return {key, plan, seconds};
}

/// A text with the seal that Lockstep would put under it.
std::string sealed(const std::string& body) {
  return body + "sha256 " + sha256_hex(body) + "\n";
}

std::string plan_of(PlanCache& cache, const std::string& key) {
  const auto found = cache.find(key);
  return found ? found->plan : "";
}

/// What a process that comes later finds.
std::string later(const std::string& path, const std::string& key) {
  PlanCache cache(path);
  const std::string plan = plan_of(cache, key);
  EXPECT_EQ(cache.problem(), "");
  return plan;
}

std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& file : fs::directory_iterator(folder)) names.insert(file.path().filename());
  return names;
}

/// Writes one plan and says what was wrong.
std::string problem_of_writing(const std::string& path, const std::string& key = "k") {
  PlanCache cache(path);
  cache.set(entry(key, "p"));
  cache.save();
  EXPECT_EQ(plan_of(cache, key), "p") << "in memory it is there, whatever becomes of the file";
  return cache.problem();
}

TEST(PlanCacheText, ReadsBackWhatItWrote) {
  const std::vector<PlanEntry> entries = {entry("H100; conv data 8x3", "eng0_k2=5", 1.25e-4),
                                          entry("H100; dense weights", "00ff", 0.0)};
  EXPECT_EQ(parse_plan_cache(format_plan_cache(entries)), entries);
  EXPECT_EQ(parse_plan_cache(format_plan_cache({})), std::vector<PlanEntry>{});
}

TEST(PlanCacheText, NoByteMayBeMissingOrChanged) {
  const std::string text = format_plan_cache({entry("a", "p", 0.5), entry("b", "q", 0.25)});
  for (std::size_t n = 1; n < text.size(); ++n)
    EXPECT_FALSE(parse_plan_cache(text.substr(0, n))) << n << " bytes";
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string other = text;
    other[i] = static_cast<char>(other[i] ^ 1);
    EXPECT_FALSE(parse_plan_cache(other)) << "byte " << i;
  }
  EXPECT_FALSE(parse_plan_cache(text + "\n"));
}

TEST(PlanCacheText, ASealDoesNotMakeNonsenseGood) {
  const std::string first = "lockstep-plans 1\n";
  EXPECT_TRUE(parse_plan_cache(sealed(first + "1e-3\tplan\tkey\n"))) << "the form that is broken below";
  for (const std::string& line :
       {std::string("1e-3\tplan\n"), std::string("1e-3\tplan\tkey\tmore\n"), std::string("nan\tplan\tkey\n"),
        std::string("inf\tplan\tkey\n"), std::string("-1\tplan\tkey\n"), std::string("\tplan\tkey\n"),
        std::string("1e-3\t\tkey\n"), std::string("1e-3\tplan\t\n"), std::string("1e-3\tplan\tkey"),
        std::string("1e-3\tpl\033an\tkey\n"), std::string("1e-3\tplan\tk\0y\n", 15), std::string("\n"),
        "1e-3\t" + std::string(3000, 'x') + "\tkey\n"})
    EXPECT_FALSE(parse_plan_cache(sealed(first + line))) << line;
  EXPECT_FALSE(parse_plan_cache(sealed("lockstep-plans 2\n1e-3\tplan\tkey\n")));
}

TEST(PlanCacheText, IsBoundedAndForgetsTheOldest) {
  std::vector<PlanEntry> entries;
  for (int i = 0; i < 50000; ++i) entries.push_back(entry(fmt::format("key {:0>80}", i), "plan"));
  const std::string text = format_plan_cache(entries);
  EXPECT_LE(text.size(), plan_cache_bytes);
  EXPECT_GT(text.size(), plan_cache_bytes - 200) << "as many as there is room for";
  const auto kept = parse_plan_cache(text);
  ASSERT_TRUE(kept);
  ASSERT_GT(kept->size(), 1000u);
  EXPECT_EQ(kept->back(), entries.back());
  EXPECT_EQ(kept->front(), entries[entries.size() - kept->size()]);
  EXPECT_FALSE(parse_plan_cache(sealed("lockstep-plans 1\n" + std::string(plan_cache_bytes, '#'))));
}

TEST(PlanCachePath, FollowsTheConfigThenTheUsersCacheFolder) {
  const TempDir dir;
  const auto path = [](const std::string& configured, const char* xdg, const char* home) {
    return plan_cache_path(configured, [&](const char* name) -> const char* {
      return std::strcmp(name, "XDG_CACHE_HOME") == 0 ? xdg : std::strcmp(name, "HOME") == 0 ? home : nullptr;
    });
  };
  EXPECT_EQ(path("", nullptr, "/home/u"), "/home/u/.cache/lockstep/plans.txt");
  EXPECT_EQ(path("", "/scratch/c", "/home/u"), "/scratch/c/lockstep/plans.txt");
  EXPECT_EQ(path("", "relative", "/home/u"), "/home/u/.cache/lockstep/plans.txt");
  EXPECT_EQ(path("", "", "/home/u"), "/home/u/.cache/lockstep/plans.txt");
  EXPECT_EQ(path("", nullptr, nullptr), "");
  EXPECT_EQ(path("", nullptr, ""), "");
  EXPECT_EQ(path("", nullptr, "here"), "");
  EXPECT_EQ(path("my.txt", nullptr, nullptr), "my.txt");
  EXPECT_EQ(path("new/", "/x", "/y"), "new/plans.txt");
  EXPECT_EQ(path(dir.path(), "/x", "/y"), dir / "plans.txt");
}

TEST(PlanCache, KeepsPlansFromProcessToProcess) {
  const TempDir dir;
  const std::string path = dir / "deep/er/plans.txt";
  PlanCache cache(path);
  EXPECT_FALSE(cache.find("k"));
  EXPECT_EQ(cache.problem(), "") << "no file is no problem";
  cache.set(entry("k", "p", 0.125));
  EXPECT_FALSE(fs::exists(path)) << "nothing is written before save()";
  cache.save();
  PlanCache again(path);
  EXPECT_EQ(again.find("k"), entry("k", "p", 0.125));
  EXPECT_FALSE(again.find("K"));
  EXPECT_EQ(cache.problem() + again.problem(), "");
  EXPECT_EQ(names_in(dir / "deep/er"), (std::set<std::string>{"plans.txt", "plans.txt.lock"}));
}

TEST(PlanCache, WithoutAPathKeepsPlansInMemoryAndSaysSo) {
  PlanCache cache("");
  cache.set(entry("k", "p"));
  cache.save();
  EXPECT_EQ(plan_of(cache, "k"), "p");
  EXPECT_THAT(cache.problem(), HasSubstr("neither XDG_CACHE_HOME nor HOME"));
}

TEST(PlanCache, ReplacesADamagedFile) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  std::string text = format_plan_cache({entry("a", "p"), entry("b", "q")});
  text[text.size() / 2] ^= 4;
  for (const std::string& damaged : {text, text.substr(0, text.size() / 2), std::string("lockst")}) {
    write_file_bytes(path, damaged);
    PlanCache cache(path);
    EXPECT_FALSE(cache.find("a"));
    EXPECT_THAT(cache.problem(), HasSubstr("'" + path + "' is damaged"));
    const std::string said = cache.problem();
    cache.set(entry("c", "r"));
    cache.save();
    EXPECT_EQ(cache.problem(), said) << "it is told once";
    EXPECT_EQ(later(path, "c"), "r");
    EXPECT_EQ(later(path, "a"), "");
    EXPECT_FALSE(fs::exists(path + ".old"));
  }
  write_file_bytes(path, "");
  EXPECT_EQ(problem_of_writing(path), "") << "an empty file holds no plans";
}

TEST(PlanCache, KeepsAsideWhatIsSomebodyElses) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  const std::string huge(3 * plan_cache_bytes, 'x');
  const std::string other = sealed("lockstep-plans 2\nwhatever\n");
  for (const std::string& foreign : {std::string("my thesis"), huge, other}) {
    fs::remove(path + ".old");
    write_file_bytes(path, foreign);
    EXPECT_THAT(problem_of_writing(path), HasSubstr(path + ".old'"));
    EXPECT_EQ(later(path, "k"), "p");
    EXPECT_EQ(read_file_bytes(path + ".old"), foreign);
  }
  // Where something lies there already, neither is lost.
  write_file_bytes(path, "a letter");
  EXPECT_THAT(problem_of_writing(path), HasSubstr("cannot be moved to '" + path + ".old' (File exists)"));
  EXPECT_EQ(read_file_bytes(path), "a letter");
  EXPECT_EQ(read_file_bytes(path + ".old"), other);
}

TEST(PlanCache, DoesWithoutWhatIsNoFile) {
  const TempDir dir;
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0666), 0);
  EXPECT_THAT(problem_of_writing(dir / "pipe"), HasSubstr("it is not a regular file"));
  EXPECT_THAT(problem_of_writing("/dev/zero"), HasSubstr("it is not a regular file"));
  fs::create_directory(dir / "folder");
  EXPECT_THAT(problem_of_writing(dir / "folder"), HasSubstr("it is a directory"));
  write_file_bytes(dir / "file", "x");
  EXPECT_THAT(problem_of_writing(dir / "file/plans.txt"), HasSubstr("cannot be read (Not a directory)"));
  EXPECT_EQ(read_file_bytes(dir / "file"), "x");
}

TEST(PlanCache, MergesWithWhatOthersWroteMeanwhile) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  PlanCache one(path), two(path);
  EXPECT_FALSE(one.find("both"));
  EXPECT_FALSE(two.find("both"));
  one.set(entry("one", "p1"));
  one.set(entry("both", "of one"));
  two.set(entry("two", "p2"));
  two.set(entry("both", "of two"));
  one.save();
  two.save();
  EXPECT_EQ(later(path, "one"), "p1");
  EXPECT_EQ(later(path, "two"), "p2");
  EXPECT_EQ(later(path, "both"), "of one") << "what is there stays, so that all later jobs go by it";
  EXPECT_EQ(plan_of(two, "both"), "of two") << "a process goes by what it chose";
}

TEST(PlanCache, APlanThatIsNoGoodAnyMoreIsReplaced) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  {
    PlanCache cache(path);
    cache.set(entry("k", "gone"));
    cache.set(entry("other", "good"));
    cache.save();
  }
  PlanCache cache(path), slow(path);
  EXPECT_EQ(plan_of(cache, "k"), "gone");
  EXPECT_EQ(plan_of(slow, "k"), "gone");
  cache.set(entry("k", "new"));
  cache.save();
  EXPECT_EQ(later(path, "k"), "new");
  EXPECT_EQ(later(path, "other"), "good");
  slow.set(entry("k", "newer"));
  slow.save();
  EXPECT_EQ(later(path, "k"), "new") << "somebody else has replaced it already";
}

TEST(PlanCache, NoEntryIsLostBetweenSeveralWriters) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  constexpr int writers = 4, each = 25;
  std::vector<pid_t> children;
  for (int w = 0; w < writers; ++w) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int i = 0; i < each; ++i) {
        PlanCache cache(path);
        cache.set(entry(fmt::format("{} {}", w, i), fmt::format("plan {} {}", w, i)));
        cache.save();
        if (!cache.problem().empty()) _exit(1);
      }
      _exit(0);
    }
    children.push_back(child);
  }
  // While they write, whoever reads sees a whole file or none.
  for (int i = 0; i < 200; ++i) {
    PlanCache reader(path);
    (void)reader.find("x");
    EXPECT_EQ(reader.problem(), "");
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  PlanCache cache(path);
  for (int w = 0; w < writers; ++w)
    for (int i = 0; i < each; ++i)
      EXPECT_EQ(plan_of(cache, fmt::format("{} {}", w, i)), fmt::format("plan {} {}", w, i));
  EXPECT_EQ(names_in(dir.path()), (std::set<std::string>{"plans.txt", "plans.txt.lock"}));
}

TEST(PlanCache, AWriterThatIsStoppedDoesNotStopOthers) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  const FileDescriptor lock(::open((path + ".lock").c_str(), O_RDWR | O_CREAT, 0666));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX), 0);
  EXPECT_EQ(problem_of_writing(path), "");
  EXPECT_EQ(later(path, "k"), "p");
}

TEST(PlanCache, NeedsNoLock) {
  const TempDir dir;
  fs::create_directory(dir / "plans.txt.lock");
  EXPECT_EQ(problem_of_writing(dir / "plans.txt"), "");
  EXPECT_EQ(later(dir / "plans.txt", "k"), "p");
}

TEST(PlanCache, ReadsWhatItMayNotWrite) {
  const TempDir dir;
  fs::create_directory(dir / "shared");
  const std::string path = dir / "shared/plans.txt";
  EXPECT_EQ(problem_of_writing(path, "known"), "");
  const fs::perms look =
      fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read | fs::perms::others_exec;
  fs::permissions(dir.path(), fs::perms::owner_all | fs::perms::others_exec);
  fs::permissions(dir / "shared", look);
  // Root may write anywhere; for file access this thread alone becomes nobody for a moment.
  const int before = setfsuid(65534);
  const int group = setfsgid(65534);
  PlanCache cache(path);
  const std::string known = plan_of(cache, "known");
  cache.set(entry("k", "p"));
  cache.save();
  cache.set(entry("l", "q"));
  cache.save();
  setfsuid(static_cast<uid_t>(before));
  setfsgid(static_cast<gid_t>(group));
  fs::permissions(dir / "shared", fs::perms::owner_all);
  EXPECT_EQ(known, "p");
  EXPECT_THAT(cache.problem(), HasSubstr("the plans that autotuning found are not kept: cannot create"));
  EXPECT_THAT(cache.problem(), HasSubstr("Permission denied"));
  EXPECT_EQ(cache.problem().find("not kept"), cache.problem().rfind("not kept")) << "it is told once";
  EXPECT_EQ(names_in(dir / "shared"), (std::set<std::string>{"plans.txt", "plans.txt.lock"}));
}

TEST(PlanCache, AFolderThatCannotBeMadeIsToldOf) {
  EXPECT_THAT(problem_of_writing("/proc/lockstep/plans.txt"), HasSubstr("are not kept"));
}

TEST(PlanCache, AFullDiskLeavesTheOldFile) {
  const TempDir dir;
  const test::TmpfsMount disk(dir.path(), "size=64k");
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("tmpfs", disk.reason());
  const std::string path = dir / "plans.txt";
  EXPECT_EQ(problem_of_writing(path, "old"), "");
  {
    std::ofstream filler(dir / "filler");
    filler << std::string(1 << 20, 'x');
  }
  PlanCache cache(path);
  for (int i = 0; i < 200; ++i) cache.set(entry(fmt::format("key {}", i), std::string(100, 'p')));
  cache.save();
  EXPECT_THAT(cache.problem(), HasSubstr("No space left on device"));
  EXPECT_EQ(later(path, "old"), "p");
  EXPECT_EQ(names_in(dir.path()), (std::set<std::string>{"filler", "plans.txt", "plans.txt.lock"}));
}

TEST(PlanCache, AWriteThatStopsShortLeavesTheOldFile) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  EXPECT_EQ(problem_of_writing(path, "old"), "");
  // No file of this process can grow beyond some bytes: a full disk that needs no root.
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{100, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string problem = problem_of_writing(path, std::string(500, 'k'));
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(problem, HasSubstr("are not kept: cannot write"));
  EXPECT_EQ(later(path, "old"), "p");
  EXPECT_EQ(names_in(dir.path()), (std::set<std::string>{"plans.txt", "plans.txt.lock"}));
}

TEST(PlanCache, WhatTheFileCannotExpressStaysInMemory) {
  const TempDir dir;
  const std::string path = dir / "plans.txt";
  PlanCache cache(path);
  cache.set(entry("two\nlines", "p"));
  cache.set(entry("k", "tab\there"));
  cache.set(entry("good", "p"));
  cache.save();
  EXPECT_EQ(plan_of(cache, "two\nlines"), "p");
  EXPECT_EQ(later(path, "good"), "p");
  EXPECT_EQ(later(path, "k"), "");
}

}  // namespace
}  // namespace lockstep::cuda
