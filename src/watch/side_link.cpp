#include "watch/side_link.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include "core/text.h"

namespace lockstep {
namespace {

constexpr std::uint64_t magic = 0x4c53574154434831;  // "LSWATCH1"
constexpr std::int64_t second = 1'000'000'000;
/// A live process answers at once. One that does not answer within this time is asked again later.
constexpr std::int64_t patience_ns = second;
constexpr std::size_t most_answer = std::size_t{64} << 20;

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

FileDescriptor tcp_socket() {
  return FileDescriptor(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

}  // namespace

SideLink::SideLink() {
  FileDescriptor fd = tcp_socket();
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t length = sizeof any;
  // A long queue: a process that is stopped takes nobody from it.
  if (!fd || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) != 0 ||
      ::listen(fd.get(), 4096) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&any), &length) != 0)
    return;
  port_ = ntohs(any.sin_port);
  listener_ = std::move(fd);
}

SideLink::~SideLink() = default;

std::string SideLink::endpoints() const {
  if (!listener_) return "";
  std::string outside, inside;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return "";
  for (const ifaddrs* at = list; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || at->ifa_addr->sa_family != AF_INET || (at->ifa_flags & IFF_UP) == 0)
      continue;
    char text[INET_ADDRSTRLEN] = "";
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(at->ifa_addr)->sin_addr, text, sizeof text);
    std::string& into = (at->ifa_flags & IFF_LOOPBACK) != 0 ? inside : outside;
    into += fmt::format("{}:{} ", text, port_);
  }
  ::freeifaddrs(list);
  return outside + inside;
}

std::vector<SideLink::Endpoint> SideLink::parse(const std::string& text) {
  std::vector<Endpoint> list;
  for (const std::string_view word : split(text, ' ')) {
    const std::size_t colon = word.rfind(':');
    if (colon == std::string_view::npos) continue;
    const auto port = parse_int64(word.substr(colon + 1));
    if (port && *port > 0 && *port < 65536)
      list.push_back({std::string(word.substr(0, colon)), static_cast<std::uint16_t>(*port)});
  }
  return list;
}

void SideLink::join(std::uint64_t token, std::uint64_t self, std::vector<Node> others,
                    std::function<std::string()> answer) {
  token_ = token;
  self_ = self;
  answer_ = std::move(answer);
  others_.clear();
  for (Node& node : others) {
    others_.emplace_back();
    others_.back().node = std::move(node);
  }
}

void SideLink::ask(std::size_t node) {
  if (!others_[node].asking.fd) start(others_[node], Question::status);
}

void SideLink::start(Other& other, Question question) {
  other.asking = {};
  other.asking.question = question;
  other.asking.since_ns = now_ns();
  const auto& processes = other.node.processes;
  if (processes.empty()) return;
  other.process %= processes.size();
  const std::vector<Endpoint>& ways = processes[other.process];
  if (other.endpoint >= ways.size()) {
    give_up(other);
    return;
  }
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(ways[other.endpoint].port);
  FileDescriptor fd = tcp_socket();
  if (!fd || ::inet_pton(AF_INET, ways[other.endpoint].address.c_str(), &to.sin_addr) != 1 ||
      (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0 && errno != EINPROGRESS)) {
    give_up(other);
    return;
  }
  other.asking.fd = std::move(fd);
}

void SideLink::give_up(Other& other) {
  other.asking = {};
  if (other.node.processes.empty()) return;
  if (++other.endpoint < other.node.processes[other.process].size()) return;
  other.endpoint = 0;
  other.process = (other.process + 1) % other.node.processes.size();
}

void SideLink::move_on(Other& other, short events) {
  Asking& a = other.asking;
  const std::int64_t now = now_ns();
  if (!a.connected && events != 0) {
    int error = 0;
    socklen_t length = sizeof error;
    if (::getsockopt(a.fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) {
      give_up(other);
      return;
    }
    a.connected = true;
    a.since_ns = now;
    other.heard.host_ns = now;
  }
  if (a.connected) {
    const Request request{magic, token_, other.node.id, static_cast<std::uint64_t>(a.question)};
    while (a.sent < sizeof request) {
      const ssize_t n = ::send(a.fd.get(), reinterpret_cast<const char*>(&request) + a.sent,
                               sizeof request - a.sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      a.sent += static_cast<std::size_t>(n);
    }
    char buffer[16384];
    for (;;) {
      const ssize_t n = ::recv(a.fd.get(), buffer, sizeof buffer, 0);
      if (n > 0 && a.received.size() < most_answer) {
        a.received.append(buffer, static_cast<std::size_t>(n));
        continue;
      }
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
      // The end, or an error. A whole answer begins with its length.
      std::uint64_t length = 0;
      if (n == 0 && a.received.size() >= sizeof length) {
        std::memcpy(&length, a.received.data(), sizeof length);
        if (length == a.received.size() - sizeof length) {
          other.heard.answer = a.received.substr(sizeof length);
          other.heard.at_ns = now;
          a = {};
          return;
        }
      }
      give_up(other);
      return;
    }
  }
  if (now - a.since_ns <= patience_ns) return;
  // A process that takes a connection and does not answer is stopped: its other addresses do not help, but
  // another process of the node may.
  if (a.connected) other.endpoint = other.node.processes[other.process].size();
  give_up(other);
}

bool SideLink::accept_all() {
  for (;;) {
    FileDescriptor fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (!fd) return errno == EAGAIN;
    if (asked_.size() >= 256) continue;
    asked_.push_back(std::make_unique<Asked>());
    asked_.back()->fd = std::move(fd);
    asked_.back()->since_ns = now_ns();
  }
}

bool SideLink::move_on(Asked& a) {
  if (now_ns() - a.since_ns > 5 * patience_ns) return false;
  while (a.received < a.request.size()) {
    const ssize_t n = ::recv(a.fd.get(), a.request.data() + a.received, a.request.size() - a.received, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (n <= 0) return false;
    a.received += static_cast<std::size_t>(n);
    if (a.received < a.request.size()) continue;
    Request request{};
    std::memcpy(&request, a.request.data(), sizeof request);
    if (request.magic != magic || !joined() || request.token != token_ || request.node != self_) return false;
    if (request.question == static_cast<std::uint64_t>(Question::end)) ended_ = true;
    const std::string told = answer_();
    const std::uint64_t length = told.size();
    a.answer.assign(reinterpret_cast<const char*>(&length), sizeof length);
    a.answer += told;
  }
  while (a.sent < a.answer.size()) {
    const ssize_t n = ::send(a.fd.get(), a.answer.data() + a.sent, a.answer.size() - a.sent, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (n <= 0) return false;
    a.sent += static_cast<std::size_t>(n);
  }
  return false;  // the whole answer is sent; closing the connection marks its end
}

void SideLink::pump(int milliseconds, int other_fd) {
  const std::int64_t until = now_ns() + std::int64_t{milliseconds} * 1'000'000;
  bool deaf = false;
  for (;;) {
    std::vector<pollfd> fds = {{other_fd, POLLIN, 0}, {listener_ && !deaf ? listener_.get() : -1, POLLIN, 0}};
    for (const auto& a : asked_)
      fds.push_back({a->fd.get(), static_cast<short>(a->answer.empty() ? POLLIN : POLLOUT), 0});
    const std::size_t first_other = fds.size();
    for (const Other& o : others_)
      fds.push_back({o.asking.fd ? o.asking.fd.get() : -1,
                     static_cast<short>(o.asking.connected ? POLLIN : POLLOUT), 0});
    const std::int64_t left = std::max<std::int64_t>(0, until - now_ns());
    const int wait = static_cast<int>((left + 999'999) / 1'000'000);
    if (::poll(fds.data(), fds.size(), wait) < 0 && errno != EINTR) {
      std::this_thread::sleep_for(std::chrono::milliseconds(wait));
      return;
    }
    for (std::size_t i = 0; i < others_.size(); ++i)
      if (others_[i].asking.fd) move_on(others_[i], fds[first_other + i].revents);
    std::erase_if(asked_, [this](const auto& a) { return !move_on(*a); });
    // Where it cannot take what has come (too many open files), it would be woken again at once.
    if (fds[1].revents != 0 && !accept_all()) deaf = true;
    if (fds[0].revents != 0 || now_ns() >= until) return;
  }
}

void SideLink::tell_end(int milliseconds) {
  if (!joined()) return;
  const std::int64_t until = now_ns() + std::int64_t{milliseconds} * 1'000'000;
  std::vector<std::int64_t> told_ns(others_.size());
  for (std::size_t i = 0; i < others_.size(); ++i) told_ns[i] = others_[i].heard.at_ns;
  const auto left = [&] {
    return std::any_of(others_.begin(), others_.end(), [&](const Other& o) {
      return o.heard.at_ns == told_ns[static_cast<std::size_t>(&o - others_.data())];
    });
  };
  for (Other& o : others_) start(o, Question::end);
  while (left() && now_ns() < until) {
    pump(20);
    for (std::size_t i = 0; i < others_.size(); ++i)
      if (!others_[i].asking.fd && others_[i].heard.at_ns == told_ns[i]) start(others_[i], Question::end);
  }
}

}  // namespace lockstep
