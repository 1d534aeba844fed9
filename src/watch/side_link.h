#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"

namespace lockstep {

/// The watchdogs' own way between nodes: short TCP connections, each a question and its answer, so that a
/// process that is stopped, or a host that is gone, leaves nothing half done. Every process listens; who asks
/// tries the processes of the other node one after the other until one answers. One thread calls; nothing
/// blocks but pump(), for as long as it is told. Failures of the network are answers that do not come.
class SideLink {
 public:
  struct Endpoint {
    std::string address;  ///< numeric, IPv4
    std::uint16_t port = 0;
  };
  /// Another node: its id, and the ways to each of its processes.
  struct Node {
    std::uint64_t id = 0;
    std::vector<std::vector<Endpoint>> processes;
  };

  /// Listens on a free port of all interfaces.
  SideLink();
  ~SideLink();
  SideLink(const SideLink&) = delete;
  SideLink& operator=(const SideLink&) = delete;

  /// The ways to this process, "10.0.0.1:4711 …", the machine's own loopback last; empty where it cannot
  /// listen.
  std::string endpoints() const;
  static std::vector<Endpoint> parse(const std::string& text);

  /// `token`: known to the processes of this job only; questions without it are not answered. `self`: the id
  /// of this node. `answer`: makes what another node is told.
  void join(std::uint64_t token, std::uint64_t self, std::vector<Node> others,
            std::function<std::string()> answer);
  bool joined() const { return token_ != 0; }
  std::size_t nodes() const { return others_.size(); }

  /// Asks a node, unless a question to it is under way.
  void ask(std::size_t node);
  /// Moves connections on for up to so many milliseconds, or until `other_fd` can be read.
  void pump(int milliseconds, int other_fd = -1);
  /// Tells every node that the job ends, as far as that can be done in so many milliseconds.
  void tell_end(int milliseconds);
  /// Another node has told so.
  bool ended() const { return ended_; }

  struct Heard {
    std::string answer;        ///< the last one
    std::int64_t at_ns = 0;    ///< when it came; 0: never
    std::int64_t host_ns = 0;  ///< when its host last took a connection; 0: never
  };
  const Heard& heard(std::size_t node) const { return others_[node].heard; }

 private:
  enum class Question : std::uint32_t { status = 1, end = 2 };
  struct Request {
    std::uint64_t magic;
    std::uint64_t token;
    std::uint64_t node;
    std::uint64_t question;
  };
  struct Asking {
    FileDescriptor fd;
    bool connected = false;
    std::int64_t since_ns = 0;
    std::size_t sent = 0;
    std::string received;
    Question question = Question::status;
  };
  struct Other {
    Node node;
    std::size_t process = 0;  ///< whom to ask next
    std::size_t endpoint = 0;
    Asking asking;
    Heard heard;
  };
  struct Asked {
    FileDescriptor fd;
    std::int64_t since_ns = 0;
    std::array<char, sizeof(Request)> request{};
    std::size_t received = 0;
    std::string answer;
    std::size_t sent = 0;
  };
  void start(Other& other, Question question);
  /// The question has failed: the next one goes another way.
  void give_up(Other& other);
  void move_on(Other& other, short events);
  bool move_on(Asked& asked);
  /// False when there is somebody whom it cannot take.
  bool accept_all();

  FileDescriptor listener_;
  std::uint16_t port_ = 0;
  std::uint64_t token_ = 0;
  std::uint64_t self_ = 0;
  std::vector<Other> others_;
  std::vector<std::unique_ptr<Asked>> asked_;
  std::function<std::string()> answer_;
  bool ended_ = false;
};

}  // namespace lockstep
