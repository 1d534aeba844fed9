#include "watch/side_link.h"

#include <arpa/inet.h>
#include <atomic>
#include <ctime>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace lockstep {
namespace {

constexpr std::uint64_t token = 4711;

/// A process of another node, which answers until it is destroyed.
class Process {
 public:
  Process(std::uint64_t node, std::string answer, std::uint64_t its_token = token) {
    link.join(its_token, node, {}, [answer] { return answer; });
    thread_ = std::thread([this] {
      while (!stop_) link.pump(10);
    });
  }
  ~Process() { end(); }
  void end() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  std::vector<SideLink::Endpoint> ways() const { return SideLink::parse(link.endpoints()); }
  SideLink link;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

/// Asks until there is an answer that is not `old`, for some seconds at most.
std::string ask(SideLink& link, double seconds = 10) {
  const std::int64_t before = link.heard(0).at_ns;
  for (int i = 0; i < static_cast<int>(seconds * 50) && link.heard(0).at_ns == before; ++i) {
    link.ask(0);
    link.pump(20);
  }
  return link.heard(0).at_ns == before ? "" : link.heard(0).answer;
}

TEST(SideLink, AnswersComeWhole) {
  const std::string big(3'000'000, 'x');
  Process other(7, big);
  ASSERT_FALSE(other.ways().empty());
  SideLink link;
  link.join(token, 6, {{7, {other.ways()}}}, [] { return std::string(); });
  EXPECT_EQ(ask(link), big);
  EXPECT_EQ(ask(link), big);
  EXPECT_FALSE(link.ended());
  EXPECT_FALSE(other.link.ended());
}

TEST(SideLink, WhoDoesNotAnswerIsPassedOver) {
  SideLink stopped;  // it listens, and nobody pumps it
  Process other(7, "here");
  SideLink link;
  link.join(token, 6, {{7, {SideLink::parse(stopped.endpoints()), {}, {{"192.0.2.1", 9}}, other.ways()}}},
            [] { return std::string(); });
  EXPECT_EQ(ask(link, 20), "here");
  EXPECT_GT(link.heard(0).host_ns, 0);
}

TEST(SideLink, AHostThatTakesConnectionsIsToldApartFromOneThatIsGone) {
  SideLink stopped;
  SideLink link;
  link.join(token, 6, {{7, {SideLink::parse(stopped.endpoints())}}, {8, {{{"127.0.0.1", 1}}}}},
            [] { return std::string(); });
  EXPECT_EQ(ask(link, 2), "");
  link.ask(1);
  link.pump(100);
  EXPECT_GT(link.heard(0).host_ns, 0);
  EXPECT_EQ(link.heard(1).host_ns, 0);
}

TEST(SideLink, WithoutRoomForAnotherOpenFileItWaitsAndAnswersLater) {
  SideLink other;
  other.join(token, 7, {}, [] { return std::string("later"); });
  SideLink link;
  link.join(token, 6, {{7, {SideLink::parse(other.endpoints())}}}, [] { return std::string(); });
  link.ask(0);
  link.pump(50);  // connected: the kernel of the other node has taken it
  rlimit files{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  const int probe = dup(0);
  ASSERT_GE(probe, 0);
  close(probe);
  const rlimit none{static_cast<rlim_t>(probe), files.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  timespec before{}, after{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  other.pump(400);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  EXPECT_LT(static_cast<double>(after.tv_sec - before.tv_sec) +
                static_cast<double>(after.tv_nsec - before.tv_nsec) * 1e-9,
            0.2)
      << "it has looked at the same connection all the time";
  for (int i = 0; i < 50 && link.heard(0).at_ns == 0; ++i) {
    other.pump(10);
    link.pump(10);
  }
  EXPECT_EQ(link.heard(0).answer, "later");
}

TEST(SideLink, StrangersGetNoAnswer) {
  Process other(7, "secret");
  SideLink wrong_token, wrong_node;
  wrong_token.join(token + 1, 6, {{7, {other.ways()}}}, [] { return std::string(); });
  EXPECT_EQ(ask(wrong_token, 1.5), "");
  wrong_token.tell_end(200);
  wrong_node.join(token, 6, {{8, {other.ways()}}}, [] { return std::string(); });
  EXPECT_EQ(ask(wrong_node, 1.5), "");
  // What is no question at all, and a connection that says nothing.
  for (const std::string& text :
       {std::string("GET / HTTP/1.0\r\n\r\n GET / HTTP/1.0\r\n\r\n"), std::string()}) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(other.ways().back().port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    EXPECT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
    close(fd);
  }
  SideLink friendly;
  friendly.join(token, 6, {{7, {other.ways()}}}, [] { return std::string(); });
  EXPECT_EQ(ask(friendly), "secret");
  other.end();
  EXPECT_FALSE(other.link.ended());
}

TEST(SideLink, TheEndIsToldToAllNodes) {
  Process one(7, "a"), two(8, "b");
  SideLink link;
  link.join(token, 6, {{7, {one.ways()}}, {8, {two.ways()}}, {9, {{{"127.0.0.1", 1}}}}},
            [] { return std::string(); });
  link.tell_end(3000);
  one.end();
  two.end();
  EXPECT_TRUE(one.link.ended());
  EXPECT_TRUE(two.link.ended());
}

TEST(SideLink, EndpointsThatMakeNoSenseAreLeftOut) {
  EXPECT_TRUE(SideLink::parse("").empty());
  EXPECT_TRUE(SideLink::parse("10.0.0.1 10.0.0.1:0 10.0.0.1:70000 10.0.0.1:x").empty());
  EXPECT_EQ(SideLink::parse("10.0.0.1:80 ").size(), 1u);
}

}  // namespace
}  // namespace lockstep
