#include "comm/world.h"

#include <arpa/inet.h>
#include <atomic>
#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "comm/threads/thread_communicator.h"
#include "core/error.h"

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Environment table_of(std::map<std::string, std::string> variables) {
  return [variables = std::move(variables)](const char* name) -> const char* {
    const auto it = variables.find(name);
    return it == variables.end() ? nullptr : it->second.c_str();
  };
}

std::string refusal(int world_size, const Environment& environment) {
  try {
    refuse_doubtful_launch(world_size, environment);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

/// A port of this machine at which somebody listens while this object lives.
class Server {
 public:
  Server() : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(fd_, reinterpret_cast<const sockaddr*>(&address), size) != 0 || ::listen(fd_, 1) != 0 ||
        ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
      ADD_FAILURE() << "no port";
    uri_ = "1234.0;tcp4://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  }
  ~Server() { stop(); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  void stop() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  /// As PMIx writes it.
  const std::string& uri() const { return uri_; }

 private:
  int fd_;
  std::string uri_;
};

// The variables are those that Open MPI 4.1 and Slurm 22.05 were seen to set.
TEST(Launch, BareProgramsAndBatchScriptsAreOneRank) {
  EXPECT_FALSE(launcher_identity(table_of({})).has_value());
  const Environment batch = table_of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}, {"SLURM_JOB_ID", "3"}});
  EXPECT_FALSE(launcher_identity(batch).has_value());
  EXPECT_EQ(refusal(0, batch), "");
  EXPECT_EQ(refusal(1, batch), "");
}

TEST(Launch, MpirunInsideASlurmStepIsMpirun) {
  const Server server;
  const Environment e = table_of({{"OMPI_COMM_WORLD_RANK", "3"},
                                  {"OMPI_COMM_WORLD_SIZE", "4"},
                                  {"PMIX_RANK", "3"},
                                  {"PMIX_SERVER_URI2", server.uri()},
                                  {"SLURM_STEP_NUM_TASKS", "2"},
                                  {"SLURM_PROCID", "1"}});
  const auto launcher = launcher_identity(e);
  ASSERT_TRUE(launcher.has_value());
  EXPECT_EQ(launcher->launcher, "mpirun");
  EXPECT_EQ(launcher->rank, 3);
  EXPECT_EQ(launcher->size, 4);
  EXPECT_EQ(refusal(0, e), "");
  EXPECT_EQ(refusal(4, e), "");
  EXPECT_EQ(refusal(1, table_of({{"OMPI_COMM_WORLD_RANK", "0"},
                                 {"OMPI_COMM_WORLD_SIZE", "1"},
                                 {"SLURM_STEP_NUM_TASKS", "2"}})),
            "");
}

TEST(Launch, AStepOfSeveralTasksWithoutMpiIsRefusedBeforeMpiStartsInEveryTask) {
  for (const char* rank : {"0", "1"}) {
    const Environment step =
        table_of({{"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", rank}});
    EXPECT_THAT(refusal(0, step), HasSubstr("srun started 2 tasks"));
    EXPECT_THAT(refusal(0, step), HasSubstr("--mpi=pmix"));
  }
  // No batch script is task 1.
  EXPECT_THAT(refusal(0, table_of({{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}})),
              HasSubstr("SLURM_PROCID"));
  EXPECT_EQ(refusal(0, table_of({{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}})), "");
}

TEST(Launch, ALauncherOfSeveralRanksAndAWorldOfOneIsRefused) {
  const Server server;
  const Environment srun = table_of({{"SLURM_STEP_NUM_TASKS", "2"},
                                     {"SLURM_PROCID", "0"},
                                     {"PMIX_RANK", "0"},
                                     {"PMIX_SERVER_URI41", server.uri()}});
  EXPECT_EQ(refusal(0, srun), "");
  EXPECT_EQ(refusal(2, srun), "");
  EXPECT_THAT(refusal(1, srun), HasSubstr("2 tasks"));
  EXPECT_THAT(refusal(1, table_of({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}})),
              HasSubstr("mpirun announces 4 tasks"));
  EXPECT_THAT(refusal(1, table_of({{"PMI_RANK", "0"}, {"PMI_SIZE", "3"}})), HasSubstr("3 tasks"));
  EXPECT_THAT(refusal(1, table_of({{"PMIX_RANK", "1"}})), HasSubstr("several tasks"));
}

TEST(Launch, ARankWithoutAServerThatListensIsRefusedBeforeMpiStarts) {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"})
    for (const char* rank : {"0", "1", "x", "-1", "99999999999999999999"}) {
      SCOPED_TRACE(std::string(variable) + "=" + rank);
      std::map<std::string, std::string> variables = {{variable, rank}};
      EXPECT_THAT(refusal(0, table_of(variables)), HasSubstr(std::string(variable) + " is " + rank));
      Server server;
      variables["PMIX_SERVER_URI4"] = server.uri();
      EXPECT_EQ(refusal(0, table_of(variables)), "");
      server.stop();  // its job has ended, and the variables are still there
      EXPECT_THAT(refusal(0, table_of(variables)), HasSubstr("is not there"));
    }
  EXPECT_THAT(refusal(0, table_of({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}})),
              HasSubstr("unset OMPI_COMM_WORLD_RANK"));
  EXPECT_EQ(refusal(0, table_of({{"PMIX_RANK", ""}})), "");
}

TEST(Launch, AllLeftoversAreNamedAtOnceAndTheAddressOfADeadMpirunIsOne) {
  const std::map<std::string, std::string> left = {{"OMPI_COMM_WORLD_RANK", "0"},
                                                   {"OMPI_COMM_WORLD_SIZE", "1"},
                                                   {"OMPI_MCA_ess_base_vpid", "0"},
                                                   {"OMPI_MCA_orte_hnp_uri", "1"},
                                                   {"PMIX_RANK", "0"}};
  for (const auto& [name, value] : left) ::setenv(name.c_str(), value.c_str(), 1);
  const std::string all = refusal(0, table_of(left));
  const std::string single = refusal(0, table_of({{"OMPI_MCA_orte_hnp_uri", "1"}}));
  for (const auto& [name, value] : left) ::unsetenv(name.c_str());
  for (const auto& [name, value] : left) EXPECT_THAT(all, HasSubstr("-u " + name));
  EXPECT_THAT(single, HasSubstr("unset OMPI_MCA_orte_hnp_uri"));
  Server server;
  EXPECT_EQ(refusal(0, table_of({{"OMPI_MCA_orte_hnp_uri", server.uri()}})), "");
  server.stop();
  EXPECT_THAT(refusal(0, table_of({{"OMPI_MCA_orte_local_daemon_uri", server.uri()}})),
              HasSubstr("is not there"));
}

TEST(Launch, OnlyABareProcessIsStartedWithoutADaemonAndTheUsersWordWins) {
  const char* isolated = "OMPI_MCA_ess_singleton_isolated";
  ::unsetenv(isolated);
  start_without_daemon(table_of({{"OMPI_COMM_WORLD_RANK", "0"}}));
  EXPECT_EQ(::getenv(isolated), nullptr);
  start_without_daemon(table_of({}));
  EXPECT_STREQ(::getenv(isolated), "1");
  ::setenv(isolated, "0", 1);
  start_without_daemon(table_of({}));
  EXPECT_STREQ(::getenv(isolated), "0");
  ::unsetenv(isolated);
}

TEST(World, TableNamesEveryRankOnce) {
  run_ranks(3, {2, 1}, [](Communicator& comm) {
    RankDescription mine;
    mine.host = comm.rank() < 2 ? "node1" : "a-longer-name";
    mine.pid = 100 + comm.rank();
    mine.device = "cpu";
    mine.lanes = comm.rank() + 1;
    mine.cpus = comm.rank() == 0 ? std::vector<int>{0, 1, 2, 5} : std::vector<int>{7};
    const World world = gather_world(comm, mine);
    EXPECT_EQ(world.table(),
              "rank  host           pid  device  lanes  cpus\n"
              "0     node1          100  cpu     1      0-2,5\n"
              "1     node1          101  cpu     2      7\n"
              "2     a-longer-name  102  cpu     3      7");
  });
}

TEST(World, TwoRanksOnOneDeviceAreRefused) {
  std::atomic<int> spoken{0};
  run_ranks(4, {2, 2}, [&](Communicator& comm) {
    RankDescription mine;
    mine.host = comm.rank() < 2 ? "n1" : "n2";
    mine.device = "some GPU";
    mine.exclusive_device = comm.rank() == 0 ? "" : comm.rank() == 1 ? "GPU-a" : "GPU-b";
    try {
      gather_world(comm, mine);
      ADD_FAILURE() << "not refused";
    } catch (const ConfigError& e) {
      ++spoken;
      EXPECT_THAT(e.what(), HasSubstr("ranks 2 and 3 on n2"));
    } catch (const SilentError&) {
      EXPECT_NE(comm.rank(), 0);
    }
    // The same name on another host is another device.
    mine.exclusive_device = comm.rank() % 2 == 0 ? "GPU-a" : "GPU-b";
    EXPECT_EQ(gather_world(comm, mine).ranks.size(), 4u);
  });
  EXPECT_EQ(spoken, 1);
}

TEST(World, DifferentNumericsAreRefusedAndNamed) {
  std::atomic<int> spoken{0};
  run_ranks(3, {}, [&](Communicator& comm) {
    EXPECT_EQ(check_equal_fingerprints(comm, "isa avx512\nl2 1024\n", false), "");
    const std::string mine = comm.rank() == 2 ? "isa avx512\nl2 2048\n" : "isa avx512\nl2 1024\n";
    try {
      check_equal_fingerprints(comm, mine, false);
      ADD_FAILURE() << "not refused";
    } catch (const ConfigError& e) {
      ++spoken;
      EXPECT_THAT(e.what(), HasSubstr("rank 2 on "));
      EXPECT_THAT(e.what(), HasSubstr("line 2"));
      EXPECT_THAT(e.what(), HasSubstr("\"l2 2048\" instead of \"l2 1024\""));
      EXPECT_THAT(e.what(), HasSubstr("--allow-numeric-change"));
    } catch (const SilentError& e) {
      EXPECT_EQ(e.code(), ExitCode::input);
    }
    EXPECT_THAT(check_equal_fingerprints(comm, mine, true), HasSubstr("rank 2 on "));
    EXPECT_THAT(check_equal_fingerprints(comm, comm.rank() == 1 ? "a\nb" : "a", true),
                HasSubstr("(nothing)"));
  });
  EXPECT_EQ(spoken, 1);
}

TEST(Lanes, OneMaskIsDividedByRank) {
  const std::vector<int> four = {0, 1, 2, 3};
  const std::vector<RankCpus> two = {{"n", four, 0}, {"n", four, 0}};
  EXPECT_EQ(plan_lanes(two, 0).lanes, 2);
  EXPECT_THAT(plan_lanes(two, 0).cpus, ElementsAre(0, 1));
  EXPECT_THAT(plan_lanes(two, 1).cpus, ElementsAre(2, 3));
  const std::vector<RankCpus> alone = {{"n", {4, 6, 9}, 0}};
  EXPECT_THAT(plan_lanes(alone, 0).cpus, ElementsAre(4, 6, 9));
  // Fewer lanes than cpus, and another host with the same cpus.
  const std::vector<RankCpus> few = {{"n", four, 1}, {"m", four, 0}, {"n", four, 2}};
  EXPECT_THAT(plan_lanes(few, 0).cpus, ElementsAre(0));
  EXPECT_THAT(plan_lanes(few, 1).cpus, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(plan_lanes(few, 2).cpus, ElementsAre(1, 2));
}

TEST(Lanes, MasksOfTheirOwnAreUsedWhole) {
  const std::vector<RankCpus> bound = {{"n", {0}, 0}, {"n", {1}, 0}};
  EXPECT_EQ(plan_lanes(bound, 1).lanes, 1);
  EXPECT_THAT(plan_lanes(bound, 1).cpus, ElementsAre(1));
  EXPECT_EQ(plan_lanes(bound, 1).warning, "");
}

TEST(Lanes, MasksThatOverlapOtherwiseAreNotPinned) {
  const std::vector<RankCpus> odd = {{"n", {0, 1, 2}, 0}, {"n", {2, 3}, 0}};
  EXPECT_EQ(plan_lanes(odd, 0).lanes, 1);
  EXPECT_EQ(plan_lanes(odd, 1).lanes, 1);
  EXPECT_THAT(plan_lanes(odd, 0).cpus, IsEmpty());
}

TEST(Lanes, MoreLanesThanCpusAreWarnedOf) {
  const std::vector<RankCpus> bound = {{"n", {3}, 2}};
  EXPECT_EQ(plan_lanes(bound, 0).lanes, 2);
  EXPECT_THAT(plan_lanes(bound, 0).cpus, IsEmpty());
  EXPECT_THAT(plan_lanes(bound, 0).warning, HasSubstr("2 lanes but may use 1 cpu (3)"));
  const std::vector<RankCpus> crowd = {{"n", {0, 1}, 0}, {"n", {0, 1}, 0}, {"n", {0, 1}, 0}};
  EXPECT_EQ(plan_lanes(crowd, 2).lanes, 1);
  EXPECT_THAT(plan_lanes(crowd, 2).cpus, IsEmpty());
  EXPECT_THAT(plan_lanes(crowd, 2).warning, HasSubstr("3 lanes together but may use 2 cpus (0-1)"));
}

TEST(Lanes, ThisMachinesRanksAgree) {
  run_ranks(2, {}, [](Communicator& comm) {
    const LanePlan plan = lanes_for_rank(comm, 0);
    EXPECT_GE(plan.lanes, 1);
    EXPECT_TRUE(plan.cpus.empty() || plan.cpus.size() == static_cast<std::size_t>(plan.lanes));
    EXPECT_EQ(lanes_for_rank(comm, 3).lanes, 3);
  });
}

}  // namespace
}  // namespace lockstep
