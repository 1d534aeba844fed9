#include "trainer/cli/inspect.h"

#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "support/process.h"
#include "support/temp_dir.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/cli/digest_command.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using test::read_file_bytes;
using test::TempDir;
using test::write_file_bytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;

// A run directory with two checkpoints.
class RunOnDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    write_file_bytes(dir_ / "config.resolved.ini", "[run]\nseed = 7\ndir =\n");
    generation_ = store_.claim_generation();
    older_ = save(10, 1.0f);
    newer_ = save(20, 2.0f);
  }
  std::string save(std::int64_t step, float value, float moment = 0.5f, std::int64_t position_offset = 0) {
    const std::vector<float> w(6, value), m(6, moment);
    RunState s;
    s.step = step;
    s.position = step * 32 + position_offset;
    s.slices = 4;
    s.config = "[run]\nseed = 7\n";
    s.fingerprint = "cpu";
    return store_.save(generation_, s, {view_of("fc.weight", {2, 3}, w)},
                       {view_of("optimizer.exp_avg.fc.weight", {2, 3}, m)});
  }
  std::string digest(const std::string& path, bool state = false) {
    passed_over_.clear();
    return digest_of(path, state, passed_over_);
  }
  TempDir dir_;
  CheckpointStore store_{dir_.path()};
  int generation_ = 0;
  std::string older_, newer_;
  std::vector<std::string> passed_over_;
};

template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const InputError& e) {
    return e.what();
  }
  return "nothing thrown";
}

TEST_F(RunOnDisk, DigestIsThatOfTheWeightsWhereverTheyLie) {
  EXPECT_THAT(digest(older_), MatchesRegex("[0-9a-f]{64}"));
  EXPECT_NE(digest(older_), digest(newer_));
  EXPECT_EQ(digest(newer_ + "/model.safetensors"), digest(newer_));
  EXPECT_EQ(digest(dir_.path()), digest(newer_));
  EXPECT_EQ(digest(dir_.path() + "/"), digest(newer_));
  // The final weights of the run: what they are counts, not how the file is written.
  const std::vector<float> w(6, 2.0f);
  write_safetensors(dir_ / "model.safetensors", {view_of("fc.weight", {2, 3}, w)},
                    {{"note", "other metadata"}});
  EXPECT_EQ(digest(dir_ / "model.safetensors"), digest(newer_));
  const std::vector<float> v(6, 3.0f);
  write_safetensors(dir_ / "model.safetensors", {view_of("fc.weight", {2, 3}, v)});
  EXPECT_EQ(digest(dir_.path()), digest(dir_ / "model.safetensors"));
  EXPECT_NE(digest(dir_.path()), digest(newer_));
}

TEST_F(RunOnDisk, StateDigestSeesOptimizerAndDataPositionButNotTheGeneration) {
  const std::string base = digest(newer_, true);
  EXPECT_EQ(base, digest(dir_.path(), true));
  EXPECT_NE(base, digest(newer_, false));
  const std::string weights = digest(newer_);
  generation_ = store_.claim_generation();
  EXPECT_EQ(digest(save(20, 2.0f), true), base);
  const std::string moment = save(20, 2.0f, 0.25f);
  EXPECT_EQ(digest(moment), weights);
  EXPECT_NE(digest(moment, true), base);
  EXPECT_NE(digest(save(20, 2.0f, 0.5f, 1), true), base);
  EXPECT_EQ(digest(save(20, 2.0f), true), base);
  // With the run at its end, --state still asks the newest checkpoint.
  const std::vector<float> v(6, 3.0f);
  write_safetensors(dir_ / "model.safetensors", {view_of("fc.weight", {2, 3}, v)});
  EXPECT_EQ(digest(dir_.path(), true), base);
}

TEST_F(RunOnDisk, DigestPassesOverWhatIsNotWhole) {
  const std::string before = digest(older_);
  fs::resize_file(newer_ + "/model.safetensors", 20);
  EXPECT_EQ(digest(dir_.path()), before);
  EXPECT_THAT(passed_over_, ElementsAre(HasSubstr(newer_)));
  EXPECT_THAT(message_of([&] { digest(newer_); }), HasSubstr("holds 20 bytes instead of"));
  fs::remove(older_ + "/manifest.json");
  EXPECT_THAT(message_of([&] { digest(dir_.path()); }), HasSubstr("no whole checkpoint"));
}

TEST_F(RunOnDisk, DigestRefusesWhatHasNone) {
  EXPECT_THAT(message_of([&] { digest(newer_ + "/model.safetensors", true); }),
              HasSubstr("holds no training state"));
  EXPECT_THAT(message_of([&] { digest(dir_ / "none"); }), HasSubstr("does not exist"));
  EXPECT_THAT(message_of([&] { digest(dir_ / "config.resolved.ini"); }),
              HasSubstr("not a valid safetensors file"));
  const TempDir empty;
  EXPECT_THAT(message_of([&] { digest(empty.path()); }), HasSubstr("neither a run nor a checkpoint"));
  const std::vector<float> w(6, 2.0f);
  const std::string best =
      store_.save_best(generation_, load_checkpoint(newer_).state, {view_of("fc.weight", {2, 3}, w)});
  EXPECT_EQ(digest(best), digest(newer_));
  EXPECT_THAT(message_of([&] { digest(best, true); }), HasSubstr("no training state"));
}

TEST_F(RunOnDisk, InspectShowsTheRun) {
  const std::string text = inspect_path(dir_.path());
  EXPECT_THAT(text, AllOf(HasSubstr("seed = 7"), Not(HasSubstr("dir =\n")), HasSubstr("checkpoints: 2"),
                          HasSubstr("generation 1 step 20: whole, epoch 0, 640 samples consumed"),
                          HasSubstr("model.safetensors: none yet")));
  fs::resize_file(newer_ + "/optimizer.safetensors", 3);
  EXPECT_THAT(inspect_path(dir_.path()),
              AllOf(HasSubstr("generation 1 step 20: not whole: "), HasSubstr("optimizer.safetensors"),
                    HasSubstr("step 10: whole")));
  write_file_bytes(dir_ / "model.safetensors", "junk");
  EXPECT_THAT(inspect_path(dir_.path()), HasSubstr("not a valid safetensors file"));
}

TEST_F(RunOnDisk, InspectShowsACheckpointAndAWeightFile) {
  EXPECT_THAT(inspect_path(newer_),
              AllOf(HasSubstr("generation 1, step 20"), HasSubstr("640 samples consumed"),
                    HasSubstr("4 slices"), HasSubstr("fc.weight  F32    2x3    24"),
                    HasSubstr("optimizer.exp_avg.fc.weight"), HasSubstr("seed = 7")));
  EXPECT_THAT(inspect_path(newer_ + "/model.safetensors"),
              AllOf(HasSubstr("fc.weight  F32    2x3    24"), HasSubstr("1 tensor, 6 elements, 24 B"),
                    HasSubstr("metadata format = pt")));
  write_file_bytes(newer_ + "/manifest.json", "{");
  EXPECT_THAT(message_of([&] { inspect_path(newer_); }), HasSubstr("is damaged"));
}

TEST(Inspect, ShowsNoControlBytesOfAFile) {
  const TempDir dir;
  const std::vector<float> w(1);
  write_safetensors(dir / "w.safetensors", {view_of("a\x1b[2J", {1}, w)}, {{"k\n", "v\x07"}});
  const std::string text = inspect_path(dir / "w.safetensors");
  EXPECT_THAT(text, AllOf(HasSubstr("a\\x1b[2J"), HasSubstr("k\\n = v\\x07")));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

TEST(Inspect, ShowsDataFiles) {
  const TempDir dir;
  std::string idx("\0\0\x08\x02\0\0\0\x02\0\0\0\x03", 12);
  write_file_bytes(dir / "a-idx2-ubyte", idx + "123456");
  EXPECT_THAT(inspect_path(dir / "a-idx2-ubyte"),
              AllOf(HasSubstr("IDX, 2x3 u8"), HasSubstr("values 49 to 54")));
  ASSERT_EQ(test::run_process({"gzip", "-k", dir / "a-idx2-ubyte"}).exit_code, 0);
  EXPECT_THAT(inspect_path(dir / "a-idx2-ubyte.gz"), HasSubstr("2x3 u8"));
  write_file_bytes(dir / "cut", idx + "12345");
  EXPECT_THAT(message_of([&] { inspect_path(dir / "cut"); }), HasSubstr("cut"));
  write_file_bytes(dir / "a.csv", "x,y,label\n1,2,0\n3,4,1\n");
  EXPECT_THAT(inspect_path(dir / "a.csv"), AllOf(HasSubstr("2 lines of data, 3 columns, with a header"),
                                                 HasSubstr("2: 'label', numbers")));
  write_file_bytes(dir / "b.csv", "1,2,0\n3,4,1\n");
  EXPECT_THAT(inspect_path(dir / "b.csv"), HasSubstr("2 lines of data, 3 columns, no header"));
  write_file_bytes(dir / "c.csv", "1,2,0\n3,4\n");
  EXPECT_THAT(message_of([&] { inspect_path(dir / "c.csv"); }),
              HasSubstr("line 2 has 2 fields, but the first line has 3"));
  write_file_bytes(dir / "d.csv", "x;y\n1;2\n");
  EXPECT_THAT(inspect_path(dir / "d.csv"), HasSubstr("2 columns, with a header, separated by semicolons"));
  write_file_bytes(dir / "e.csv", ",0,1,kind\n0,5,6,a\n");
  EXPECT_THAT(inspect_path(dir / "e.csv"), HasSubstr("unless the first line is one"));
}

TEST(Inspect, SaysWhatItDoesNotKnow) {
  const TempDir dir;
  EXPECT_THAT(message_of([&] { inspect_path(dir / "none"); }),
              AllOf(HasSubstr("none"), HasSubstr("No such file")));
  EXPECT_THAT(message_of([&] { inspect_path(dir.path()); }), HasSubstr("neither a run nor a checkpoint"));
  write_file_bytes(dir / "empty", "");
  EXPECT_THAT(message_of([&] { inspect_path(dir / "empty"); }), HasSubstr("empty"));
  write_file_bytes(dir / "image", std::string("\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16));
  EXPECT_THAT(message_of([&] { inspect_path(dir / "image"); }),
              AllOf(HasSubstr("looks like"), HasSubstr("PNG")));
  // A weight file that lies is taken for one by its name.
  write_file_bytes(dir / "w.safetensors", "12345");
  EXPECT_THAT(message_of([&] { inspect_path(dir / "w.safetensors"); }),
              HasSubstr("not a valid safetensors file"));
}

}  // namespace
}  // namespace lockstep
