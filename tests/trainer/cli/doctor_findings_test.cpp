#include "trainer/cli/doctor_findings.h"

#include <gmock/gmock.h>

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// Ranks on hosts, each with all of four cpus and equal reports.
struct Cluster {
  World world;
  std::vector<RankReport> reports;
  explicit Cluster(const std::vector<std::string>& hosts) {
    for (const std::string& host : hosts) {
      world.ranks.push_back({host, 100, "cpu", "", 1, {0, 1, 2, 3}});
      RankReport report;
      report.same = {{"program", std::string(64, 'a')}, {"version", "1"}};
      report.shared_memory_free = std::uint64_t{1} << 33;
      reports.push_back(report);
    }
  }
};

TEST(DoctorFindings, EqualRanksHaveNone) {
  const Cluster c({"n1", "n1", "n2", "n2"});
  EXPECT_TRUE(findings_on_equality(c.world, c.reports).empty());
  EXPECT_TRUE(findings_on_cpus(c.world, c.reports).empty());
  EXPECT_TRUE(findings_on_shared_memory(c.world, c.reports).empty());
  EXPECT_TRUE(findings_on_clocks(c.world, std::vector<ClockProbe>(4)).empty());
  EXPECT_TRUE(findings_on_pairs(c.world, {}).empty());
}

TEST(DoctorFindings, TheOddOneOutIsNamedLast) {
  Cluster c({"n1", "n1", "n2", "n2"});
  c.reports[0].same["program"] = std::string(64, 'b');
  const auto found = findings_on_equality(c.world, c.reports);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_TRUE(found[0].wrong);
  EXPECT_EQ(found[0].text.find("ranks 1-3 on n1, n2: aaaaaaaaaaaa…; rank 0 on n1: bbbbbbbbbbbb…"),
            std::string("the ranks differ in program: ").size())
      << found[0].text;
  // What one rank lacks, such as a library, is a difference too.
  c.reports[3].same["library file libdnnl.so.2"] = "x";
  EXPECT_EQ(findings_on_equality(c.world, c.reports).size(), 2u);
}

TEST(DoctorFindings, RanksOfOneHostOnOneCpu) {
  Cluster c({"n1", "n1", "n2", "n2", "n2"});
  c.world.ranks[1].cpus = {2};
  c.world.ranks[2].cpus = {2};  // another host's
  EXPECT_TRUE(findings_on_cpus(c.world, c.reports).empty());
  c.world.ranks[4].cpus = {2};
  c.reports[3].lane_warning = "too many lanes";
  const auto found = findings_on_cpus(c.world, c.reports);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_THAT(found[0].text, HasSubstr("ranks 2,4 on n2 are all bound to cpu 2"));
  EXPECT_EQ(found[1].text, "too many lanes");
  EXPECT_FALSE(found[0].wrong || found[1].wrong);
}

TEST(DoctorFindings, SharedMemoryIsLookedAtByHost) {
  Cluster c({"n1", "n1", "n2", "n3", "n3"});
  c.reports[2].shared_memory_free = 10;  // a rank alone needs none
  EXPECT_TRUE(findings_on_shared_memory(c.world, c.reports).empty());
  c.reports[3].shared_memory_free = c.reports[4].shared_memory_free = 64'000'000;
  const auto found = findings_on_shared_memory(c.world, c.reports);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_THAT(found[0].text,
              AllOf(HasSubstr("on n3"), HasSubstr("64.0 MB"), HasSubstr("4000000 parameters")));
}

TEST(DoctorFindings, AClockIsWrongWhenItSurelyIs) {
  const Cluster c({"n1", "n2", "n3", "n3"});
  EXPECT_TRUE(findings_on_clocks(c.world, {{}, {0.09, 1e-5}, {1.0, 0.95}, {-0.1, 0}}).empty());
  const auto found = findings_on_clocks(c.world, {{}, {3600, 1e-5}, {-0.2, 0.01}, {-0.2, 0.01}});
  ASSERT_EQ(found.size(), 2u) << "of a host once";
  EXPECT_THAT(found[0].text,
              AllOf(HasSubstr("rank 1 on n2 is 3600.000 s ahead of"), HasSubstr("rank 0 on n1")));
  EXPECT_THAT(found[1].text, HasSubstr("rank 2 on n3 is 0.200 s behind"));
}

TEST(DoctorFindings, APairThatIsFarSlowerThanItsKind) {
  const Cluster c({"n1", "n1", "n1", "n2", "n2"});
  std::vector<PairProbe> pairs;
  for (int a = 0; a < 5; ++a)
    for (int b = a + 1; b < 5; ++b) pairs.push_back({a, b, 1e-6, a < 3 && b >= 3 ? 1e8 : 1e10});
  EXPECT_TRUE(findings_on_pairs(c.world, pairs).empty()) << "between hosts it is slower, all alike";
  for (PairProbe& p : pairs)
    if (p.a == 1 && p.b == 4) p.bytes_per_second = 5e6;
  const auto found = findings_on_pairs(c.world, pairs);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_THAT(found[0].text,
              AllOf(HasSubstr("rank 1 on n1 and rank 4 on n2"), HasSubstr("5.0 MB"), HasSubstr("100.0 MB")));
}

TEST(DoctorFindings, AReportSurvivesTheWay) {
  RankReport report;
  report.same = {{"a", "1"}, {"b", "with \"quotes\" and \xff no UTF-8"}};
  report.shared_memory_free = std::uint64_t{1} << 60;
  report.lane_warning = "w";
  report.processor = "p";
  report.device_lines = {"x", "y"};
  report.device_findings = {{true, "hot"}, {false, "warm"}};
  const RankReport back = report_from(to_wire(report));
  EXPECT_EQ(back.same, report.same);
  EXPECT_EQ(back.shared_memory_free, report.shared_memory_free);
  EXPECT_EQ(back.lane_warning + back.processor, "wp");
  EXPECT_EQ(back.device_lines, report.device_lines);
  ASSERT_EQ(back.device_findings.size(), 2u);
  EXPECT_TRUE(back.device_findings[0].wrong);
  EXPECT_EQ(back.device_findings[1].text, "warm");
}

}  // namespace
}  // namespace lockstep
