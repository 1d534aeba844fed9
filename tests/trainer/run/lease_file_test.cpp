// The text of a lease: written by one job, read by others, which must not trust it.

#include "trainer/run/lease_file.h"

#include <filesystem>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "data/test_support.h"

namespace lockstep::test {
namespace {

TEST(LeaseFile, IsJsonOfOneLengthAtEveryRenewal) {
  LeaseHolder holder = LeaseHolder::self();
  holder.run_id = "with \"quotes\" and \xff bytes\n";
  LeaseText lease(holder);
  const std::size_t size = lease.text().size();
  for (const std::uint64_t n : {std::uint64_t{0}, std::uint64_t{9}, std::uint64_t{10}, std::uint64_t{123456},
                                std::uint64_t{999'999'999'999}}) {
    const std::string before = lease.text();
    lease.renew(static_cast<double>(n) * 2, n);
    EXPECT_EQ(lease.text().size(), size);
    EXPECT_TRUE(lease.is_of(before));
    const nlohmann::json j = nlohmann::json::parse(lease.text());
    EXPECT_EQ(j["renewals"], n);
    const auto back = parse_lease(lease.text());
    ASSERT_TRUE(back);
    EXPECT_EQ(back->pid, ::getpid());
    EXPECT_EQ(back->start_time, holder.start_time);
    EXPECT_EQ(back->boot_id, holder.boot_id);
  }
  holder.start_time += 1;
  EXPECT_FALSE(lease.is_of(LeaseText(holder).text()));
  EXPECT_FALSE(lease.is_of(""));
}

TEST(LeaseFile, OfThisProcessIsNotGoneAndOfOthersOnlyWhereThatIsKnown) {
  const LeaseHolder self = LeaseHolder::self();
  EXPECT_FALSE(self.is_gone());
  LeaseHolder other = self;
  other.start_time += 1;
  EXPECT_TRUE(other.is_gone());
  other = self;
  other.boot_id = "another";
  EXPECT_TRUE(other.is_gone());
  other.host = "elsewhere";
  EXPECT_FALSE(other.is_gone());
  // Within another container of this machine a number is another process.
  other = self;
  other.pid_namespace = "pid:[1]";
  other.start_time += 1;
  EXPECT_FALSE(other.is_gone());
}

TEST(LeaseFile, StartsOfOneJobAreKnownByOneOfTheirIds) {
  LeaseHolder a, b;
  EXPECT_FALSE(a.is_start_of_same_job(b));
  a.run_id = b.run_id = "x";
  a.slurm_job = "/1";
  b.slurm_job = "/2";
  EXPECT_TRUE(a.is_start_of_same_job(b));
  a.run_id = "y";
  EXPECT_FALSE(a.is_start_of_same_job(b));
  b.slurm_job = "/1";
  EXPECT_TRUE(a.is_start_of_same_job(b));
}

TEST(LeaseFile, NonsenseIsNoLease) {
  const std::string good = LeaseText(LeaseHolder::self()).text();
  ASSERT_TRUE(parse_lease(good));
  for (std::size_t n = 0; n + 2 < good.size(); ++n) EXPECT_FALSE(parse_lease(good.substr(0, n))) << n;
  const auto with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json j = nlohmann::json::parse(good);
    j[key] = value;
    return j.dump();
  };
  EXPECT_FALSE(parse_lease(with("pid", 1e300)));
  EXPECT_FALSE(parse_lease(with("pid", 0)));
  EXPECT_FALSE(parse_lease(with("pid", -1)));
  EXPECT_FALSE(parse_lease(with("pid", 1.5)));
  EXPECT_FALSE(parse_lease(with("pid", std::uint64_t{1} << 40)));
  EXPECT_FALSE(parse_lease(with("host", 3)));
  EXPECT_FALSE(parse_lease(with("period", nullptr)));
  EXPECT_LE(parse_lease(with("period", 1e300))->period, 60);
  EXPECT_GE(parse_lease(with("period", -1))->period, 0.05);
}

TEST(LeaseFile, WhatCannotBeReadHasWordsThatChangeWithIt) {
  const TempDir folder;
  const std::string path = folder / "lease.json";
  EXPECT_EQ(read_lease(path), "");
  put_file(path, "abc");
  EXPECT_EQ(read_lease(path), "abc");
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  const std::string words = read_lease(path);
  EXPECT_NE(words, "");
  EXPECT_EQ(read_lease(path), words);
  put_file(path + "/x", "");
  EXPECT_NE(read_lease(path), words);
}

}  // namespace
}  // namespace lockstep::test
