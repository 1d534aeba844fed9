#include "trainer/step/device_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mutex>
#include <string>
#include <vector>

#include "comm/threads/thread_communicator.h"
#include "core/error.h"
#include "trainer/cli/doctor_devices.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;

DeviceEntry with_gpus(GpuProbe (*probe)()) {
  DeviceEntry entry;
  entry.name = "cuda";
  entry.built = true;
  entry.probe = probe;
  return entry;
}

GpuProbe two_gpus() {
  GpuProbe probe;
  for (const char* uuid : {"GPU-a", "GPU-b"}) {
    GpuInfo gpu;
    gpu.ordinal = static_cast<int>(probe.gpus.size());
    gpu.name = "GPU of tests";
    gpu.uuid = uuid;
    gpu.multiprocessors = 132;
    gpu.memory_bytes = std::uint64_t{80} << 30;
    probe.gpus.push_back(gpu);
  }
  return probe;
}

GpuProbe no_driver() {
  GpuProbe probe;
  probe.problem = "there is no driver";
  return probe;
}

DeviceEntry not_built() {
  DeviceEntry entry;
  entry.name = "cuda";
  entry.missing = "this was missing: NCCL";
  return entry;
}

struct Outcome {
  std::vector<DeviceChoice> choices;
  std::vector<std::string> errors;  // of each rank; empty where it got a choice
};

Outcome choose(int ranks, const std::string& kind, const DeviceEntry& entry, bool share = false,
               const std::string& backend = "auto", const std::string& precision = "fp32") {
  Outcome outcome;
  outcome.choices.resize(static_cast<std::size_t>(ranks));
  outcome.errors.resize(static_cast<std::size_t>(ranks));
  run_ranks(ranks, {}, [&](Communicator& comm) {
    const auto me = static_cast<std::size_t>(comm.rank());
    Config config;
    config.device.kind = kind;
    config.device.share = share;
    config.comm.backend = backend;
    config.train.precision = precision;
    try {
      outcome.choices[me] = choose_device(config, comm, {entry});
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::input);
      EXPECT_TRUE(e.agreed());
      outcome.errors[me] = e.what();
    }
  });
  return outcome;
}

TEST(ChooseDevice, CudaThatIsNotBuiltOrNotThereIsRefusedInOneSentence) {
  const Outcome none = choose(2, "cuda", not_built());
  EXPECT_THAT(none.errors[0], AllOf(HasSubstr("built for the CPU alone (this was missing: NCCL)"),
                                    HasSubstr("use --device cpu or auto")));
  EXPECT_THAT(none.errors[1], HasSubstr("a peer has reported"));
  const Outcome driver = choose(2, "cuda", with_gpus(no_driver));
  EXPECT_THAT(driver.errors[0],
              AllOf(HasSubstr("there is no driver"), HasSubstr("use --device cpu or auto")));
}

TEST(ChooseDevice, AutoTakesTheCpuWhereGpusAreMissing) {
  for (const DeviceEntry& entry : {not_built(), with_gpus(no_driver)}) {
    const Outcome outcome = choose(3, "auto", entry);
    EXPECT_THAT(outcome.errors, Each(IsEmpty()));
    for (const DeviceChoice& choice : outcome.choices) {
      EXPECT_EQ(choice.kind, "cpu");
      EXPECT_THAT(choice.note, IsEmpty());
    }
  }
}

TEST(ChooseDevice, AutoTakesGpusWhereEveryRankGetsOne) {
  const Outcome outcome = choose(2, "auto", with_gpus(two_gpus));
  for (std::size_t r = 0; r < 2; ++r) {
    EXPECT_EQ(outcome.choices[r].kind, "cuda");
    EXPECT_EQ(outcome.choices[r].gpu, two_gpus().gpus[r]);
    EXPECT_FALSE(outcome.choices[r].shared);
  }
}

TEST(ChooseDevice, AutoTakesTheCpuAndSaysWhyWhereGpusDoNotSuffice) {
  const Outcome outcome = choose(3, "auto", with_gpus(two_gpus), true);
  for (const DeviceChoice& choice : outcome.choices) {
    EXPECT_EQ(choice.kind, "cpu");
    EXPECT_THAT(choice.note, HasSubstr("would share one GPU"));
  }
}

TEST(ChooseDevice, RanksShareOnlyWhenTold) {
  const Outcome refused = choose(3, "cuda", with_gpus(two_gpus));
  EXPECT_THAT(refused.errors[0], AllOf(HasSubstr("ranks 0 and 2 on "), HasSubstr("--device.share")));
  const Outcome shared = choose(3, "cuda", with_gpus(two_gpus), true);
  EXPECT_THAT(shared.errors, Each(IsEmpty()));
  EXPECT_TRUE(shared.choices[1].shared);
  const Outcome nccl = choose(3, "cuda", with_gpus(two_gpus), true, "nccl");
  EXPECT_THAT(nccl.errors[0], HasSubstr("comm.backend = nccl"));
}

TEST(ChooseDevice, APrecisionThatTheCpuLacksIsRefusedThere) {
  EXPECT_THAT(choose(1, "auto", not_built(), false, "auto", "fp16").errors[0],
              HasSubstr("train.precision = fp16"));
  EXPECT_THAT(choose(1, "auto", not_built(), false, "auto", "bf16").errors[0], IsEmpty());
  EXPECT_THAT(choose(1, "auto", with_gpus(two_gpus), false, "auto", "bf16").errors[0], IsEmpty());
}

TEST(ChooseDevice, NcclWithoutGpusIsRefused) {
  EXPECT_THAT(choose(2, "auto", with_gpus(no_driver), false, "nccl").errors[0],
              AllOf(HasSubstr("comm.backend = nccl"), HasSubstr("there is no driver"), HasSubstr("auto")));
  EXPECT_THAT(choose(2, "auto", with_gpus(two_gpus), false, "nccl").errors[0], IsEmpty());
}

TEST(ChooseDevice, TheTableOfThisBuildHoldsCudaOrSaysWhyNot) {
  const std::vector<DeviceEntry> entries = accelerators();
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].name, "cuda");
  if (entries[0].built) {
    EXPECT_THAT(entries[0].missing, IsEmpty());
    EXPECT_THAT(entries[0].libraries(), AllOf(HasSubstr("cuDNN 9"), HasSubstr("cuBLASLt "),
                                              HasSubstr("NCCL 2"), HasSubstr("CUDA runtime")));
    const GpuProbe probe = entries[0].probe();
    EXPECT_NE(probe.gpus.empty(), probe.problem.empty());
    if (probe.gpus.empty()) {
      EXPECT_THAT(examine_devices().kinds,
                  HasSubstr("cuda is built in, but cannot be used here: " + probe.problem));
    }
  } else {
    EXPECT_FALSE(entries[0].missing.empty());
    EXPECT_THAT(examine_devices().kinds, HasSubstr("cuda is not part of this build (" + entries[0].missing));
  }
}

}  // namespace
}  // namespace lockstep
