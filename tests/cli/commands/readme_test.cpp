// What the pages promise: the README's example runs as it stands and its sample is real output, links lead
// somewhere, files, sources and tests that are named exist, and docs/runs.md describes what a run keeps of
// its data.

#include <cctype>
#include <filesystem>
#include <regex>
#include <set>

#include "cli/cli_support.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

const std::string root = std::string(LOCKSTEP_SOURCE_DIR) + "/";

/// README.md, CONTRIBUTING.md and all pages of docs/, by their path in the source folder.
std::vector<std::string> pages() {
  std::vector<std::string> found = {"README.md", "CONTRIBUTING.md"};
  for (const auto& entry : fs::recursive_directory_iterator(root + "docs"))
    if (entry.path().extension() == ".md") found.push_back(fs::relative(entry.path(), root).string());
  return found;
}

std::vector<std::smatch> matches_in(const std::string& text, const std::string& pattern) {
  const std::regex expression(pattern);
  return {std::sregex_iterator(text.begin(), text.end(), expression), std::sregex_iterator()};
}

/// The text of a page without its fenced blocks.
std::string prose(const std::string& page) {
  std::istringstream in(read_file_bytes(root + page));
  std::string text;
  bool fenced = false;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("```", 0) == 0)
      fenced = !fenced;
    else if (!fenced)
      text += line + "\n";
  }
  return text;
}

/// The anchor of a heading, as GitHub makes it.
std::string anchor(const std::string& heading) {
  std::string out;
  for (const char c : heading) {
    if (c == ' ')
      out += '-';
    else if (std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ||
             static_cast<unsigned char>(c) >= 0x80)
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return out;
}

std::set<std::string> anchors_of(const std::string& page) {
  std::istringstream in(prose(page));
  std::set<std::string> found;
  for (std::string line; std::getline(in, line);)
    if (line.rfind("#", 0) == 0) found.insert(anchor(line.substr(line.find_first_not_of("# "))));
  return found;
}

TEST(Pages, EveryLinkLeadsToAFileAndAHeading) {
  int links = 0;
  for (const std::string& page : pages()) {
    const std::string text = prose(page);
    for (const std::smatch& link : matches_in(text, R"(\]\(([^)#:]*)(#[^)]*)?\))")) {
      SCOPED_TRACE(page + ": " + link.str());
      ++links;
      const fs::path target =
          link[1].length() == 0 ? fs::path(page) : fs::path(page).parent_path() / link[1].str();
      ASSERT_TRUE(fs::exists(root + target.string()));
      if (link[2].matched) {
        EXPECT_EQ(anchors_of(target.lexically_normal().string()).count(link[2].str().substr(1)), 1u);
      }
    }
  }
  EXPECT_GT(links, 30);
}

TEST(Pages, EveryFileThatIsNamedExists) {
  int named = 0;
  for (const std::string& page : pages()) {
    const std::string text = read_file_bytes(root + page);
    for (
        const std::smatch& name : matches_in(
            text,
            R"((^|[\s`(=])((configs|examples|launch|docs|tests|benchmarks)/[A-Za-z0-9_][A-Za-z0-9_./-]*))")) {
      std::string path = name[2];
      while (path.back() == '.') path.pop_back();
      EXPECT_TRUE(fs::exists(root + path) || fs::exists(root + path + ".cpp")) << page << " names " << path;
      ++named;
    }
  }
  EXPECT_GT(named, 20);
}

/// Sources are named from below src/ or with it, with their ending or without.
TEST(Pages, EverySourceThatIsNamedExists) {
  int named = 0;
  for (const std::string& page : pages()) {
    const std::string text = prose(page);
    for (const std::smatch& name : matches_in(
             text, R"(`(src/)?((core|device|watch|comm|model|data|optim|trainer)/[A-Za-z0-9_./]+)`)")) {
      const std::string path = root + "src/" + name.str(2);
      EXPECT_TRUE(fs::exists(path) || fs::exists(path + ".h") || fs::exists(path + ".cpp"))
          << page << " names " << name.str();
      ++named;
    }
  }
  EXPECT_GT(named, 50);
}

/// The lines of a file that begin with `begin`.
std::vector<std::string> lines_with(const fs::path& file, const std::string& begin) {
  std::ifstream in(file);
  std::vector<std::string> found;
  for (std::string line; std::getline(in, line);)
    if (line.rfind(begin, 0) == 0) found.push_back(line);
  return found;
}

/// All tests of the sources, "Suite.Name"; those that CMake adds by themselves too.
std::set<std::string> all_tests() {
  std::set<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(root + "tests")) {
    const fs::path& file = entry.path();
    if (file.extension() == ".cpp")
      for (const std::string macro : {"TEST", "TYPED_TEST"})
        for (const std::string& line : lines_with(file, macro))
          for (const std::smatch& test : matches_in(line, R"(^\w+\((\w+), *(\w+)\))"))
            found.insert(test.str(1) + "." + test.str(2));
    if (file.filename() != "CMakeLists.txt") continue;
    const std::string text = read_file_bytes(file.string());
    for (const std::smatch& test : matches_in(text, R"(add_test\(NAME ([\w.]+))")) found.insert(test.str(1));
  }
  return found;
}

TEST(Pages, EveryTestThatIsNamedExists) {
  const std::set<std::string> tests = all_tests();
  int named = 0;
  for (const std::string& page : pages()) {
    const std::string text = prose(page);
    // A suite begins with a capital letter, or is that of the test of the installed library. "…" and "*"
    // stand for the rest of a name, a word and "/" before it for the values of a test with parameters.
    for (const std::smatch& name : matches_in(text, R"(`(\w+/)?(([A-Z]\w*|packaging)\.\w*)(…|\*)?`)")) {
      if (name[2] == "CMakeLists.txt") continue;
      const auto at = tests.lower_bound(name[2]);
      const bool exists =
          at != tests.end() && (name[4].matched ? at->starts_with(name.str(2)) : *at == name[2]);
      EXPECT_TRUE(exists) << page << " names the test " << name.str();
      ++named;
    }
  }
  EXPECT_GT(named, 100);
}

/// The first fenced block of the README that holds `word`.
std::string block_with(const std::string& word) {
  std::istringstream in(read_file_bytes(root + "README.md"));
  std::string block;
  bool fenced = false;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("```", 0) != 0) {
      if (fenced) block += line + "\n";
      continue;
    }
    if (fenced && block.find(word) != std::string::npos) return block;
    block.clear();
    fenced = !fenced;
  }
  return "";
}

/// Runs the README's example in a folder that looks like the source folder after a build.
class Readme : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(folder / "build");
    fs::create_symlink(LOCKSTEP_PROGRAM, folder / "build/lockstep");
    for (const char* part : {"examples", "configs"}) fs::create_symlink(root + part, folder / part);
  }
  ProcessResult paste(const std::string& script) const {
    ProcessOptions options;
    options.directory = folder.path();
    options.timeout_s = 200;
    options.env["OMPI_MCA_rmaps_base_oversubscribe"] = "1";  // a machine with one core
    return run_process({"bash", "-e", "-c", script}, with_mpirun_env(options));
  }
  TempDir folder;
};

TEST_F(Readme, ItsExampleRunsWhenItIsPasted) {
  std::string script = block_with("cat >mine.ini");
  const std::string epochs = "epochs = ";
  const std::size_t at = script.find(epochs);
  ASSERT_NE(at, std::string::npos) << script;
  const std::size_t number = at + epochs.size();
  script.replace(number, script.find('\n', number) - number, "1");
  const ProcessResult result = paste(script);
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  EXPECT_TRUE(fs::exists(folder / "runs/mine/model.safetensors"));
  EXPECT_NE(result.out.find("test: 100 samples"), std::string::npos) << result.out;
  // predict comes last: a line for each row of the file.
  EXPECT_EQ(count(result.out, "\n{"), 500) << result.out;
}

/// A line of output without what may differ from run to run and from one kind of machine to another.
std::string without_values(const std::string& line) {
  const std::string digests = std::regex_replace(line, std::regex("[0-9a-f]{64}"), "DIGEST");
  const std::string times = std::regex_replace(digests, std::regex(R"([0-9.]+m?s\b)"), "TIME");
  return std::regex_replace(times, std::regex(R"([0-9]+(\.[0-9]+)?)"), "NUMBER");
}

TEST_F(Readme, ItsSampleOfOutputIsWhatTheProgramPrints) {
  const std::string example = block_with("cat >mine.ini");
  std::string script = example.substr(0, example.find("mpirun"));
  std::set<std::string> shown;
  std::istringstream sample(block_with("$ build/lockstep train"));
  for (std::string line; std::getline(sample, line);) {
    if (line.rfind("$ ", 0) == 0)
      script += line.substr(2) + " 2>&1\n";
    else if (line != "…")
      shown.insert(without_values(line));
  }
  ASSERT_GE(shown.size(), 6u);
  const ProcessResult result = paste(script);
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  std::set<std::string> printed;
  std::istringstream out(result.out);
  for (std::string line; std::getline(out, line);) printed.insert(without_values(line));
  for (const std::string& line : shown) EXPECT_EQ(printed.count(line), 1u) << line << "\n" << result.out;
  EXPECT_EQ(digest(folder / "runs/a"), digest(folder / "runs/b"));
}

TEST(RunsPage, DescribesEveryFieldOfPreprocessing) {
  TempDir folder;
  const ProcessResult result =
      lockstep(0, {"train", "--config", root + "configs/regression_mlp.ini", "--data.train",
                   root + "examples/data/regression.csv", "--run.dir", folder / "run", "--train.steps", "1",
                   "--schedule.steps", "100", "--data.scale_targets", "standard", "--data.drop", "x0"});
  ASSERT_EQ(result.exit_code, 0) << result.describe();
  std::set<std::string> kept;
  const auto preprocessing = nlohmann::json::parse(read_file_bytes(folder / "run/preprocessing.json"));
  for (const auto& [name, value] : preprocessing.items()) {
    if (!value.is_object()) kept.insert(name);
    if (value.is_object())
      for (const auto& [inner, ignored] : value.items()) kept.insert(name + "." + inner);
  }
  const std::string page = read_file_bytes(root + "docs/runs.md");
  const std::size_t begin = page.find("### preprocessing.json");
  ASSERT_NE(begin, std::string::npos);
  const std::string section = page.substr(begin, page.find("\n#", begin + 1) - begin);
  std::set<std::string> described;
  for (const std::smatch& row : matches_in(section, R"((?:^|\n)\| ([^|]*) \|)")) {
    const std::string cell = row[1];
    for (const std::smatch& name : matches_in(cell, "`([^`]*)`")) described.insert(name[1]);
  }
  EXPECT_EQ(described, kept);
}

}  // namespace
}  // namespace lockstep::test
