// Bad input to the program: exit code 2, one clear sentence for the whole job, no hang, nothing made or
// destroyed.

#include <filesystem>
#include <unistd.h>

#include "cli/cli_data.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

class BadInput : public testing::Test {
 protected:
  /// Runs the job bare and on three ranks.
  void refused(const std::vector<std::string>& args, const std::vector<std::string>& fragments) {
    std::string trace = "lockstep";
    for (const std::string& a : args) trace += " " + a;
    SCOPED_TRACE(trace);
    for (const int ranks : {0, 3}) {
      expect_refusal(lockstep(ranks, args, in_time()), fragments);
      EXPECT_FALSE(fs::exists(run_dir)) << "a refused run left its directory, at " << ranks << " ranks";
    }
  }
  /// A training on synthetic data that is right but for `flags`.
  void refused_train(const Flags& flags, const std::vector<std::string>& fragments) {
    std::map<std::string, std::string> all = {
        {"run.dir", run_dir},         {"data.format", "synthetic"}, {"data.samples", "48"},
        {"data.shape", "1x6x6"},      {"data.classes", "3"},        {"model.layers", "flatten dense:3"},
        {"train.global_batch", "24"}, {"train.epochs", "1"}};
    for (const auto& [key, value] : flags) all[key] = value;
    refused(with_flags({"train"}, {all.begin(), all.end()}), fragments);
  }
  /// A training whose config file holds `text` below a whole config; fragments may count on "small.ini:LINE".
  void refused_config(const std::string& text, const std::vector<std::string>& fragments) {
    write_file_bytes(config, text);
    refused({"train", "--config", config, "--run.dir", run_dir}, fragments);
  }

  TempDir folder;
  const std::string run_dir = folder / "run";
  const std::string config = folder / "small.ini";
};

TEST_F(BadInput, ConfigThatIsRightIsTaken) {
  // The base of the cases below: without it every one of them would pass for a wrong reason.
  const ProcessResult result = lockstep(3, with_flags({"train"}, {{"run.dir", run_dir},
                                                                  {"data.format", "synthetic"},
                                                                  {"data.samples", "48"},
                                                                  {"data.shape", "1x6x6"},
                                                                  {"data.classes", "3"},
                                                                  {"model.layers", "flatten dense:3"},
                                                                  {"train.global_batch", "24"},
                                                                  {"train.slices", "3"},
                                                                  {"train.epochs", "1"}}));
  EXPECT_EQ(result.exit_code, 0) << result.describe();
}

TEST_F(BadInput, UnknownAndAbbreviatedKeys) {
  refused_config("[optimizer]\nlr = 0.1\nmomentun = 0.9\n",
                 {"small.ini:3", "optimizer.momentun", "\"optimizer.momentum\""});
  refused_config("[train]\nglobal = 32\n",
                 {"small.ini:2", "train.global", "\"train.global_batch\"", "abbreviations"});
  refused_config("[trian]\nepochs = 1\n", {"small.ini:1", "trian", "\"train\""});
  refused_train({{"optimizer.momentun", "0.9"}}, {"--optimizer.momentun", "\"--optimizer.momentum\""});
  refused_train({{"train.slice", "2"}}, {"--train.slice", "\"--train.slices\"", "abbreviations"});
  refused({"train", "--conf", config}, {"--conf", "\"--config\"", "abbreviations"});
}

TEST_F(BadInput, ValuesOfTheWrongTypeRangeOrForm) {
  refused_config("[train]\nepochs = 1\nglobal_batch = many\n",
                 {"small.ini:3", "train.global_batch", "\"many\"", "whole number"});
  refused_config("[optimizer]\nlr = 0.1\nlr = 0.2\n",
                 {"small.ini:3", "optimizer.lr", "second time", "small.ini:2"});
  refused_config("[train]\nepochs\n", {"small.ini:2", "epochs", "key = value"});
  refused_train({{"train.global_batch", "24.5"}}, {"--train.global_batch", "24.5", "whole number"});
  refused_train({{"train.global_batch", "0"}}, {"--train.global_batch", "0", "out of range", "at least 1"});
  refused_train({{"train.epochs", "-1"}}, {"--train.epochs", "-1", "at least 0"});
  refused_train({{"optimizer.lr", "fast"}}, {"--optimizer.lr", "\"fast\"", "number"});
  refused_train({{"optimizer.lr", "nan"}}, {"--optimizer.lr", "nan"});
  refused_train({{"data.validation_fraction", "1.5"}}, {"--data.validation_fraction", "1.5", "below 1"});
  refused_train({{"train.overlap", "perhaps"}}, {"--train.overlap", "perhaps", "true"});
  refused_train({{"loss.name", "crossentropy"}}, {"--loss.name", "crossentropy", "\"cross_entropy\""});
  refused_train({{"train.precision", "bf16"}}, {"train.precision", "bf16", "fp32"});
  refused_train({{"device", "cuda"}}, {"device.kind", "cuda was asked for", "use --device cpu or auto"});
}

TEST_F(BadInput, GroupsAndFrozenParametersThatFitNoName) {
  refused_train({{"optimizer.groups", "dens1.*: lr=0.1x"}},
                {"optimizer.groups", "dens1.*", "matches no parameter", "dense1.weight"});
  refused_train({{"optimizer.groups", "dense1.*: lr=0.1"}},
                {"--optimizer.groups", "\"0.1\"", "an x behind it"});
  refused_train({{"optimizer.groups", "dense1.*: adapt=no"}}, {"optimizer.groups", "would have no effect"});
  refused_train({{"model.freeze", "conv1.*"}}, {"model.freeze", "conv1.*", "matches no parameter", "dense1"});
  refused_train({{"model.freeze", "*"}}, {"model.freeze", "nothing to train"});
  refused_train({{"model.freeze", "dense1.bias"}, {"optimizer.groups", "*.bias: decay=0"}},
                {"optimizer.groups", "*.bias", "that is trained"});
  refused_train({{"optimizer.name", "lamb"}, {"optimizer.trust", "0.01"}}, {"optimizer.trust", "lars"});
}

TEST_F(BadInput, ConfigFilesThatAreNone) {
  const auto with = [&](const std::string& path) {
    return std::vector<std::string>{"train", "--config", path, "--run.dir", run_dir};
  };
  refused(with(folder / "absent.ini"), {"--config", "absent.ini", "does not exist"});
  refused(with(folder.path()), {"--config", folder.path(), "directory"});
  refused(with("/proc/self/mem"), {"--config", "/proc/self/mem"});
  refused_config("", {"small.ini", "empty"});
  refused_config("# nothing\n\n", {"small.ini", "no keys"});
  refused_config(std::string("\x7f"
                             "ELF\x02\x01\x01\0\0\0",
                             10),
                 {"small.ini", "not a config file"});
  if (geteuid() != 0) {
    write_file_bytes(config, "[train]\nepochs = 1\n");
    fs::permissions(config, fs::perms::none);
    refused(with(config), {"small.ini", "ermission"});
  }
}

TEST_F(BadInput, CommandsAndOptions) {
  // Commands of one process, and words that are none: under a launcher every copy says it.
  const auto refused_alone = [](const std::vector<std::string>& args,
                                const std::vector<std::string>& fragments) {
    expect_refusal(lockstep(0, args, in_time()), fragments);
  };
  refused_alone({"tarin", "--train.epochs", "1"}, {"\"tarin\"", "\"train\""});
  refused_alone({}, {"no command", "train"});
  refused({"train"}, {"--config"});
  refused({"train", "--config"}, {"--config", "needs a value"});
  refused({"evaluate"}, {"--run"});
  refused({"predict", "--run", folder.path()}, {"--input"});
  refused({"evaluate", "--run", folder / "absent"}, {"absent", "missing"});
  refused({"evaluate", "--run", folder.path()}, {folder.path(), "holds no run"});
  refused({"evaluate", "--run", folder.path(), "--split", "tset"}, {"--split", "tset", "test"});
  refused_alone({"digest"}, {"digest", "PATH"});
  refused_alone({"digest", folder / "absent"}, {"absent", "does not exist"});
  refused_alone({"inspect", folder.path()}, {folder.path(), "neither a run nor a checkpoint"});
  refused({"train", "--resume", "--run.dir", folder / "absent"}, {"absent", "missing"});
  refused({"train", "--resume", "--overwrite", "--run.dir", folder / "absent"}, {"--resume", "--overwrite"});
}

TEST_F(BadInput, LayerLinesHaveACaretUnderWhatIsWrong) {
  const std::string line = "conv:8x3 rleu flatten dense:3";
  refused_train({{"model.layers", line}},
                {"model.layers", "'rleu'", "'relu'", "\n  " + line + "\n           ^"});
  refused_train({{"model.layers", "conv:8x3,strid=2 flatten dense:3"}},
                {"strid", "stride", "\n           ^"});
  // The layer and both shapes.
  refused_train({{"model.layers", "conv:8x9 flatten dense:3"}}, {"conv1", "9x9", "1x6x6", "\n  ^"});
  refused_train({{"model.layers", "conv:8x3 maxpool:5 flatten dense:3"}},
                {"maxpool1", "5x5", "8x4x4", "\n           ^"});
  refused_train({{"model.layers", "flatten dense:4"}}, {"4", "3", "\n          ^"});
  refused_train({{"model.layers", "flatten dense:5 conv:8x3 flatten dense:3"}},
                {"conv1", "5", "\n                  ^"});
  refused_train({{"model.layers", ""}}, {"model.layers", "model.name"});
  refused_train({{"model.layers", ""}, {"model.name", "lenett"}}, {"lenett", "lenet"});
}

TEST_F(BadInput, RanksSlicesAndBatches) {
  const Flags base = {
      {"run.dir", run_dir},         {"data.format", "synthetic"}, {"data.samples", "48"},
      {"data.shape", "1x6x6"},      {"data.classes", "3"},        {"model.layers", "flatten dense:3"},
      {"train.global_batch", "24"}, {"train.epochs", "1"},        {"train.slices", "2"}};
  expect_refusal(lockstep(3, with_flags({"train"}, base), in_time()),
                 {"ranks (3)", "slices (2)", "train.slices"});
  EXPECT_FALSE(fs::exists(run_dir));
  refused_train({{"train.slices", "5"}}, {"train.slices = 5", "train.global_batch = 24"});
  refused_train({{"train.slices", "3"}, {"train.eval_batch", "32"}},
                {"train.eval_batch", "32", "train.slices", "3"});
  // What no machine can hold.
  refused_train({{"train.slices", "3"}, {"train.global_batch", "999999999"}},
                {"train.global_batch", "999999999", "memory", "train.slices"});
  refused_train({{"train.slices", "3"}, {"model.layers", "flatten dense:1000000000 dense:3"}},
                {"model", "parameters", "memory"});
}

TEST_F(BadInput, AugmentationOfWhatIsNoImageOrWithoutBounds) {
  refused_train({{"data.flip", "perhaps"}}, {"--data.flip", "\"perhaps\"", "neither true nor false"});
  refused_train({{"data.crop_padding", "-1"}}, {"--data.crop_padding", "-1", "at least 0"});
  refused_train({{"data.crop_padding", "1.5"}}, {"--data.crop_padding", "1.5", "whole number"});
  refused_train({{"data.crop_padding", "70000"}}, {"--data.crop_padding", "70000", "at most 65535"});
  refused_train({{"data.crop_paddin", "2"}}, {"--data.crop_paddin", "\"--data.crop_padding\""});
  refused_train({{"data.crop_padding", "6"}}, {"data.crop_padding = 6", "1x6x6", "at most 5"});
  refused_train({{"data.crop_padding", "4"}, {"data.shape", "1x9x4"}},
                {"data.crop_padding = 4", "1x9x4", "at most 3"});
  refused_train({{"data.flip", "true"}, {"data.shape", "36"}, {"model.layers", "dense:3"}},
                {"data.flip = true", "images", "the samples are 36", "data.shape"});
  refused_train({{"data.flip", "true"}, {"data.shape", "3x12x1"}}, {"data.flip = true", "3x12x1"});
  write_file_bytes(folder / "train.csv", csv_words(48));
  refused_config("[model]\nlayers = dense:3\n[data]\nformat = csv\ntrain = " + (folder / "train.csv") +
                     "\ncrop_padding = 1\n[train]\nepochs = 1\nglobal_batch = 24\n",
                 {"data.crop_padding = 1", "the samples are 2", "data.shape"});
}

TEST_F(BadInput, RunDirectoriesThatCannotBeWritten) {
  write_file_bytes(folder / "file", "something");
  refused_train({{"run.dir", folder / "file"}, {"train.slices", "3"}},
                {folder / "file", "in the way", "run.dir"});
  refused_train({{"run.dir", folder / "file/below"}, {"train.slices", "3"}},
                {folder / "file/below", "in the way"});
  EXPECT_EQ(read_file_bytes(folder / "file"), "something");
  refused_train({{"run.dir", "/proc/lockstep"}, {"train.slices", "3"}}, {"/proc/lockstep", "run.dir"});
  refused_train({{"run.dir", "/sys/kernel"}, {"train.slices", "3"}}, {"/sys/kernel", "run.dir"});
}

class BadData : public BadInput {
 protected:
  void SetUp() override {
    write_file_bytes(images, idx_images(24));
    write_file_bytes(labels, idx_labels(24));
    write_file_bytes(csv, csv_words(24));
  }
  Flags idx_flags() const {
    return {{"run.dir", run_dir},         {"data.train", images}, {"model.layers", "flatten dense:3"},
            {"train.global_batch", "12"}, {"train.slices", "3"},  {"train.epochs", "1"}};
  }
  Flags csv_flags() const {
    return {{"run.dir", run_dir},        {"data.format", "csv"},       {"data.train", csv},
            {"model.layers", "dense:3"}, {"train.global_batch", "12"}, {"train.slices", "3"},
            {"train.epochs", "1"}};
  }
  static Flags changed(Flags flags, const Flags& by) {
    for (const auto& [key, value] : by) {
      const auto at = std::find_if(flags.begin(), flags.end(), [&](const auto& f) { return f.first == key; });
      if (at == flags.end())
        flags.emplace_back(key, value);
      else
        at->second = value;
    }
    return flags;
  }
  void refused_idx(const std::vector<std::string>& fragments, const Flags& by = {}) {
    refused(with_flags({"train"}, changed(idx_flags(), by)), fragments);
    SetUp();
  }
  void refused_csv(const std::string& content, const std::vector<std::string>& fragments,
                   const Flags& by = {}) {
    write_file_bytes(csv, content);
    refused(with_flags({"train"}, changed(csv_flags(), by)), fragments);
    SetUp();
  }
  const std::string images = folder / "train-images-idx3-ubyte";
  const std::string labels = folder / "train-labels-idx1-ubyte";
  const std::string csv = folder / "train.csv";
};

TEST_F(BadData, DataThatIsRightIsTaken) {
  for (const Flags& flags : {idx_flags(), csv_flags()}) {
    const ProcessResult result = lockstep(3, with_flags({"train", "--overwrite"}, flags));
    EXPECT_EQ(result.exit_code, 0) << result.describe();
  }
}

TEST_F(BadData, IdxFiles) {
  refused_idx({"absent", "data.train"}, {{"data.train", folder / "absent"}});
  refused_idx({folder.path(), "directory"}, {{"data.train", folder.path()}});
  fs::remove(labels);
  refused_idx({images, labels, "data.train_labels"});
  write_file_bytes(images, "");
  refused_idx({images, "data.train", "empty"});
  write_file_bytes(images, idx_images(24).substr(0, 500));
  refused_idx({images, "cut short", "24x6x6"});
  write_file_bytes(images, idx_images(24).substr(0, 9));
  refused_idx({images, "cut short"});
  write_file_bytes(images, idx_images(24) + "x");
  refused_idx({images, "goes on"});
  write_file_bytes(labels, idx_labels(20));
  refused_idx({images, labels, "24", "20"});
  write_file_bytes(images, csv_words(24));
  refused_idx({images, "not an IDX file", "data.format = csv"});
  write_file_bytes(images, idx_bytes({0, 6, 6}, ""));
  write_file_bytes(labels, idx_bytes({0}, ""));
  refused_idx({images, "no samples"});
  refused_idx({labels, "label 2", "outside", "0 to 1"},
              {{"data.classes", "2"}, {"model.layers", "flatten dense:2"}});
  // The test files too, before the training starts.
  write_file_bytes(folder / "t10k-images-idx3-ubyte", idx_images(8));
  refused_idx({"t10k-images-idx3-ubyte", "data.test_labels"},
              {{"data.test", folder / "t10k-images-idx3-ubyte"}});
  write_file_bytes(folder / "t10k-labels-idx1-ubyte", idx_labels(8, 5));
  refused_idx({"t10k-labels-idx1-ubyte", "label 3", "0 to 2"},
              {{"data.test", folder / "t10k-images-idx3-ubyte"}});
}

TEST_F(BadData, GzipFilesCutShortOrDamaged) {
  const std::string packed = images + ".gz";
  const auto pack = [&] {
    write_file_bytes(folder / "plain", idx_images(24));
    ASSERT_EQ(run_process({"gzip", "-f", folder / "plain"}).exit_code, 0);
    fs::rename(folder / "plain.gz", packed);
  };
  pack();
  fs::remove(images);
  ASSERT_EQ(lockstep(0, with_flags({"train", "--dry-run"}, changed(idx_flags(), {{"data.train", packed}})))
                .exit_code,
            0);
  const std::string whole = read_file_bytes(packed);
  write_file_bytes(packed, whole.substr(0, whole.size() / 2));
  refused_idx({packed, "data.train", "cut short"}, {{"data.train", packed}});
  write_file_bytes(packed, whole.substr(0, whole.size() - 4));
  refused_idx({packed, "cut short"}, {{"data.train", packed}});
  std::string damaged = whole;
  damaged[whole.size() - 6] = static_cast<char>(damaged[whole.size() - 6] ^ 1);  // in the checksum
  write_file_bytes(packed, damaged);
  refused_idx({packed, "damaged"}, {{"data.train", packed}});
}

TEST_F(BadData, CsvFiles) {
  refused_csv("", {csv, "data.train", "empty"});
  refused_csv("x,y,kind\n", {csv, "header", "no data"});
  refused_csv("x,y,kind\n1,2,cat\n3,nan,dog\n", {csv, "line 3", "'y'", "nan", "finite"});
  refused_csv("x,y,kind\n1,2,cat\n-inf,3,dog\n", {csv, "line 3", "'x'", "inf", "finite"});
  refused_csv("x,y,kind\n1,2,cat\n1e400,3,dog\n", {csv, "line 3", "'x'", "1e400"});
  refused_csv("x,y,kind\n1,2,cat\n3,four,dog\n", {csv, "line 3", "'y'", "four"});
  refused_csv("x,y,kind\n1,2,cat\n3,dog\n", {csv, "line 3", "2 fields", "3"});
  refused_csv("x,y,kind\n1,2,cat\n3,,dog\n", {csv, "line 3", "'y'", "empty"});
  refused_csv("x,y,kind\n1,2,-1\n3,4,1\n", {csv, "line 2", "-1", "negative"});
  refused_csv("x,y,kind\n1,2,0\n3,4,7\n", {csv, "line 3", "label 7", "0 to 2"}, {{"data.classes", "3"}});
  refused_csv(csv_words(24), {"data.label", "'knid'", "'kind'", csv}, {{"data.label", "knid"}});
  refused_csv(idx_images(24), {csv, "not a CSV file", "IDX"});
  refused_csv("x,y,kind\n1,2,th\xe9\n", {csv, "line 2", "UTF-8"});
  refused_csv(std::string("\xff\xfex\0,\0", 6), {csv, "UTF-16", "UTF-8"});
  refused_csv(csv_words(24), {"2 outputs", "needs 3", "\n  ^"}, {{"model.layers", "dense:2"}});
  refused_csv(csv_words(24), {"data.shape", "1x4x4", "16", "2"}, {{"data.shape", "1x4x4"}});
  // A word in another file that the training file does not know.
  write_file_bytes(folder / "test.csv", "x,y,kind\n1,2,cot\n");
  refused_csv(csv_words(24), {"test.csv", "line 2", "'cot'", "'cat'"}, {{"data.test", folder / "test.csv"}});
  // Regression: a target that is no number.
  refused_csv("a,b,y\n1,2,3\n1,2,x\n", {csv, "line 3", "'y'", "x"},
              {{"loss.name", "mse"}, {"model.layers", "dense:1"}});
  refused_csv("a,b,y\n1,2,3\n1,2,inf\n", {csv, "line 3", "'y'", "inf"},
              {{"loss.name", "mse"}, {"model.layers", "dense:1"}});
}

TEST_F(BadData, AFileThatIsBrokenOnOneHostOnlyIsReportedOnceByIts) {
  // The same relative name in two working folders, as on two hosts with disks of their own.
  for (const char* host : {"a", "b"}) {
    fs::create_directory(folder / host);
    fs::copy(csv, folder / (std::string(host) + "/train.csv"));
  }
  write_file_bytes(folder / "b/train.csv", "x,y,kind\n1,2,cat\n3,nan,dog\n");
  const std::vector<std::string> program =
      with_flags({LOCKSTEP_PROGRAM, "train"}, changed(csv_flags(), {{"data.train", "train.csv"}}));
  for (const auto& [first, second] : {std::pair("a", "b"), std::pair("b", "a")}) {
    std::vector<std::string> argv = {"mpirun", "--oversubscribe", "--bind-to",   "none", "-n",
                                     "2",      "-wdir",           folder / first};
    argv.insert(argv.end(), program.begin(), program.end());
    for (const std::string& word :
         {std::string(":"), std::string("-n"), std::string("1"), std::string("-wdir"), folder / second})
      argv.push_back(word);
    argv.insert(argv.end(), program.begin(), program.end());
    const ProcessResult result = run_process(argv, with_mpirun_env(in_time()));
    expect_refusal(result, {"train.csv", "line 3", "nan"});
    EXPECT_EQ(count(error_text(result), "[rank 2]"), first == std::string("a") ? 1 : 0) << result.err;
    EXPECT_FALSE(fs::exists(run_dir));
  }
}

TEST_F(BadInput, ARankThatIsLateDoesNotSwallowTheMessage) {
  // The launcher ends the job at the first bad exit: rank 0, which speaks for all, must be heard all the
  // same.
  const ProcessResult result = run_mpi(
      3,
      {"perl", "-e", "select(undef, undef, undef, 0.3) if $ENV{OMPI_COMM_WORLD_RANK} == 0; exec @ARGV or die",
       "--", LOCKSTEP_PROGRAM, "train", "--modl.layers", "relu"},
      in_time());
  expect_refusal(result, {"--modl.layers", "--model.layers"});
}

}  // namespace
}  // namespace lockstep::test
