#include "device/gpu.h"

#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temp_dir.h"

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

GpuInfo gpu(const std::string& uuid) {
  GpuInfo info;
  info.name = "GPU of tests";
  info.uuid = uuid;
  return info;
}

RankGpus rank_with(int node, const std::vector<std::string>& uuids) {
  RankGpus rank;
  rank.host = "node" + std::to_string(node);
  rank.node = node;
  for (const std::string& uuid : uuids) rank.gpus.push_back(gpu(uuid));
  if (uuids.empty()) rank.problem = "there is no driver";
  return rank;
}

TEST(AssignGpus, LocalRankTakesItsEntryOfACommonList) {
  const GpuAssignment a = assign_gpus({rank_with(0, {"a", "b"}), rank_with(0, {"a", "b"}),
                                       rank_with(1, {"c", "d"}), rank_with(1, {"c", "d"})},
                                      false);
  EXPECT_THAT(a.problem, IsEmpty());
  EXPECT_FALSE(a.shared);
  EXPECT_THAT(a.chosen, ElementsAre(0, 1, 0, 1));
}

TEST(AssignGpus, EveryRankTakesTheOneThatItAloneSees) {
  const GpuAssignment a = assign_gpus({rank_with(0, {"b"}), rank_with(0, {"a"})}, false);
  EXPECT_THAT(a.problem, IsEmpty());
  EXPECT_THAT(a.chosen, ElementsAre(0, 0));
}

TEST(AssignGpus, MovesARankWhereAnotherHasNoChoice) {
  // Rank 0 would take a, which is all that rank 1 sees; rank 2 then needs what rank 0 moved to.
  const GpuAssignment a =
      assign_gpus({rank_with(0, {"a", "b", "c"}), rank_with(0, {"a"}), rank_with(0, {"a", "b"})}, false);
  EXPECT_THAT(a.problem, IsEmpty());
  EXPECT_THAT(a.chosen, ElementsAre(2, 0, 1));
}

TEST(AssignGpus, RefusesTwoRanksOnOneGpuByName) {
  const GpuAssignment a =
      assign_gpus({rank_with(0, {"a", "b"}), rank_with(0, {"a", "b"}), rank_with(0, {"a", "b"})}, false);
  EXPECT_THAT(a.chosen, IsEmpty());
  EXPECT_THAT(a.problem, HasSubstr("ranks 0 and 2 on node0 would share one GPU"));
  EXPECT_THAT(a.problem, HasSubstr("(a)"));
}

TEST(AssignGpus, SharesInTurnWhereItIsAllowed) {
  const GpuAssignment a = assign_gpus(std::vector<RankGpus>(5, rank_with(0, {"a", "b"})), true);
  EXPECT_TRUE(a.shared);
  EXPECT_THAT(a.chosen, ElementsAre(0, 1, 0, 1, 0));
  EXPECT_FALSE(assign_gpus(std::vector<RankGpus>(2, rank_with(0, {"a", "b"})), true).shared);
}

TEST(AssignGpus, InstancesOfOneGpuAreSharedSinceNcclKnowsPlacesOnTheBus) {
  std::vector<RankGpus> ranks = {rank_with(0, {"a"}), rank_with(0, {"b"}), rank_with(1, {"c"})};
  for (RankGpus& rank : ranks) rank.gpus[0].pci_bus_id = "0000:3B:00.0";
  const GpuAssignment a = assign_gpus(ranks, false);
  EXPECT_THAT(a.problem, IsEmpty());
  EXPECT_TRUE(a.shared);
  EXPECT_THAT(a.chosen, ElementsAre(0, 0, 0));
  ranks[1].gpus[0].pci_bus_id = "0000:4B:00.0";
  EXPECT_FALSE(assign_gpus(ranks, false).shared);
}

TEST(AssignGpus, NamesTheRankWithoutAGpu) {
  const GpuAssignment a = assign_gpus({rank_with(0, {"a"}), rank_with(1, {})}, true);
  EXPECT_EQ(a.problem, "rank 1 on node1 has no GPU: there is no driver");
}

TEST(NoCode, TheSentenceNamesTheGpuWhatTheProgramHoldsAndWhatToBuild) {
  GpuInfo gpu;
  gpu.name = "NVIDIA RTX PRO 6000";
  gpu.capability_major = 12;
  gpu.capability_minor = 0;
  EXPECT_THAT(no_code_text(gpu, "90-real, 100-real"),
              testing::AllOf(HasSubstr("NVIDIA RTX PRO 6000 has compute capability 12.0"),
                             HasSubstr("90-real, 100-real"), HasSubstr("-DCMAKE_CUDA_ARCHITECTURES=120"),
                             HasSubstr("--device cpu")));
}

TEST(HiddenPeers, WarnsOfGpusThatPeersDoNotSee) {
  const std::vector<RankGpus> hidden = {rank_with(0, {"a"}), rank_with(0, {"b"})};
  EXPECT_THAT(hidden_peers_warning(hidden, assign_gpus(hidden, false)),
              HasSubstr("rank 0 on node0 does not see the GPU of rank 1"));
  const std::vector<RankGpus> seen(2, rank_with(0, {"a", "b"}));
  EXPECT_THAT(hidden_peers_warning(seen, assign_gpus(seen, false)), IsEmpty());
  const std::vector<RankGpus> apart = {rank_with(0, {"a"}), rank_with(1, {"b"})};
  EXPECT_THAT(hidden_peers_warning(apart, assign_gpus(apart, false)), IsEmpty());
}

TEST(CpuList, ReadsWhatTheKernelWrites) {
  EXPECT_THAT(parse_cpu_list("0-3,8\n"), ElementsAre(0, 1, 2, 3, 8));
  EXPECT_THAT(parse_cpu_list("5"), ElementsAre(5));
  for (const char* bad : {"", "\n", "a", "3-1", "1-", "-1", "1,,2", "0-99999999999"})
    EXPECT_THAT(parse_cpu_list(bad), IsEmpty()) << bad;
}

TEST(CpuList, FindsTheCpusNextToAPciDevice) {
  const test::TempDir dir;
  const std::string device = dir.path() + "/bus/pci/devices/0000:3b:00.0";
  std::filesystem::create_directories(device);
  std::ofstream(device + "/local_cpulist") << "2-3\n";
  EXPECT_THAT(cpus_near_pci("0000:3B:00.0", dir.path()), ElementsAre(2, 3));
  EXPECT_THAT(cpus_near_pci("0000:4B:00.0", dir.path()), IsEmpty());
  EXPECT_THAT(cpus_near_pci("", dir.path()), IsEmpty());
  EXPECT_THAT(cpus_near_pci("../devices/0000:3b:00.0", dir.path()), IsEmpty());
}

}  // namespace
}  // namespace lockstep
