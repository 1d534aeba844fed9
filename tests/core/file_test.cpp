#include "core/file.h"

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <gtest/gtest.h>
#include <set>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "core/error.h"
#include "support/temp_dir.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using test::TempDir;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// The text of the InputError that `body` throws; empty (and a failure) when it throws none.
std::string input_error(const std::function<void()>& body) {
  try {
    body();
  } catch (const InputError& e) {
    return e.what();
  }
  ADD_FAILURE() << "no InputError";
  return {};
}

std::set<std::string> names_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename());
  return names;
}

/// While it lives, no file of this process can grow beyond `bytes`: a write stops short there, and the next
/// one fails. It stands for a full disk, which only root could make.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit old_{};
  void (*handler_)(int);
};

class ReadFile : public testing::Test {
 protected:
  TempDir dir;
  /// The same error from both readers.
  std::string error_of(const std::string& path) {
    std::string read = input_error([&] { read_file(path); });
    const std::string map = input_error([&] { MappedFile file(path); });
    EXPECT_EQ(read, map);
    return read;
  }
};

TEST_F(ReadFile, ReturnsEveryByte) {
  std::string content(100'003, '\0');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 131 % 256);
  test::write_file_bytes(dir / "a", content);
  EXPECT_EQ(read_file(dir / "a"), content);
  const MappedFile map(dir / "a");
  ASSERT_EQ(map.size(), content.size());
  EXPECT_TRUE(std::equal(map.bytes().begin(), map.bytes().end(), bytes_of(content).begin()));
}

TEST_F(ReadFile, SaysThatAFileIsMissing) {
  EXPECT_EQ(error_of(dir / "none"), "'" + (dir / "none") + "' does not exist; check the path");
  test::write_file_bytes(dir / "a", "x");
  EXPECT_EQ(error_of(dir / "a/b"), "'" + (dir / "a/b") + "' does not exist; check the path");
  EXPECT_EQ(error_of(""), "'' does not exist; check the path");
}

TEST_F(ReadFile, SaysThatItIsADirectory) {
  EXPECT_EQ(error_of(dir.path()), "'" + dir.path() + "' is a directory; name a file");
}

TEST_F(ReadFile, SaysThatItIsEmptyUnlessThatIsAllowed) {
  test::write_file_bytes(dir / "a", "");
  EXPECT_EQ(error_of(dir / "a"), "'" + (dir / "a") + "' is empty; name a file with content");
  EXPECT_EQ(read_file(dir / "a", Empty::allow), "");
  const MappedFile map(dir / "a", Empty::allow);
  EXPECT_EQ(map.size(), 0u);
  EXPECT_TRUE(map.bytes().empty());
}

TEST_F(ReadFile, SaysThatItMayNotBeRead) {
  test::write_file_bytes(dir / "a", "x");
  fs::permissions(dir / "a", fs::perms::none);
  fs::permissions(dir.path(), fs::perms::all);
  // Root may read every file; for file access this thread alone becomes nobody for a moment.
  const int before = setfsuid(65534);
  const std::string message = error_of(dir / "a");
  setfsuid(static_cast<uid_t>(before));
  EXPECT_EQ(message, "cannot read '" + (dir / "a") + "': Permission denied; check the permissions");
}

TEST_F(ReadFile, ReportsAnErrorOfTheDevice) {
  // The first page of this process is not mapped: reading it is EIO.
  EXPECT_EQ(input_error([] { read_file("/proc/self/mem"); }),
            "cannot read '/proc/self/mem': Input/output error");
}

TEST_F(ReadFile, NeitherHangsOnAPipeNorFillsMemoryFromADevice) {
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(error_of(dir / "pipe"), "'" + (dir / "pipe") + "' is not a regular file; name a file");
  EXPECT_EQ(error_of("/dev/zero"), "'/dev/zero' is not a regular file; name a file");
}

TEST_F(ReadFile, ReadsFilesThatHideTheirSize) {
  EXPECT_NE(read_file("/proc/self/status").find("Pid:"), std::string::npos);
}

TEST_F(ReadFile, SaysThatItDoesNotFitIntoMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers end the process when memory is exhausted";
#endif
  const std::string path = dir / "sparse";
  test::write_file_bytes(path, "x");
  std::error_code too_large;
  fs::resize_file(path, std::uintmax_t{1} << 43, too_large);
  if (too_large) GTEST_SKIP() << "this file system holds no file of 8 TB: " << too_large.message();
  rlimit old{};
  getrlimit(RLIMIT_AS, &old);
  const rlimit limit{rlim_t{1} << 40, old.rlim_max};
  setrlimit(RLIMIT_AS, &limit);
  const std::string message = input_error([&] { read_file(path); });
  setrlimit(RLIMIT_AS, &old);
  EXPECT_EQ(message, "'" + path + "' of 8.8 TB does not fit into memory");
}

TEST_F(ReadFile, DoesNotCutANameAtANulByte) {
  test::write_file_bytes(dir / "a", "x");
  EXPECT_EQ(error_of((dir / "a") + std::string("\0b", 2)), "a file name holds a NUL byte; check the path");
}

TEST(MappedFileTest, MovesItsMapping) {
  const TempDir dir;
  test::write_file_bytes(dir / "a", "abc");
  MappedFile first(dir / "a");
  const MappedFile second(std::move(first));
  EXPECT_EQ(second.size(), 3u);
  // NOLINTNEXTLINE(bugprone-use-after-move,clang-analyzer-cplusplus.Move): what is left behind is empty
  EXPECT_EQ(first.size(), 0u);
}

TEST(WriteAll, ReportsAFullDevice) {
  const FileDescriptor full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  if (!full) GTEST_SKIP() << "there is no /dev/full here";
  EXPECT_EQ(input_error([&] { write_all(full.get(), bytes_of("abc"), "runs/a"); }),
            "cannot write 'runs/a': No space left on device; make room or choose another place");
}

TEST(WriteAll, SurvivesShortWritesAndInterruptions) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const FileDescriptor read_end(ends[0]);
  FileDescriptor write_end(ends[1]);
  std::string received;
  const std::string sent = [] {
    std::string s(1'500'000, '\0');
    for (std::size_t i = 0; i < s.size(); ++i) s[i] = static_cast<char>(i * 7 % 251);
    return s;
  }();
  // The reader blocks the signal, so that it interrupts the writer alone.
  sigset_t alarm, before;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &alarm, &before);
  std::thread reader([&] {
    std::vector<char> buffer(300'001);
    ssize_t n = 0;
    do {
      // Meanwhile the pipe is full, and the alarm finds the writer once with a part and then with nothing
      // written.
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      n = ::read(read_end.get(), buffer.data(), buffer.size());
      if (n > 0) received.append(buffer.data(), static_cast<std::size_t>(n));
    } while (n > 0);
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  struct sigaction action {
  }, old{};
  action.sa_handler = [](int) {};  // without SA_RESTART: write() returns EINTR, or what it has written so far
  sigaction(SIGALRM, &action, &old);
  const itimerval every{{0, 500}, {0, 500}}, never{};
  setitimer(ITIMER_REAL, &every, nullptr);
  write_all(write_end.get(), bytes_of(sent), "pipe");
  setitimer(ITIMER_REAL, &never, nullptr);
  sigaction(SIGALRM, &old, nullptr);
  write_end = FileDescriptor();
  reader.join();
  EXPECT_TRUE(received == sent);
}

TEST(WriteFileAtomic, CreatesAndReplaces) {
  const TempDir dir;
  write_file_atomic(dir / "a", "first");
  EXPECT_EQ(read_file(dir / "a"), "first");
  write_file_atomic(dir / "a", "second, longer");
  EXPECT_EQ(read_file(dir / "a"), "second, longer");
  write_file_atomic(dir / "a", "");
  EXPECT_EQ(read_file(dir / "a", Empty::allow), "");
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"a"});
}

TEST(WriteFileAtomic, KeepsTheOldFileWhenThereIsNoRoom) {
  const TempDir dir;
  write_file_atomic(dir / "a", "old");
  std::string message;
  {
    const FileSizeLimit limit(5000);
    message = input_error([&] { write_file_atomic(dir / "a", std::string(100'000, 'x')); });
  }
  EXPECT_NE(message.find("cannot write '" + (dir / "a")), std::string::npos) << message;
  EXPECT_NE(message.find("File too large"), std::string::npos) << message;
  EXPECT_EQ(read_file(dir / "a"), "old");
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"a"});
}

TEST(WriteFileAtomic, LeavesNothingWhenTheTargetIsADirectory) {
  const TempDir dir;
  fs::create_directory(dir / "a");
  const std::string message = input_error([&] { write_file_atomic(dir / "a", "x"); });
  EXPECT_EQ(message, "cannot replace '" + (dir / "a") + "': Is a directory");
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"a"});
}

TEST(WriteFileAtomic, NamesThePathWhenTheDirectoryIsMissingOrClosed) {
  const TempDir dir;
  const std::string message = input_error([&] { write_file_atomic(dir / "none/a", "x"); });
  EXPECT_EQ(message.find("cannot create '" + (dir / "none/a")), 0u) << message;
  EXPECT_NE(message.find("No such file or directory; check the path"), std::string::npos) << message;
  EXPECT_THROW(write_file_atomic("/proc/lockstep-test", "x"), InputError);
}

TEST(WriteFileAtomic, StepsOverWhatAKilledWriterLeft) {
  const TempDir dir;
  // What this process would take next, whatever it has written before.
  for (int n = 0; n < 300; ++n)
    test::write_file_bytes((dir / "a") + ".tmp." + std::to_string(getpid()) + "." + std::to_string(n),
                           "half");
  write_file_atomic(dir / "a", "whole");
  EXPECT_EQ(read_file(dir / "a"), "whole");
}

TEST(WriteFileAtomic, ReadersSeeOneVersionOrAnotherWhole) {
  const TempDir dir;
  const std::string versions[] = {std::string(50'000, 'a'), std::string(70'000, 'b')};
  write_file_atomic(dir / "a", versions[0]);
  std::atomic<bool> stop{false};
  std::atomic<int> torn{0}, reads{0};
  std::thread reader([&] {
    while (!stop) {
      const std::string seen = read_file(dir / "a");
      torn += seen != versions[0] && seen != versions[1];
      ++reads;
    }
  });
  std::vector<std::thread> writers;
  writers.reserve(2);
  for (int w = 0; w < 2; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < 30; ++i) write_file_atomic(dir / "a", versions[(w + i) % 2]);
    });
  }
  for (std::thread& writer : writers) writer.join();
  while (reads < 10) std::this_thread::yield();
  stop = true;
  reader.join();
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"a"});
}

TEST(FileWriterTest, WritesHashesAndCounts) {
  const TempDir dir;
  FileWriter file(dir / "a", FileWriter::Hash::sha256);
  EXPECT_THROW(file.sha256(), InternalError);
  file.append("ab");
  file.append(bytes_of("c"));
  file.append("");
  EXPECT_EQ(file.size(), 3u);
  file.close();
  EXPECT_EQ(read_file(dir / "a"), "abc");
  EXPECT_EQ(file.sha256(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_THROW(file.append("d"), InternalError);
  EXPECT_THROW(file.close(), InternalError);
}

TEST(FileWriterTest, NeverOverwrites) {
  const TempDir dir;
  test::write_file_bytes(dir / "a", "old");
  EXPECT_EQ(input_error([&] { FileWriter file(dir / "a"); }),
            "cannot create '" + (dir / "a") + "': File exists; remove it or choose another name");
  EXPECT_EQ(read_file(dir / "a"), "old");
}

TEST(FileWriterTest, AFileThatWasNotClosedVanishes) {
  const TempDir dir;
  {
    FileWriter file(dir / "a");
    file.append("half");
    EXPECT_TRUE(fs::exists(dir / "a"));
  }
  EXPECT_FALSE(fs::exists(dir / "a"));
}

TEST(FileWriterTest, AFileThatCouldNotBeWrittenVanishes) {
  const TempDir dir;
  {
    const FileSizeLimit limit(5000);
    FileWriter file(dir / "a");
    file.append(std::string(4000, 'x'));
    EXPECT_THROW(file.append(std::string(4000, 'x')), InputError);
  }
  EXPECT_FALSE(fs::exists(dir / "a"));
}

TEST(Directories, ExactlyOneOfManyClaimsADirectory) {
  const TempDir dir;
  for (int round = 0; round < 10; ++round) {
    std::atomic<int> claimed{0};
    std::vector<std::thread> threads;
    threads.reserve(8);
    for (int t = 0; t < 8; ++t)
      threads.emplace_back([&] { claimed += create_directory_exclusive(dir / std::to_string(round)); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(claimed, 1);
  }
}

TEST(Directories, AFileInTheWayIsNoClaimAndAMissingParentIsAnError) {
  const TempDir dir;
  test::write_file_bytes(dir / "a", "x");
  EXPECT_FALSE(create_directory_exclusive(dir / "a"));
  const std::string message = input_error([&] { create_directory_exclusive(dir / "none/b"); });
  EXPECT_EQ(message, "cannot create the directory '" + (dir / "none/b") +
                         "': No such file or directory; check the path");
}

TEST(Directories, SyncNamesADirectoryThatIsMissing) {
  const TempDir dir;
  sync_directory(dir.path());
  EXPECT_THROW(sync_directory(dir / "none"), InputError);
}

TEST(Directories, ParentsOfPaths) {
  EXPECT_EQ(parent_directory("a"), ".");
  EXPECT_EQ(parent_directory("a/"), ".");
  EXPECT_EQ(parent_directory("a/b"), "a");
  EXPECT_EQ(parent_directory("a/b/"), "a");
  EXPECT_EQ(parent_directory("/a"), "/");
  EXPECT_EQ(parent_directory("/"), "/");
  EXPECT_EQ(parent_directory(""), ".");
}

TEST(Directories, RenameReplacesAndReports) {
  const TempDir dir;
  test::write_file_bytes(dir / "a", "new");
  test::write_file_bytes(dir / "b", "old");
  rename_durably(dir / "a", dir / "b");
  EXPECT_EQ(read_file(dir / "b"), "new");
  EXPECT_THROW(rename_durably(dir / "none", dir / "b"), InputError);
}

TEST(FreeBytes, AgreesWithTheSystem) {
  const TempDir dir;
  EXPECT_GT(free_bytes(dir.path()), 0u);
  const double expected = static_cast<double>(fs::space(dir.path()).available);
  EXPECT_NEAR(static_cast<double>(free_bytes(dir.path())), expected, 0.05 * expected + 1e8);
  EXPECT_THROW(free_bytes(dir / "none"), InputError);
}

}  // namespace
}  // namespace lockstep
