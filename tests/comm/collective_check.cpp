#include "comm/collective_check.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fmt/format.h>
#include <numeric>
#include <thread>

#include "comm/sync/step_control.h"
#include "core/error.h"
#include "core/numerics/philox.h"

namespace lockstep::test {
namespace {

template <class T>
std::span<std::byte> bytes(std::vector<T>& v) {
  return std::as_writable_bytes(std::span(v));
}

void wait(Communicator& comm, auto& request) {
  while (!request.test()) comm.poll();
}

std::string wrong_broadcast(Communicator& comm) {
  for (int root = 0; root < comm.size(); ++root) {
    std::vector<int> data(1000, comm.rank());
    comm.broadcast(bytes(data), root);
    for (const int v : data) {
      if (v != root) return fmt::format("broadcast from {} brought {}", root, v);
    }
    comm.broadcast({}, root);
    const std::string text =
        comm.broadcast_text(comm.rank() == root ? "from " + std::to_string(root) : "?", root);
    if (text != "from " + std::to_string(root)) return "broadcast_text brought " + text;
    // As long as a layer's weights, from ranks that come late by turns.
    std::vector<std::byte> weights(std::size_t{3} << 19, static_cast<std::byte>(comm.rank()));
    if (comm.rank() == root) std::this_thread::sleep_for(std::chrono::microseconds(300));
    comm.broadcast(weights, root);
    for (const std::byte b : weights)
      if (b != static_cast<std::byte>(root)) return "a long broadcast brought other bytes";
  }
  return {};
}

std::string wrong_all_gather(Communicator& comm) {
  std::vector<std::int64_t> mine(7, comm.rank() * 10);
  std::vector<std::int64_t> all(7 * static_cast<std::size_t>(comm.size()));
  comm.all_gather(bytes(mine), bytes(all));
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i] != static_cast<std::int64_t>(i / 7) * 10) return "all_gather put a part in the wrong place";
  }
  // Of any length, one upon the other, while ranks are late by turns.
  for (const std::size_t length : {0, 1, 8, 129, 5000, 32768, 32769, 3, 70000, 300000, 0, 32767}) {
    std::vector<std::byte> part(length, static_cast<std::byte>(comm.rank() + 1));
    std::vector<std::byte> parts(length * static_cast<std::size_t>(comm.size()));
    if (static_cast<std::size_t>(comm.rank()) == length % static_cast<std::size_t>(comm.size()))
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    comm.all_gather(part, parts);
    std::fill(part.begin(), part.end(), std::byte{99});  // is the caller's again
    for (std::size_t i = 0; i < parts.size(); ++i)
      if (parts[i] != static_cast<std::byte>(i / length + 1)) return "all_gather lost or mixed parts";
  }
  for (std::int64_t round = 0; round < 500; ++round) {
    const std::int64_t word = round * 1000 + comm.rank();
    std::vector<std::int64_t> words(static_cast<std::size_t>(comm.size()));
    comm.all_gather(std::as_bytes(std::span(&word, 1)), bytes(words));
    for (std::size_t r = 0; r < words.size(); ++r)
      if (words[r] != round * 1000 + static_cast<std::int64_t>(r)) return "all_gather mixed two rounds";
  }
  // Texts of lengths 0, 1, 4, 9, … with a zero byte inside.
  const auto text_of = [](int r) {
    std::string text(static_cast<std::size_t>(r * r), static_cast<char>('a' + r));
    if (r > 1) text[1] = '\0';
    return text;
  };
  const std::vector<std::string> texts = comm.all_gather_text(text_of(comm.rank()));
  for (int r = 0; r < comm.size(); ++r) {
    if (texts[static_cast<std::size_t>(r)] != text_of(r)) return "all_gather_text lost a text";
  }
  return {};
}

std::string wrong_sum(Communicator& comm) {
  // Small integers: exact in any order. Two sums under way at once.
  std::vector<float> a(5000);
  std::vector<float> b(3, 1.0f);
  for (std::size_t i = 0; i < a.size(); ++i)
    a[i] = static_cast<float>(i % 100 * static_cast<std::size_t>(comm.rank() + 1));
  auto first = comm.start_all_reduce_sum(a);
  auto second = comm.start_all_reduce_sum(b);
  wait(comm, *second);
  wait(comm, *first);
  const int n = comm.size();
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] != static_cast<float>(i % 100) * static_cast<float>(n * (n + 1) / 2))
      return "all_reduce_sum is wrong";
  }
  if (b[2] != static_cast<float>(n)) return "the second all_reduce_sum is wrong";
  auto empty = comm.start_all_reduce_sum({});
  wait(comm, *empty);
  return {};
}

std::string wrong_messages(Communicator& comm) {
  const int to = (comm.rank() + 1) % comm.size();
  const int from = (comm.rank() + comm.size() - 1) % comm.size();
  // Small ones go eagerly, large ones by rendezvous; with one tag they arrive in order; to oneself as well.
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{300000}}) {
    std::vector<int> out1(n, comm.rank());
    std::vector<int> out2(n, comm.rank() + 100);
    std::vector<int> in1(n, -1);
    std::vector<int> in2(n, -1);
    auto r1 = comm.receive(bytes(in1), from, 5);
    auto s1 = comm.send(bytes(out1), to, 5);
    auto s2 = comm.send(bytes(out2), to, 5);
    auto r2 = comm.receive(bytes(in2), from, 5);
    for (Request* r : {r2.get(), r1.get(), s1.get(), s2.get()}) wait(comm, *r);
    for (std::size_t i = 0; i < n; ++i) {
      if (in1[i] != from || in2[i] != from + 100) return "a message is wrong or out of order";
    }
  }
  std::vector<int> out(1000);
  std::vector<int> in(1000);
  const auto send = comm.make_send(bytes(out), to, 32767);
  const auto receive = comm.make_receive(bytes(in), from, 32767);
  if (!send->test() || !receive->test()) return "a message that was never started is under way";
  for (int round = 0; round < 20; ++round) {
    std::iota(out.begin(), out.end(), comm.rank() * 1000 + round);
    receive->start();
    send->start();
    wait(comm, *send);
    wait(comm, *receive);
    for (int i = 0; i < 1000; ++i) {
      if (in[static_cast<std::size_t>(i)] != from * 1000 + round + i) return "a persistent message is wrong";
    }
  }
  return {};
}

std::string wrong_region(Communicator& comm) {
  const Topology& t = comm.topology();
  for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, std::size_t{1000003}}) {
    const auto region = comm.allocate_shared(size);
    if (region->bytes() != size) return "a region has the wrong size";
    std::byte* mine = region->base(t.rank);
    if (reinterpret_cast<std::uintptr_t>(mine) % 4096 != 0) return "a region is not aligned";
    for (std::size_t i = 0; i < size; ++i) {
      if (mine[i] != std::byte{0}) return "a region is not zeroed";
    }
    comm.barrier();
    for (std::size_t i = 0; i < size; ++i) mine[i] = static_cast<std::byte>(t.rank + 1);
    comm.barrier();
    for (int r = 0; r < t.size; ++r) {
      const std::byte* theirs = region->base(r);
      if ((theirs != nullptr) != (t.group_of[static_cast<std::size_t>(r)] == t.group()))
        return "a region is seen by the wrong ranks";
      if (theirs == nullptr) continue;
      for (std::size_t i = 0; i < size; ++i) {
        if (theirs[i] != static_cast<std::byte>(r + 1)) return "a region does not show what its owner wrote";
      }
    }
    comm.barrier();
  }
  return {};
}

/// agree_on_error() with a failure on every rank in `failing`.
std::string wrong_agreement(Communicator& comm, const std::vector<int>& failing) {
  const bool fails = std::find(failing.begin(), failing.end(), comm.rank()) != failing.end();
  const bool lowest = !failing.empty() && failing.front() == comm.rank();
  const auto code_of = [](int r) { return r == 0 ? ExitCode::input : ExitCode::diverged; };
  try {
    agree_on_error(comm, [&] {
      if (fails) throw Error(code_of(comm.rank()), "this is rank " + std::to_string(comm.rank()));
    });
  } catch (const SilentError& e) {
    if (failing.empty() || lowest) return "the lowest rank that failed was silenced";
    return e.code() == code_of(failing.front()) ? "" : "the code is not that of the lowest rank that failed";
  } catch (const Error& e) {
    if (!lowest) return "more than one rank reports";
    return e.what() == "this is rank " + std::to_string(comm.rank()) ? "" : "the original error was lost";
  }
  return failing.empty() ? "" : "a failure was not reported";
}

}  // namespace

std::string check_collectives(Communicator& comm) {
  comm.barrier();
  std::string wrong;
  for (const auto check : {wrong_broadcast, wrong_all_gather, wrong_sum, wrong_messages, wrong_region}) {
    const std::string text = check(comm);
    if (wrong.empty()) wrong = text;
  }
  comm.barrier();
  return wrong;
}

std::string check_agree_on_error(Communicator& comm) {
  std::string wrong = wrong_agreement(comm, {});
  for (int r = 0; r < comm.size(); ++r) {
    const std::string text = wrong_agreement(comm, {r});
    if (wrong.empty()) wrong = text;
  }
  if (comm.size() > 1 && wrong.empty()) wrong = wrong_agreement(comm, {0, comm.size() - 1});
  return wrong;
}

std::string check_step_control(Communicator& comm) {
  // Most words are 0, as in a run; every bit is somebody's at some step.
  const auto word_of = [](int rank, std::uint64_t step) -> std::uint64_t {
    const std::uint32_t draw =
        random_block(random_key(7, Purpose::synthetic, step, static_cast<std::uint32_t>(rank)), 0, 0).v[0];
    return draw % 5 == 0 ? std::uint64_t{1} << (draw / 5 % 64) : 0;
  };
  StepControl control(comm);
  const auto lag = static_cast<std::uint64_t>(control.lag());
  for (std::uint64_t step = 1; step <= 400; ++step) {
    if (step % 16 == 0 && static_cast<int>(step / 16) % comm.size() == comm.rank())
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    control.post(word_of(comm.rank(), step));
    if (step % 10 == 0 && static_cast<int>(step / 10) % comm.size() == comm.rank())
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    std::uint64_t want = 0;
    for (int r = 0; r < comm.size() && step > lag; ++r) want |= word_of(r, step - lag);
    if (const std::uint64_t got = control.collect(); got != want)
      return fmt::format("step {}: the union of the words is {:x} instead of {:x}", step, got, want);
  }
  return {};
}

}  // namespace lockstep::test
