#include "watch/node_file.h"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <sys/wait.h>
#include <unistd.h>

#include "watch/node_watch.h"
#include "watch/reaper.h"

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

std::map<std::string, std::string> mpirun(const std::string& local, const std::string& of) {
  return {{"OMPI_COMM_WORLD_RANK", local},
          {"OMPI_COMM_WORLD_SIZE", "3"},
          {"OMPI_COMM_WORLD_LOCAL_RANK", local},
          {"OMPI_COMM_WORLD_LOCAL_SIZE", of},
          {"PMIX_NAMESPACE", "812"},
          {"OMPI_MCA_orte_local_daemon_uri", "812.0;tcp://10.0.0.1:1"}};
}

TEST(NodePlace, OfMpirun) {
  const NodePlace place = node_place(table_of(mpirun("1", "3")));
  EXPECT_EQ(place.local_rank, 1);
  EXPECT_EQ(place.local_size, 3);
  EXPECT_THAT(place.ranks, ElementsAre(0, 1, 2));
  EXPECT_THAT(place.job, HasSubstr("812"));
  // Of three ranks two are here: which, nobody says.
  EXPECT_THAT(node_place(table_of(mpirun("1", "2"))).ranks, IsEmpty());
}

TEST(NodePlace, OfSrun) {
  std::map<std::string, std::string> v = {{"SLURM_STEP_NUM_TASKS", "7"},
                                          {"SLURM_PROCID", "6"},
                                          {"PMIX_RANK", "6"},
                                          {"SLURM_LOCALID", "0"},
                                          {"SLURM_NODEID", "3"},
                                          {"SLURM_JOB_ID", "44"},
                                          {"SLURM_STEP_ID", "0"},
                                          {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"}};
  NodePlace place = node_place(table_of(v));
  EXPECT_EQ(place.local_size, 1);
  v["SLURM_NODEID"] = "2";
  v["SLURM_GTIDS"] = "4,5";
  place = node_place(table_of(v));
  EXPECT_EQ(place.local_size, 2);
  EXPECT_THAT(place.ranks, ElementsAre(4, 5));
  for (const char* odd : {"", "x", "2(x", "2(x3", "2(3)", "-1", "0", "2(x3)"}) {
    v["SLURM_STEP_TASKS_PER_NODE"] = odd;
    v["SLURM_NODEID"] = "3";
    EXPECT_EQ(node_place(table_of(v)).job, "") << odd;
  }
}

TEST(NodePlace, OfNobody) {
  for (const auto& variables :
       {std::map<std::string, std::string>{}, mpirun("3", "3"), mpirun("-1", "3"), mpirun("0", "0")}) {
    const NodePlace place = node_place(table_of(variables));
    EXPECT_EQ(place.job, "");
    EXPECT_EQ(place.local_size, 1);
  }
}

NodePlace place_of(int local_rank, const std::string& job) {
  NodePlace place;
  place.job = job + std::to_string(getpid());
  place.local_rank = local_rank;
  place.local_size = 3;
  place.ranks = {0, 1, 2};
  return place;
}

/// Runs `body` in a process of its own, which holds its slot until the pipe given is closed.
class Child {
 public:
  explicit Child(const NodePlace& place) {
    int up[2], down[2];
    if (pipe(up) != 0 || pipe(down) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      close(up[0]);
      close(down[1]);
      {
        NodeFile file(place);
        FlightRecorder recorder(file.mine());
        recorder.set_step(7);
        recorder.begin(Activity::exchange, 64, 3);
        file.mine().rank = place.local_rank;
        char byte = file.shared() ? 's' : 'p';
        if (write(up[1], &byte, 1) != 1) _exit(1);
        while (read(down[0], &byte, 1) > 0) {
        }
      }
      _exit(0);
    }
    close(up[1]);
    close(down[0]);
    if (read(up[0], &said_, 1) != 1) said_ = 0;
    close(up[0]);
    hold_ = down[1];
  }
  ~Child() { end(); }
  char said() const { return said_; }
  pid_t pid() const { return pid_; }
  void end() {
    if (hold_ >= 0) close(hold_);
    hold_ = -1;
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  void kill_it() {
    kill(pid_, SIGKILL);
    end();
  }

 private:
  pid_t pid_ = -1;
  int hold_ = -1;
  char said_ = 0;
};

/// Whether the file of a job is there. Others come and go: the machine may run other jobs.
bool has_file(const NodePlace& place) {
  return std::filesystem::exists("/dev/shm/" + NodeFile::name_of(place));
}

TEST(NodeFile, ProcessesOfAJobSeeEachOtherAndTheLastOneCleansUp) {
  EXPECT_FALSE(has_file(place_of(0, "seen")));
  {
    NodeFile file(place_of(0, "seen"));
    ASSERT_TRUE(file.shared());
    EXPECT_TRUE(has_file(place_of(0, "seen")));
    Child other(place_of(2, "seen"));
    EXPECT_EQ(other.said(), 's');
    Child stranger(place_of(1, "another"));
    NodeWatch watch(file, place_of(0, "seen"));
    watch.look(1, 60);
    const auto views = watch.views(FlightRecorder::now());
    ASSERT_EQ(views.size(), 3u);
    EXPECT_EQ(views[0].presence, RankView::Presence::present);
    EXPECT_EQ(views[1].presence, RankView::Presence::absent);
    EXPECT_EQ(views[1].rank, 1);
    EXPECT_EQ(views[2].presence, RankView::Presence::present);
    EXPECT_EQ(views[2].pid, other.pid());
    EXPECT_EQ(describe(views[2].now), "bucket 3 of step 7");

    ASSERT_EQ(kill(other.pid(), SIGSTOP), 0);
    int status = 0;
    waitpid(other.pid(), &status, WUNTRACED);
    EXPECT_EQ(watch.views(2)[2].presence, RankView::Presence::stopped);
    EXPECT_EQ(describe(watch.views(2)[2].now), "bucket 3 of step 7")
        << "its recorder can be read all the same";
    ASSERT_EQ(kill(other.pid(), SIGCONT), 0);
    other.kill_it();
    EXPECT_EQ(watch.views(2)[2].presence, RankView::Presence::gone);
  }
  EXPECT_FALSE(has_file(place_of(0, "seen")));
}

TEST(NodeFile, WhoEndsInOrderHasLeft) {
  NodeFile file(place_of(0, "left"));
  Child other(place_of(2, "left"));
  other.end();
  NodeWatch watch(file, place_of(0, "left"));
  watch.look(1, 60);
  EXPECT_EQ(watch.views(2)[2].presence, RankView::Presence::left);
}

TEST(NodeFile, TheFileOfAKilledJobIsTakenForANewOneOrRemoved) {
  {
    Child killed(place_of(1, "killed"));
    EXPECT_TRUE(has_file(place_of(1, "killed")));
    killed.kill_it();
  }
  {
    // The same name again: nothing of the old life is left.
    NodeFile file(place_of(0, "killed"));
    EXPECT_TRUE(has_file(place_of(0, "killed")));
    EXPECT_EQ(file.slot(1).state.load(), RankState::absent);
  }
  EXPECT_FALSE(has_file(place_of(0, "killed")));
  {
    Child killed(place_of(1, "killed"));
    killed.kill_it();
    NodeFile another(place_of(0, "later"));
    EXPECT_TRUE(has_file(place_of(0, "later")));
    EXPECT_FALSE(has_file(place_of(0, "killed"))) << "the stale one is gone";
  }
  EXPECT_FALSE(has_file(place_of(0, "later")));
}

TEST(NodeFile, ASlotThatALivingProcessHoldsIsNotTakenAway) {
  NodeFile first(place_of(0, "twice"));
  Child second(place_of(0, "twice"));
  EXPECT_EQ(second.said(), 'p') << "it has memory of its own";
  EXPECT_EQ(first.mine().pid.load(), getpid());
}

TEST(NodeFile, WithoutAJobMemoryIsPrivate) {
  NodeFile file({});
  EXPECT_FALSE(file.shared());
  EXPECT_EQ(file.slots(), 1);
  EXPECT_FALSE(has_file({}));
}

TEST(Processes, AreFoundByTheirEnvironment) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("LOCKSTEP_TEST_MARK", std::to_string(getppid()).c_str(), 1);
    execlp("sleep", "sleep", "60", static_cast<char*>(nullptr));
    _exit(1);
  }
  const std::string mark = "LOCKSTEP_TEST_MARK=" + std::to_string(getpid());
  std::vector<FoundProcess> found;
  for (int i = 0; i < 200 && found.empty(); ++i) {
    usleep(20000);
    found = processes_with({mark});
  }
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].pid, child);
  EXPECT_EQ(found[0].command, "sleep 60");
  EXPECT_THAT(processes_with({mark, "NO_SUCH_VARIABLE=1"}), IsEmpty());

  // A reaper spares a process that only has the pid of its victim, and ends the victim.
  reap_later({{child, found[0].start_time + 1}}, 0);
  usleep(500000);
  EXPECT_FALSE(process_state(child).gone());
  reap_later({{child, found[0].start_time}}, 0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

}  // namespace
}  // namespace lockstep
