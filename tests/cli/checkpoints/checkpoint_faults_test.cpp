// Checkpoints on a full disk, and damaged ones: nothing acknowledged is lost, the training goes on where it
// can, and the end has the digest of the undisturbed run.

#include <filesystem>

#include "support/mount.h"

#include "cli/checkpoints/checkpoint_faults_support.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;

TEST_F(CheckpointFaults, AFullDiskCostsNoOlderCheckpointAndRoomMendsIt) {
  fs::create_directories(folder / "disk");
  // Weights of 0.7 MiB, and twice that of optimizer state: one checkpoint and the final weights have room,
  // not a second checkpoint.
  const std::vector<std::string> wide = {
      "--model.layers", "dense:16000 relu dense:3", "--train.steps", "6", "--data.validation_fraction", "0"};
  ASSERT_EQ(lockstep(0, train("wide", wide)).exit_code, 0);
  const std::string small = "size=4m";
  const TmpfsMount disk(folder / "disk", small);
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  for (const int ranks : {2, 0}) {
    fs::remove_all(folder / "disk/run");
    const ProcessResult full = lockstep(ranks, train("disk/run", wide));
    ASSERT_EQ(full.exit_code, 0) << full.describe();
    // Steps 4 and 6, and the last one once more.
    EXPECT_EQ(count(full.err, "could not be saved, the training goes on"), 3) << full.describe();
    EXPECT_EQ(count(full.err, "no space for the checkpoint"), 3) << full.describe();
    const auto names = checkpoint_names(folder / "disk/run");
    EXPECT_EQ(std::count(names.begin(), names.end(), "step-000000002"), 1);
    EXPECT_EQ(digest(folder / "disk/run"), digest(folder / "wide")) << "the final weights had room";
    // The rest of the run again, with room.
    ASSERT_EQ(mount("tmpfs", (folder / "disk").c_str(), "tmpfs", MS_REMOUNT, "size=32m"), 0);
    const ProcessResult resumed =
        lockstep(ranks, {"train", "--resume", "--run.dir", folder / "disk/run", "--device.threads", "1"});
    ASSERT_EQ(resumed.exit_code, 0) << resumed.describe();
    EXPECT_NE(resumed.err.find("step 2)"), std::string::npos) << resumed.err;
    EXPECT_EQ(digest(folder / "disk/run", true), digest(folder / "wide", true));
    fs::remove_all(folder / "disk/run");
    ASSERT_EQ(mount("tmpfs", (folder / "disk").c_str(), "tmpfs", MS_REMOUNT, small.c_str()), 0);
  }
}

TEST_F(CheckpointFaults, DamageInAnyFileOfAnyRankIsNamedAndTheOlderOneTaken) {
  ASSERT_EQ(lockstep(3, train("parts", {"--checkpoint.keep", "3"})).exit_code, 0);
  const std::string newest = folder / "parts/checkpoints/gen-000001/step-000000008";
  const auto whole = contents(newest);
  ASSERT_GE(whole.size(), 4u) << "three ranks were to write parts";
  int turn = 0;
  for (const auto& [path, bytes] : whole) {
    const std::string name = fs::path(path).filename();
    for (int way = 0; way < 3; ++way, ++turn) {
      std::string bad = bytes;
      const std::size_t at = bytes.size() * static_cast<std::size_t>(way + 1) / 4;
      if (way == 1)
        bad.resize(at);
      else
        bad[at] = static_cast<char>(bad[at] ^ (1 << (turn % 8)));
      // Blanks between the words of the manifest carry nothing.
      if (way != 1 && name == "manifest.json" && (bytes[at] == ' ' || bytes[at] == '\n')) continue;
      write_file_bytes(path, bad);
      const ProcessResult found = lockstep(0, {"digest", folder / "parts", "--state"});
      EXPECT_EQ(found.exit_code, 0) << found.describe();
      EXPECT_EQ(count(found.err, "passed over the checkpoint '" + newest), 1) << found.describe();
      EXPECT_EQ(count(found.err, name), 1) << found.describe();
    }
    const ProcessResult resumed =
        lockstep(turn % 2 == 0 ? 0 : 2,
                 {"train", "--resume", "--run.dir", folder / "parts", "--checkpoint.keep", "3"});
    EXPECT_EQ(resumed.exit_code, 0) << resumed.describe();
    EXPECT_EQ(count(resumed.err, "passed over the checkpoint '" + newest), 1) << resumed.describe();
    EXPECT_EQ(digest(folder / "parts", true), want);
    // Back to the checkpoints of the first job.
    for (const auto& generation : fs::directory_iterator(folder / "parts/checkpoints"))
      if (generation.path().filename() != "gen-000001") fs::remove_all(generation.path());
    write_file_bytes(path, bytes);
    for (const auto& [other, content] : whole) EXPECT_EQ(read_file_bytes(other), content);
  }
}

TEST_F(CheckpointFaults, WhoeverReadsARunNamesWhatHePassesOver) {
  ASSERT_EQ(lockstep(0, train("run", {"--checkpoint.keep", "2"})).exit_code, 0);
  const std::string generation = folder / "run/checkpoints/gen-000001/";
  const std::string newest = generation + "step-000000008";
  fs::remove(folder / "run/model.safetensors");
  const std::string manifest = read_file_bytes(newest + "/manifest.json");
  std::string future = manifest;
  future[future.find("\"version\": ") + 11] = '7';
  write_file_bytes(newest + "/manifest.json", future);
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"export", "--run", folder / "run", "--output", folder / "out.safetensors"},
           {"evaluate", "--run", folder / "run", "--split", "validation"},
           {"digest", folder / "run"}}) {
    const ProcessResult result = lockstep(0, args);
    EXPECT_EQ(result.exit_code, 0) << result.describe();
    EXPECT_EQ(count(result.err, "passed over the checkpoint '" + newest), 1) << result.describe();
    EXPECT_EQ(count(result.err, "claims to be of the format version 7"), 1) << result.describe();
  }
  // Where none is left the reason is told too.
  fs::remove_all(generation + "step-000000006");
  const ProcessResult none = lockstep(0, {"digest", folder / "run"});
  EXPECT_EQ(none.exit_code, 2) << none.describe();
  EXPECT_EQ(count(none.err, "no whole checkpoint: passed over the checkpoint '" + newest), 1)
      << none.describe();
  // The best weights of the run.
  write_file_bytes(newest + "/manifest.json", manifest);
  std::string best;
  for (const std::string& name : checkpoint_names(folder / "run"))
    if (name.starts_with("best-")) best = std::max(best, generation + name);
  for (const std::string& name : checkpoint_names(folder / "run"))
    if (name.starts_with("best-") && generation + name != best) fs::remove_all(generation + name);
  std::string weights = read_file_bytes(best + "/model.safetensors");
  weights.back() = static_cast<char>(weights.back() ^ 1);
  write_file_bytes(best + "/model.safetensors", weights);
  const ProcessResult resumed = lockstep(0, {"train", "--resume", "--run.dir", folder / "run"});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.describe();
  EXPECT_EQ(count(resumed.err, "passed over the best weights '" + best), 1) << resumed.describe();
  EXPECT_EQ(count(resumed.err, "best.safetensors is not written"), 1) << resumed.describe();
}

TEST_F(CheckpointFaults, AConfigThatACheckpointCannotKeepIsRefused) {
  for (const int ranks : {0, 2}) {
    const ProcessResult result = lockstep(ranks, train("run\xe9"));
    EXPECT_EQ(result.exit_code, 2) << result.describe();
    EXPECT_EQ(count(result.err, "run.dir: the value is not UTF-8 text"), 1) << result.describe();
    EXPECT_FALSE(fs::exists(folder / "run\xe9"));
  }
}

TEST_F(CheckpointFaults, WhatAKillLeftOfAWriteGoesAtTheNextResume) {
  ASSERT_EQ(lockstep(0, train("run")).exit_code, 0);
  const std::string left = folder / "run/model.safetensors.tmp.1234.0", own = folder / "run/notes.tmp.1.0";
  write_file_bytes(left, "half of it");
  write_file_bytes(own, "the user's");
  ASSERT_EQ(lockstep(0, {"train", "--resume", "--run.dir", folder / "run"}).exit_code, 0);
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(own));
}

TEST_F(CheckpointFaults, AResumeOnAFullDiskGoesOn) {
  fs::create_directories(folder / "disk");
  const TmpfsMount disk(folder / "disk", "size=1m");
  if (!disk.mounted()) LOCKSTEP_SKIP_WITHOUT("mount", disk.reason());
  const std::string run = folder / "disk/run", generation = run + "/checkpoints/gen-000001/";
  ASSERT_EQ(lockstep(0, train("disk/run", {"--checkpoint.keep", "4", "--log.every_steps", "1"})).exit_code,
            0);
  // As after a kill: an older checkpoint, and lines of steps that are taken again.
  fs::remove_all(generation + "step-000000008");
  fs::remove_all(generation + "step-000000006");
  fs::remove(run + "/model.safetensors");
  fs::remove(run + "/best.safetensors");
  std::ofstream filler(folder / "disk/filler");
  while (filler.flush()) filler << std::string(512, 'x');
  const ProcessResult full = lockstep(
      2, {"train", "--resume", "--run.dir", run, "--device.threads", "1", "--watchdog.timeout", "60"});
  // Everything is done but the weights at the end, for which there is no room.
  EXPECT_EQ(full.exit_code, 2) << full.describe();
  EXPECT_EQ(count(full.out, "trained 4 steps"), 1) << full.describe();
  EXPECT_EQ(count(full.err, "error: "), 1) << full.describe();
  EXPECT_EQ(count(full.err, "model.safetensors"), 1) << full.describe();
  for (const auto& line : json_lines(run + "/metrics.jsonl")) EXPECT_LE(line["step"].get<int>(), 8) << line;
  filler.close();
  fs::remove(folder / "disk/filler");
  const ProcessResult room = lockstep(0, {"train", "--resume", "--run.dir", run});
  ASSERT_EQ(room.exit_code, 0) << room.describe();
  EXPECT_EQ(digest(run, true), want);
}

}  // namespace
}  // namespace lockstep::test
