// Tests on real MPI ranks: `mpirun -n N comm_mpi_tests`. Every rank runs every test in the same order; what
// is wrong on any rank is known to all, so all agree on the verdict, and rank 0 alone prints.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <functional>
#include <gtest/gtest.h>
#include <new>

#include "comm/collective_check.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/mpi/mpi_handles.h"
#include "comm/mpi/node_gather.h"
#include "comm/sync/step_control.h"
#include "comm/sync_check.h"
#include "core/error.h"

namespace {

std::atomic<long> allocations{0};

}  // namespace

// Counted, so that a test can show that a steady step takes no memory. Never inlined: GCC would see free() of
// what comes from new, and warn.
[[gnu::noinline]] void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(size == 0 ? 1 : size)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}

namespace lockstep {
namespace {

MpiEnvironment* environment = nullptr;

bool messages_only() {
  return std::getenv("LOCKSTEP_NO_SHARED_MEMORY") != nullptr;
}

/// What is wrong on any rank, on every rank. A rank that throws ends all, since the others wait for it.
std::string on_all(Communicator& comm, const std::function<std::string(Communicator&)>& check) {
  std::string mine;
  try {
    mine = check(comm);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d: %s\n", comm.rank(), e.what());
    comm.abort(1);
  }
  std::string all;
  const std::vector<std::string> texts = comm.all_gather_text(mine);
  for (std::size_t r = 0; r < texts.size(); ++r) {
    if (!texts[r].empty()) all += fmt::format("rank {}: {}\n", r, texts[r]);
  }
  return all;
}

/// Nodes as groups, every rank a group, two ranks a group.
std::vector<std::unique_ptr<Communicator>> communicators() {
  std::vector<std::unique_ptr<Communicator>> list;
  list.push_back(make_world_communicator(*environment, 1 << 20, nullptr));
  list.push_back(make_mpi_communicator(*environment, {.shared_memory = false}));
  if (environment->world_size() > 2 && !messages_only()) {
    list.push_back(make_mpi_communicator(*environment, {.ranks_per_group = 2}));
  }
  return list;
}

TEST(Mpi, GroupsAreNodesUnlessSharedMemoryIsOff) {
  const auto comm = make_world_communicator(*environment, 1 << 20, nullptr);
  EXPECT_EQ(comm->size(), environment->world_size());
  EXPECT_EQ(comm->topology().groups(), messages_only() ? comm->size() : 1);
  if (const char* ranks = std::getenv("LOCKSTEP_TEST_RANKS")) {
    EXPECT_EQ(comm->size(), std::atoi(ranks)) << "mpirun did not start as many ranks as the test asked for";
  }
}

TEST(Mpi, Collectives) {
  for (const auto& comm : communicators()) {
    EXPECT_EQ(on_all(*comm, test::check_collectives), "");
    EXPECT_EQ(on_all(*comm, test::check_agree_on_error), "");
  }
}

TEST(Mpi, WordsReachEveryRankWithTheStep) {
  for (const auto& comm : communicators()) EXPECT_EQ(on_all(*comm, test::check_step_control), "");
}

TEST(Mpi, ASteadyWordAllocatesNothing) {
  for (const auto& comm : communicators()) {
    StepControl control(*comm);
    long steady = 0;
    for (int step = 0; step < 40; ++step) {
      const long before = allocations.load();
      control.post(1);
      control.collect();
      if (step >= 10) steady += allocations.load() - before;
    }
    EXPECT_EQ(on_all(*comm,
                     [&](Communicator&) { return steady == 0 ? "" : fmt::format("{} allocations", steady); }),
              "");
  }
}

TEST(Mpi, OrderedSumHasTheBitsOfTheDirectTree) {
  for (const auto& comm : communicators()) {
    int number = 0;
    for (const std::int64_t slices : {std::int64_t{comm->size()}, std::int64_t{7}, std::int64_t{12}}) {
      for (const std::int64_t bucket : {0, 8192}) {
        for (const bool sharded : {false, true}) {
          test::SyncCase c;
          c.elements = 25007;
          c.slices = slices;
          c.bucket_elements = bucket;
          c.sharded = sharded;
          c.overlap = number++ % 3 != 1;
          c.lanes = 1 + number % 2;
          c.steps = 2;
          SCOPED_TRACE(c.text() + fmt::format(" groups {}", comm->topology().groups()));
          EXPECT_EQ(on_all(*comm, [&](Communicator& cm) { return test::check_sync(cm, c); }), "");
        }
      }
    }
  }
}

TEST(Mpi, MessagesTooLongToBeEager) {
  for (const auto& comm : communicators()) {
    test::SyncCase c;
    c.elements = 300001;
    c.slices = comm->size();
    c.steps = 2;
    c.bucket_elements = 150000;
    EXPECT_EQ(on_all(*comm, [&](Communicator& cm) { return test::check_sync(cm, c); }), "");
  }
}

TEST(Mpi, FastAgreesWithinATolerance) {
  for (const auto& comm : communicators()) {
    for (const bool sharded : {false, true}) {
      test::SyncCase c;
      c.slices = 7;
      c.reduction = Reduction::fast;
      c.bucket_elements = 4096;
      c.sharded = sharded;
      EXPECT_EQ(on_all(*comm, [&](Communicator& cm) { return test::check_sync(cm, c); }), "");
    }
  }
}

TEST(Mpi, AWrongSignOnOneRankIsSeenByAll) {
  const auto comm = make_world_communicator(*environment, 1 << 20, nullptr);
  test::SyncCase c;
  c.slices = 8;
  c.flip = 7;
  c.flip_at = test::loudest_element(c, c.flip);
  const std::string wrong = on_all(*comm, [&](Communicator& cm) { return test::check_sync(cm, c); });
  for (int r = 0; r < comm->size(); ++r) {
    EXPECT_NE(wrong.find(fmt::format("rank {}: step 1: total {} is", r, c.flip_at)), std::string::npos)
        << wrong;
  }
}

TEST(Mpi, ASteadyStepAllocatesNothing) {
  for (const auto& comm : communicators()) {
    for (const bool sharded : {false, true}) {
      GradientSyncOptions options;
      options.sharded = sharded;
      options.slices = 5;
      options.finite_marks = true;
      options.bucket_elements = 8192;
      Timeline timeline(100000);
      const auto sync = GradientSync::create(*comm, 50000, options, &timeline);
      long steady = 0;
      for (int step = 0; step < 6; ++step) {
        const long before = allocations.load();
        sync->begin_step(step);
        for (std::int64_t at = 0; at < 50000; at += 1000) {
          sync->ready({at, at + 1000});
          sync->progress();
        }
        sync->finish();
        sync->publish_parameters();
        sync->gather_parameters(0, 1);
        if (step >= 2) steady += allocations.load() - before;
      }
      EXPECT_EQ(
          on_all(*comm,
                 [&](Communicator&) { return steady == 0 ? "" : fmt::format("{} allocations", steady); }),
          "");
    }
  }
}

TEST(Mpi, TooLittleSharedMemoryFallsBackWithOneWarning) {
  if (messages_only()) return;  // there is nothing to fall back from
  ::setenv("LOCKSTEP_SHM_LIMIT_BYTES", "65536", 1);
  std::string warning;
  std::int32_t warnings = 0;
  const auto comm = make_world_communicator(*environment, 1 << 20, [&](const std::string& text) {
    warning = text;
    ++warnings;
  });
  ::unsetenv("LOCKSTEP_SHM_LIMIT_BYTES");
  std::vector<std::int32_t> all(static_cast<std::size_t>(comm->size()));
  comm->all_gather(std::as_bytes(std::span(&warnings, 1)), std::as_writable_bytes(std::span(all)));
  const bool alone = comm->size() == 1;  // one rank needs no shared memory
  for (std::size_t r = 0; r < all.size(); ++r) EXPECT_EQ(all[r], r == 0 && !alone ? 1 : 0);
  EXPECT_EQ(comm->topology().groups(), comm->size());
  if (comm->rank() == 0 && !alone) {
    EXPECT_NE(warning.find("65536 bytes free"), std::string::npos) << warning;
    const std::size_t each = (1 << 20) + 4096 + NodeGather::region_bytes + 4096;
    const std::size_t needed = static_cast<std::size_t>(comm->size()) * each;
    EXPECT_NE(warning.find(std::to_string(needed)), std::string::npos) << warning;
  }
  test::SyncCase c;
  c.slices = 7;
  EXPECT_EQ(on_all(*comm, [&](Communicator& cm) { return test::check_sync(cm, c); }), "");
}

TEST(Mpi, NeededBytesAreWhatTheExchangeTakes) {
  const auto comm = make_world_communicator(*environment, 1 << 20, nullptr);
  GradientSyncOptions options;
  options.slices = 12;
  options.bucket_elements = 4096;
  const std::size_t bytes = gradient_sync_shared_bytes(100000, options, comm->size());
  // Parameters and the slots of the rank with most subtrees, and not more than a tenth above that.
  const auto slots =
      static_cast<std::size_t>(GradientSync::create(*comm, 100000, options)->traffic().subtrees);
  EXPECT_GE(bytes, (slots + 1) * 400000);
  EXPECT_LE(bytes, (slots + 1) * 400000 * 11 / 10);
}

TEST(Mpi, ErrorsNameTheCallTheRankAndTheHost) {
  const auto comm = make_world_communicator(*environment, 1 << 20, nullptr);
  std::byte data[4] = {};
  try {
    comm->send(data, comm->size() + 7, 0);
    ADD_FAILURE() << "a message to a rank that does not exist was sent";
  } catch (const CommError& e) {
    EXPECT_NE(std::string(e.what()).find("MPI_Isend"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("MPI_ERR_RANK"), std::string::npos) << e.what();
  }
}

TEST(Mpi, CountsPastTwoGigabytes) {
  for (const std::size_t n :
       {std::size_t{0}, std::size_t{2147483647}, std::size_t{2147483648}, std::size_t{10000000019}}) {
    const mpi::Bytes bytes(n);
    MPI_Count size = 0;
    ASSERT_EQ(MPI_Type_size_x(bytes.type(), &size), MPI_SUCCESS);
    EXPECT_EQ(static_cast<std::size_t>(size) * static_cast<std::size_t>(bytes.count()), n);
    MPI_Count begin = 0;
    MPI_Count extent = 0;
    ASSERT_EQ(MPI_Type_get_extent_x(bytes.type(), &begin, &extent), MPI_SUCCESS);
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(extent, size);
  }
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::MpiEnvironment mpi(&argc, &argv);
  lockstep::environment = &mpi;
  testing::InitGoogleTest(&argc, argv);
  if (mpi.world_rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  const int mine = RUN_ALL_TESTS();
  const auto comm = lockstep::make_mpi_communicator(mpi);
  const lockstep::Verdict verdict = lockstep::agree(*comm, mine);
  if (comm->rank() == 0 && verdict.code != 0)
    std::printf("the tests failed on rank %d first\n", verdict.lowest_failed);
  return verdict.code;
}
