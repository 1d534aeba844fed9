#include "comm/mpi/pair_probe.h"

#include <algorithm>
#include <ctime>
#include <limits>
#include <set>

#include "core/clock.h"
#include "core/flight_recorder.h"
#include "device/lane_pool.h"

namespace lockstep {
namespace {

constexpr int tag_probe = 83;
constexpr int tag_turn = 84;  // from rank 0 to a pair: begin; from the pair to rank 0: what it measured

void complete(Communicator& comm, Request& request) {
  const FlightScope scope(comm.recorder(), Activity::message);
  unsigned spins = 0;
  while (!request.test()) {
    comm.poll();
    relax(spins);
  }
}

void send_now(Communicator& comm, std::span<const std::byte> data, int to, int tag) {
  complete(comm, *comm.send(data, to, tag));
}

void receive_now(Communicator& comm, std::span<std::byte> data, int from, int tag) {
  complete(comm, *comm.receive(data, from, tag));
}

/// The clock that people and files go by.
double wall_seconds() {
  timespec t{};
  clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

/// The shortest round trip between this rank and `other`, in seconds; both call it, `first` on one of them.
double shortest_round_trip(Communicator& comm, int other, bool first, std::span<std::byte> data,
                           int repeats) {
  double shortest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repeats; ++i) {
    const double begin = steady_seconds();
    if (first) {
      send_now(comm, data, other, tag_probe);
      receive_now(comm, data, other, tag_probe);
    } else {
      receive_now(comm, data, other, tag_probe);
      send_now(comm, data, other, tag_probe);
    }
    if (i > 0) shortest = std::min(shortest, steady_seconds() - begin);  // the first one warms up
  }
  return shortest;
}

PairProbe probe_pair(Communicator& comm, int a, int b, std::size_t long_bytes) {
  const bool first = comm.rank() == a;
  const int other = first ? b : a;
  std::vector<std::byte> small(8), large(long_bytes);
  PairProbe probe{a, b, 0, 0};
  probe.latency = shortest_round_trip(comm, other, first, small, 200) / 2;
  probe.bytes_per_second =
      2 * static_cast<double>(long_bytes) / shortest_round_trip(comm, other, first, large, 5);
  return probe;
}

template <class T>
std::span<std::byte> bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace

std::vector<std::pair<int, int>> pairs_to_probe(int ranks, int limit) {
  std::set<std::pair<int, int>> pairs;
  const auto n = static_cast<std::int64_t>(ranks);
  if (n * (n - 1) / 2 <= limit) {
    for (int a = 0; a < ranks; ++a)
      for (int b = a + 1; b < ranks; ++b) pairs.emplace(a, b);
    return {pairs.begin(), pairs.end()};
  }
  const auto add = [&](std::int64_t a, std::int64_t b) {
    if (a != b) pairs.emplace(static_cast<int>(std::min(a, b)), static_cast<int>(std::max(a, b)));
  };
  const std::int64_t ring = std::min<std::int64_t>(n, limit);
  for (std::int64_t i = 0; i < ring; ++i) add(i * n / ring, (i * n / ring + 1) % n);
  // Steps of n over the golden ratio spread evenly (Weyl's sequence); the distance grows as they go round.
  for (std::int64_t i = 0; static_cast<int>(pairs.size()) < limit && i < 4 * limit; ++i) {
    const auto a =
        static_cast<std::int64_t>(static_cast<double>(i) * 0.6180339887498949 * static_cast<double>(n)) % n;
    add(a, (a + 2 + i * (n - 3) / (4 * limit)) % n);
  }
  return {pairs.begin(), pairs.end()};
}

std::vector<PairProbe> probe_pairs(Communicator& comm, const std::vector<std::pair<int, int>>& pairs,
                                   std::size_t long_bytes) {
  std::vector<PairProbe> probes;
  for (const auto& [a, b] : pairs) {
    std::byte turn{};
    PairProbe probe;
    if (comm.rank() == 0)
      for (const int r : {a, b})
        if (r != 0) send_now(comm, bytes_of(turn), r, tag_turn);
    if (comm.rank() == a || comm.rank() == b) {
      if (comm.rank() != 0) receive_now(comm, bytes_of(turn), 0, tag_turn);
      probe = probe_pair(comm, a, b, long_bytes);
      if (comm.rank() == a && a != 0) send_now(comm, bytes_of(probe), 0, tag_turn);
    }
    if (comm.rank() != 0) continue;
    if (a != 0) receive_now(comm, bytes_of(probe), a, tag_turn);
    probes.push_back(probe);
  }
  return probes;
}

std::vector<ClockProbe> probe_clocks(Communicator& comm) {
  constexpr int repeats = 60;
  std::vector<ClockProbe> clocks(static_cast<std::size_t>(comm.rank() == 0 ? comm.size() : 0));
  std::byte turn{};
  double there = 0;
  if (comm.rank() != 0) {
    receive_now(comm, bytes_of(turn), 0, tag_turn);
    for (int i = 0; i < repeats; ++i) {
      receive_now(comm, bytes_of(turn), 0, tag_probe);
      there = wall_seconds();
      send_now(comm, bytes_of(there), 0, tag_probe);
    }
    return clocks;
  }
  for (int r = 1; r < comm.size(); ++r) {
    ClockProbe& best = clocks[static_cast<std::size_t>(r)];
    best.uncertainty = std::numeric_limits<double>::infinity();
    send_now(comm, bytes_of(turn), r, tag_turn);
    for (int i = 0; i < repeats; ++i) {
      const double sent = wall_seconds();
      const double steady = steady_seconds();
      send_now(comm, bytes_of(turn), r, tag_probe);
      receive_now(comm, bytes_of(there), r, tag_probe);
      // Half of the trip, by a clock that nobody sets.
      const double half = (steady_seconds() - steady) / 2;
      if (half < best.uncertainty) best = {there - sent - half, half};
    }
  }
  return clocks;
}

}  // namespace lockstep
