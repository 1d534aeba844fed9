#include "device/gpu_health.h"

#include <cstdlib>
#include <filesystem>
#include <gmock/gmock.h>

#include "support/temp_dir.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;

testing::Matcher<const HealthFinding&> finding(bool wrong, const std::string& part) {
  return AllOf(Field(&HealthFinding::wrong, wrong), Field(&HealthFinding::text, HasSubstr(part)));
}

const char* const two_gpus =
    "GPU-1b2c3d4e-0000-1111-2222-333344445555, 512, 81559, 34, 0\n"
    "GPU-ffffffff-0000-1111-2222-333344445555, 70000, 81559, 91, 3\n";

TEST(GpuHealth, ReadsALineAGpu) {
  const auto all = parse_gpu_readings(two_gpus);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].uuid, "GPU-1b2c3d4e-0000-1111-2222-333344445555");
  EXPECT_EQ(readings_text(all[0]), "34 C, 512 of 81559 MiB used, 0 uncorrected memory errors");
  EXPECT_THAT(health_findings("cuda 0", all[0]), IsEmpty());
  EXPECT_THAT(
      health_findings("cuda 1", all[1]),
      ElementsAre(finding(true, "cuda 1 has lost data to 3 uncorrected memory errors"),
                  finding(false, "cuda 1 is at 91 C"), finding(false, "70000 MiB of the memory of cuda 1")));
}

TEST(GpuHealth, WhatIsNotToldIsNotJudged) {
  const auto all = parse_gpu_readings("GPU-1, [N/A], [N/A], [Not Supported], [N/A]\n");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(readings_text(all[0]), "the driver tells nothing of its health");
  EXPECT_THAT(health_findings("cuda 0", all[0]), IsEmpty());
  for (const char* odd : {"", "\n\n", "NVIDIA-SMI has failed because it couldn't communicate with the driver",
                          "GPU-1, 2", "no, 1, 2, 3, 4", "GPU-1, 1, 2, 3, 4, 5"})
    EXPECT_THAT(parse_gpu_readings(odd), IsEmpty()) << odd;
}

TEST(GpuHealth, AsksTheDriversTool) {
  const test::TempDir dir;
  test::write_file_bytes(dir / "nvidia-smi", std::string("#!/bin/sh\ncat <<'X'\n") + two_gpus + "X\n");
  std::filesystem::permissions(dir / "nvidia-smi", std::filesystem::perms::owner_all);
  const std::string path = std::getenv("PATH");
  ASSERT_EQ(setenv("PATH", (dir.path() + ":" + path).c_str(), 1), 0);
  EXPECT_EQ(read_gpu_health().size(), 2u);
  ASSERT_EQ(setenv("PATH", dir.path().c_str(), 1), 0);
  std::filesystem::remove(dir / "nvidia-smi");
  EXPECT_THAT(read_gpu_health(), IsEmpty());
  ASSERT_EQ(setenv("PATH", path.c_str(), 1), 0);
}

}  // namespace
}  // namespace lockstep
