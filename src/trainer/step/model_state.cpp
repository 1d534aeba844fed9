#include "trainer/step/model_state.h"

#include <algorithm>

#include "core/error.h"
#include "core/flight_recorder.h"
#include "core/wire.h"
#include "device/lane_pool.h"
#include "model/plan/init.h"
#include "trainer/step/flat_position.h"

namespace lockstep {
namespace {

constexpr int state_tag = 71;

std::string state_tensor_name(const std::string& state, const FlatSegment& segment) {
  return "optimizer." + state + "." + segment.name;
}

void complete(Communicator& comm, Request& request) {
  const FlightScope scope(comm.recorder(), Activity::message);
  unsigned spins = 0;
  while (!request.test()) relax(spins);
}

}  // namespace

std::vector<TensorView> views_of(const std::vector<PlainTensor>& tensors) {
  std::vector<TensorView> views;
  views.reserve(tensors.size());
  for (const PlainTensor& tensor : tensors) views.push_back(view_of(tensor.name, tensor.shape, tensor.data));
  return views;
}

std::vector<PlainTensor> export_model(const Executor& executor, std::span<const float> parameters) {
  std::vector<PlainTensor> tensors;
  for (const FlatSegment& segment : executor.layout().segments) {
    PlainTensor tensor{segment.name, segment.shape,
                       std::vector<float>(static_cast<std::size_t>(segment.shape.elements()))};
    executor.export_plain(segment, stored_in(segment, parameters), tensor.data);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

std::vector<std::vector<Range>> gather_shards(Communicator& comm, const Optimizer& optimizer) {
  WireWriter mine;
  mine.begin_list(optimizer.shard().size());
  for (const Range& range : optimizer.shard()) mine.add(range.begin).add(range.end);
  std::vector<std::vector<Range>> shards;
  for (const std::string& text : comm.all_gather_text(mine.text())) {
    WireReader in(text);
    std::vector<Range>& shard = shards.emplace_back(in.get_list());
    for (Range& range : shard) {
      range.begin = in.get<std::int64_t>();
      range.end = in.get<std::int64_t>();
    }
    in.finish();
  }
  return shards;
}

std::vector<PlainTensor> gather_optimizer_state(Communicator& comm, const Executor& executor,
                                                const Optimizer& optimizer) {
  const std::vector<std::vector<Range>> shards = gather_shards(comm, optimizer);
  const FlatLayout& layout = executor.layout();
  std::vector<PlainTensor> tensors;
  for (std::size_t slot = 0; slot < optimizer.state_names().size(); ++slot) {
    if (comm.rank() != 0) {
      // A replica that holds the same ranges as rank 0 (not sharded) has nothing to add.
      if (shards[static_cast<std::size_t>(comm.rank())] == shards[0]) continue;
      for (const Range& range : optimizer.shard())
        complete(comm, *comm.send(std::as_bytes(optimizer.state(slot, range)), 0, state_tag));
      continue;
    }
    std::vector<float> flat(static_cast<std::size_t>(layout.elements));
    auto part = [&](Range range) {
      return std::span(flat).subspan(static_cast<std::size_t>(range.begin),
                                     static_cast<std::size_t>(range.size()));
    };
    for (const Range& range : optimizer.shard()) {
      const auto own = optimizer.state(slot, range);
      std::copy(own.begin(), own.end(), part(range).begin());
    }
    for (int r = 1; r < comm.size(); ++r) {
      if (shards[static_cast<std::size_t>(r)] == shards[0]) continue;
      for (const Range& range : shards[static_cast<std::size_t>(r)])
        complete(comm, *comm.receive(std::as_writable_bytes(part(range)), r, state_tag));
    }
    for (const FlatSegment& segment : layout.segments) {
      if (!segment.is_trained()) continue;
      PlainTensor tensor{state_tensor_name(optimizer.state_names()[slot], segment), segment.shape,
                         std::vector<float>(static_cast<std::size_t>(segment.shape.elements()))};
      executor.export_plain(segment, stored_in(segment, std::span<const float>(flat)), tensor.data);
      tensors.push_back(std::move(tensor));
    }
  }
  return tensors;
}

void load_model(Communicator& comm, const Executor& executor, const TensorReader& read,
                std::span<float> parameters) {
  std::vector<std::vector<float>> plain;
  for (const FlatSegment& segment : executor.layout().segments)
    plain.emplace_back(static_cast<std::size_t>(segment.shape.elements()));
  const auto& segments = executor.layout().segments;
  agree_on_error(comm, [&] {
    if (comm.rank() != 0) return;
    for (std::size_t i = 0; i < segments.size(); ++i) read(segments[i].name, segments[i].shape, plain[i]);
  });
  for (std::size_t i = 0; i < segments.size(); ++i) {
    comm.broadcast(std::as_writable_bytes(std::span(plain[i])), 0);
    executor.import_plain(segments[i], plain[i], stored_in(segments[i], parameters));
  }
}

void load_optimizer_state(Communicator& comm, const Executor& executor, const TensorReader& read,
                          Optimizer& optimizer) {
  const FlatLayout& layout = executor.layout();
  for (std::size_t slot = 0; slot < optimizer.state_names().size(); ++slot) {
    std::vector<float> flat(static_cast<std::size_t>(layout.elements));
    for (const FlatSegment& segment : layout.segments) {
      if (!segment.is_trained()) continue;
      std::vector<float> plain(static_cast<std::size_t>(segment.shape.elements()));
      agree_on_error(comm, [&] {
        if (comm.rank() == 0)
          read(state_tensor_name(optimizer.state_names()[slot], segment), segment.shape, plain);
      });
      comm.broadcast(std::as_writable_bytes(std::span(plain)), 0);
      executor.import_plain(segment, plain, stored_in(segment, std::span(flat)));
    }
    for (const Range& range : optimizer.shard()) {
      const auto own = optimizer.state(slot, range);
      std::copy_n(flat.begin() + range.begin, range.size(), own.begin());
    }
  }
}

void initialise_model(const Graph& graph, const Executor& executor, std::uint64_t seed,
                      std::span<float> parameters) {
  for (const FlatSegment& segment : executor.layout().segments) {
    std::vector<float> plain(static_cast<std::size_t>(segment.shape.elements()));
    if (segment.kind == FlatSegment::Kind::parameter)
      initialise_plain(graph, static_cast<std::size_t>(segment.index), seed, plain);
    else
      std::fill(plain.begin(), plain.end(),
                graph.statistics[static_cast<std::size_t>(segment.index)].initial);
    executor.import_plain(segment, plain, stored_in(segment, parameters));
  }
}

}  // namespace lockstep
